import json
import sys

# Parameters come as one JSON document on stdin.
parameters = json.load(sys.stdin)
print(json.dumps({"greeting": f"Hello, {parameters['name']}!"}))
