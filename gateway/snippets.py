"""Code that asks a deployment for a prediction, in the caller's language."""

from __future__ import annotations

import json
from typing import Any

PYTHON = """import json, urllib.request

rows = [{row}]
request = urllib.request.Request(
    "{url}/v1/deployments/{deployment}/predictions",
    data=json.dumps({{"rows": rows}}).encode(),
    headers={{"Content-Type": "application/json"}},  # and "Authorization": "Bearer KEY" where keys exist
)
print(json.load(urllib.request.urlopen(request))["predictions"])"""

CURL = """curl -s '{url}/v1/deployments/{deployment}/predictions' \\
  -H 'Content-Type: application/json' \\
  -d '{{"rows": [{row}]}}'"""

JAVASCRIPT = """const answer = await fetch("{url}/v1/deployments/{deployment}/predictions", {{
  method: "POST",
  headers: {{"Content-Type": "application/json"}},
  body: JSON.stringify({{rows: [{row}]}}),
}});
console.log((await answer.json()).predictions);"""


def snippet_of(url: str, deployment: str, inputs: list[dict[str, Any]], lang: str) -> str:
    """A program with an example row of the model's inputs."""
    row = {i["name"]: "text" if i["kind"] == "categorical" else True if i["kind"] == "boolean" else 1.0 for i in inputs}
    template = {"python": PYTHON, "curl": CURL, "javascript": JAVASCRIPT}[lang]
    text = json.dumps(row)
    return template.format(url=url, deployment=deployment, row=text.replace("true", "True") if lang == "python" else text)
