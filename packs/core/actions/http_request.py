"""One HTTP request. Only the standard library, so that nothing has to be installed."""

import json
import sys
import time
import urllib.error
import urllib.request

BODY_MAX = 8 << 20  # bytes


def request(parameters):
    headers = dict(parameters["headers"])
    data = None
    if "json" in parameters:
        data = json.dumps(parameters["json"]).encode()
        headers.setdefault("Content-Type", "application/json")
    elif "body" in parameters:
        data = parameters["body"].encode()
    if parameters.get("token"):
        headers["Authorization"] = "Bearer " + parameters["token"]
    return urllib.request.Request(parameters["url"], data=data, headers=headers, method=parameters["method"])


def body_of(response):
    raw = response.read(BODY_MAX + 1)
    if len(raw) > BODY_MAX:
        sys.exit(f"the response is larger than {BODY_MAX} bytes")
    text = raw.decode(response.headers.get_content_charset() or "utf-8", errors="replace")
    if response.headers.get_content_type().endswith("json"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # what calls itself JSON and is none stays text
    return text


def main():
    parameters = json.load(sys.stdin)
    if "json" in parameters and "body" in parameters:
        sys.exit("give json or body, not both")
    begun = time.monotonic()
    try:
        response = urllib.request.urlopen(request(parameters), timeout=parameters["timeout"])
    except urllib.error.HTTPError as error:
        response = error  # an answer like any other
    except (urllib.error.URLError, OSError) as error:
        sys.exit(f"{parameters['method']} {parameters['url']}: {getattr(error, 'reason', error)}")
    with response:
        result = {
            "status": response.status,
            "reason": response.reason or "",
            "headers": {name.lower(): value for name, value in response.headers.items()},
            "body": body_of(response),
            "duration_ms": round((time.monotonic() - begun) * 1000, 3),
        }
    print(json.dumps(result))
    expected = parameters["expect_status"]
    if result["status"] not in expected if expected else result["status"] >= 400:
        sys.exit(f"the server answered {result['status']} {result['reason']}")


main()
