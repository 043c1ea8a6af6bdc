"""Code that asks a deployment for a prediction, or tells it of one, in the caller's language."""

from __future__ import annotations

import json
from typing import Any

from models.members import EXTERNAL

PYTHON = """import json, urllib.request

request = urllib.request.Request(
    "{url}",
    data=json.dumps({body}).encode(),
    headers={{"Content-Type": "application/json"}},  # and "Authorization": "Bearer KEY" where keys exist
)
print(json.load(urllib.request.urlopen(request))["predictions"])"""

CURL = """curl -s '{url}' \\
  -H 'Content-Type: application/json' \\
  -d '{body}'"""

JAVASCRIPT = """const answer = await fetch("{url}", {{
  method: "POST",
  headers: {{"Content-Type": "application/json"}},
  body: JSON.stringify({body}),
}});
console.log((await answer.json()).predictions);"""


def snippet_of(url: str, deployment: str, model: dict[str, Any], lang: str) -> str:
    """A program with an example row for a champion, which is told as `GET /v1/models/{m}` tells it: `inputs`, `target`, `family`."""
    row = {i["name"]: "text" if i["kind"] == "categorical" else True if i["kind"] == "boolean" else 1.0 for i in model["inputs"]}
    body: dict[str, Any] = {"rows": [row]}
    path = f"{url}/v1/deployments/{deployment}/predictions"
    if model["family"] == EXTERNAL:
        classes = model["target"]["classes"]
        body["predictions"] = [1.0 if not classes else {label: 1 / len(classes) for label in classes}]
        path += "/external"
    template = {"python": PYTHON, "curl": CURL, "javascript": JAVASCRIPT}[lang]
    return template.format(url=path, body=repr(body) if lang == "python" else json.dumps(body))
