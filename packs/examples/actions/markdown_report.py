import hashlib
import hmac
import json
import os
import pathlib
import sys

from markdown_it import MarkdownIt

parameters = json.load(sys.stdin)
config = json.loads(pathlib.Path(os.environ["ATTUNE_PACK_CONFIG"]).read_text())

parser = MarkdownIt()
tokens = parser.parse(parameters["markdown"])
headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
page = f"<title>{parameters['title']}</title>\n{parser.render(parameters['markdown'])}<footer>{config['team']}</footer>\n"

# Files in ATTUNE_ARTIFACTS_DIR are kept with --artifacts.
pathlib.Path(os.environ["ATTUNE_ARTIFACTS_DIR"], "report.html").write_text(page)

result = {"title": parameters["title"], "headings": headings, "bytes": len(page.encode())}
if parameters.get("signing_key"):
    result["signature"] = hmac.new(parameters["signing_key"].encode(), page.encode(), hashlib.sha256).hexdigest()
print(json.dumps(result))
