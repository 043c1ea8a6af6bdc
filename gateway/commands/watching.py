"""Commands about alerts, channels and retraining policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson

from gateway.commands.common import AS_JSON, client, show
from stream.clock import iso, now_us

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("name", required=False)
@click.option("--webhook", default="", help="Set a webhook with this URL.")
@click.option("--slack", default="", help="Set a Slack webhook with this URL.")
@click.option("--teams", default="", help="Set a Teams webhook with this URL.")
@click.option("--secret", default="", help="Sign the webhook's messages with this secret.")
@click.option("--remove", is_flag=True, help="Take the channel away.")
@AS_JSON
def channels(name: str | None, webhook: str, slack: str, teams: str, secret: str, remove: bool, as_json: bool) -> None:
    """Show where notifications go; set or remove a channel.

    Example: champion channels ops --slack https://hooks.example.com/T0/B0
    """
    api = client()
    url = webhook or slack or teams
    if name and remove:
        api.call("DELETE", f"/v1/channels/{name}")
    elif name and url:
        kind = "webhook" if webhook else "slack" if slack else "teams"
        api.call("PUT", f"/v1/channels/{name}", {"kind": kind, "url": url, "secret": secret})
    show(list(api.items("/v1/channels")), as_json)


@click.command()
@click.argument("deployment", required=False)
@click.option("--set", "name", default="", help="Set the rule of this name from --file.")
@click.option("--file", "file", type=FILE, default=None, help="A rule as JSON.")
@click.option("--backtest", type=FILE, default=None, help="Rehearse the rule of a JSON file on the stored history.")
@click.option("--test", "tested", default="", help="Send a test alert of this rule.")
@click.option("--silence", "silenced", default="", help="Tell nobody of this rule's alerts, --for so long.")
@click.option("--for", "span", default="8h", show_default=True, help="A span such as 8h or 2d; 0s ends a silence.")
@click.option("--remove", default="", help="Take this rule away.")
@AS_JSON
def alerts(deployment: str | None, name: str, file: Path | None, backtest: Path | None, tested: str, silenced: str, span: str, remove: str, as_json: bool) -> None:
    """Show alerts that are raised, or a deployment's rules; set, test, silence, rehearse or remove a rule.

    Example: champion alerts flights --set drifting --file rule.json
    """
    api = client()
    if deployment is None:
        show(list(api.items("/v1/alerts")), as_json, columns=["deployment", "rule", "severity", "measure", "value", "bound", "since"])
        return
    path = f"/v1/deployments/{deployment}/alert-rules"
    if backtest is not None:
        found = api.post(f"/v1/deployments/{deployment}/alert-backtests", {"rule": orjson.loads(backtest.read_bytes())})
        beside = found["accuracy"]
        more = "" if beside is None else f"; accuracy ({beside['metric']}) fell {beside['fell']} times, {beside['announced']} of them announced; raised for nothing {beside['raised_for_nothing']} times"
        show(found if as_json else found["changes"], as_json, title=f"raised {found['raised']} times at {len(found['points'])} points{more}")
        return
    if name and file is not None:
        api.call("PUT", f"{path}/{name}", orjson.loads(file.read_bytes()))
    elif tested:
        api.post(f"{path}/{tested}/test")
    elif silenced:
        api.post(f"{path}/{silenced}/silence", {"for": span})
    elif remove:
        api.call("DELETE", f"{path}/{remove}")
    found = list(api.items(path))
    show(found if as_json else [brief(rule) for rule in found], as_json)


def brief(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule as a line of a table."""
    word = "above" if "above" in rule else "below"
    silent = rule.get("silenced_until", 0)
    return {
        "rule": rule["name"],
        "watches": f"{rule['measure']} {word} {rule[word]:g} over {rule['window']}",
        "now": f"raised since {rule['since'][:16]}" if rule["firing"] else "quiet",
        "raised": rule["raised"],
        "tells": ", ".join(rule["channels"]) or "the portal",
        "silenced until": iso(silent)[:16] if silent > now_us() else "",
    }


@click.command()
@click.argument("deployment")
@click.option("--set", "name", default="", help="Set the policy of this name from --file.")
@click.option("--file", "file", type=FILE, default=None, help="A policy as JSON.")
@click.option("--run", "started", default="", help="Begin a run of this policy now.")
@click.option("--remove", default="", help="Take this policy away.")
@click.option("--promote", default="", help="Promote the model of this run, which waits for a person.")
@click.option("--refuse", default="", help="Refuse the model of this run.")
@click.option("--cancel", "cancelled", default="", help="Break this run off.")
@click.option("--reason", default="", help="Why, with --promote and --refuse.")
@AS_JSON
def policies(deployment: str, name: str, file: Path | None, started: str, remove: str, promote: str, refuse: str, cancelled: str, reason: str, as_json: bool) -> None:
    """Show retraining policies and their runs; set, run or remove one; decide a run that waits.

    Example: champion policies flights --set monthly --file policy.json
    """
    api, path = client(), f"/v1/deployments/{deployment}/policies"
    if name and file is not None:
        api.call("PUT", f"{path}/{name}", orjson.loads(file.read_bytes()))
    elif started:
        api.post(f"{path}/{started}/runs")
    elif remove:
        api.call("DELETE", f"{path}/{remove}")
    found = list(api.items(path))
    for run_id, decision in ((promote, "promote"), (refuse, "refuse"), (cancelled, "")):
        if run_id:
            policy = next((p["name"] for p in found for r in p["runs"] if r["run_id"] == run_id), "")
            at = f"{path}/{policy}/runs/{run_id}"
            api.post(at + "/decision", {"decision": decision, "reason": reason}) if decision else api.call("DELETE", at)
            found = list(api.items(path))
    if as_json:
        show(found, as_json)
        return
    show([{"policy": p["name"], "trigger": p["trigger"], "action": p["action"], "runs": len(p["runs"])} for p in found], as_json)
    runs = [{"run": r["run_id"], "policy": r["policy"], "started": r["started_at"][:19], "outcome": r["outcome"], "what": r["sentence"]} for p in found for r in p["runs"]]
    if runs:
        show(runs, as_json, title="runs")
