"""Channels, alert rules, alerts, retraining policies and their runs."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import page, propose, wait_after
from gateway.keys import ARTIFACTS, EVENT_LOG, FOLLOWER, REGISTRY, SERVING
from stream import alerts, policies
from stream.backtest import backtest
from stream.clock import iso, now_us
from stream.events import AlertRaised, AlertRuleRemoved, AlertRuleSet, ChampionChanged, ChannelRemoved, ChannelSet, PolicyRemoved, PolicyRunFinished, PolicyRunStarted, PolicySet, ProjectFailed, new_id
from stream.measures import measured, seconds_of
from stream.notifications import read_channel
from stream.projections.catalog import RUNNING
from stream.projections.watch import Run, Watch
from stream.queries import BUCKETS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,63}")


def watch_of(request: web.Request) -> Watch:
    """The folded state."""
    return request.app[FOLLOWER].catalog.watch


def deployment_of(request: web.Request) -> str:
    """The deployment of the path; 404 where there is none."""
    return request.app[FOLLOWER].catalog.deployment(request.match_info["d"]).name


def name_of(request: web.Request) -> str:
    """The name in the path, if it is one."""
    name = request.match_info["name"]
    if not NAME.fullmatch(name):
        raise ApiError(422, "wrong_name", "a name has 1 to 64 letters, digits, spaces, dots, dashes or underscores")
    return name


async def channels(request: web.Request) -> web.Response:
    """All channels, without their secrets."""
    await wait_after(request)
    return json_response(page(request, [{"name": c.name, "kind": c.kind, **c.options} for c in watch_of(request).channels.values()]))


async def put_channel(request: web.Request) -> web.Response:
    """Set a channel: {"kind": "webhook"|"slack"|"teams", "url", "secret"?} or {"kind": "email", "host", "port", "from", "to"}; "digest": "1h" gathers."""
    found, secrets = read_channel(name_of(request), await object_body(request, "kind"))
    if secrets:
        await asyncio.to_thread(request.app[ARTIFACTS].write, f"secrets/{found.name}.json", orjson.dumps(secrets))
    fact = ChannelSet(found.name, found.kind, {**found.options, "signed": "secret" in secrets})
    _, position = await propose(request, fact)
    return json_response({"name": found.name, "kind": found.kind, **fact.options, "position": position})


async def delete_channel(request: web.Request) -> web.Response:
    """Take a channel away."""
    _, position = await propose(request, ChannelRemoved(name_of(request)))
    return json_response({"name": request.match_info["name"], "position": position})


async def alert_rules(request: web.Request) -> web.Response:
    """A deployment's alert rules with their state."""
    await wait_after(request)
    name, watch = deployment_of(request), watch_of(request)
    items = []
    for (deployment, rule), data in watch.rules.items():
        if deployment == name:
            firing = watch.firing.get((deployment, rule))
            items.append({"name": rule, **data, "firing": firing is not None, "since": iso(firing.since) if firing else None, "raised": watch.raised.get((deployment, rule), 0)})
    return json_response(page(request, items))


async def put_rule(request: web.Request) -> web.Response:
    """Set an alert rule: measure, above or below, window, clear, cool_down, severity, channels, silenced_until, silent_hours."""
    name, rule = deployment_of(request), alerts.read_rule(await object_body(request, "measure"))
    unknown = [c for c in rule["channels"] if c not in watch_of(request).channels]
    if unknown:
        raise ApiError(422, "unknown_channel", f"there is no channel {unknown[0]!r}")
    _, position = await propose(request, AlertRuleSet(name_of(request), rule), name)
    return json_response({"name": request.match_info["name"], **rule, "position": position})


async def delete_rule(request: web.Request) -> web.Response:
    """Take an alert rule away."""
    _, position = await propose(request, AlertRuleRemoved(name_of(request)), deployment_of(request))
    return json_response({"name": request.match_info["name"], "position": position})


async def silence_rule(request: web.Request) -> web.Response:
    """Raise a rule's alerts in silence for a while: {"for": "8h"} or {"until": time}; {"for": "0s"} ends it."""
    name, rule_name, data = deployment_of(request), name_of(request), await object_body(request)
    rule = watch_of(request).rules.get((name, rule_name))
    if rule is None:
        raise ApiError(404, "unknown_rule", f"there is no alert rule {rule_name!r}")
    if ("for" in data) == ("until" in data):
        raise ApiError(422, "wrong_rule", 'silence has one of "for" (a span such as 8h) and "until" (a time)')
    until = data["until"] if "until" in data else now_us() + span_of(data["for"]) * 1_000_000
    silenced = alerts.read_rule({**rule, "silenced_until": until})
    _, position = await propose(request, AlertRuleSet(rule_name, silenced), name)
    return json_response({"name": rule_name, "silenced_until": iso(silenced["silenced_until"]), "position": position})


def span_of(text: Any) -> int:
    """Seconds of a span; none for 0."""
    return 0 if str(text) in {"0", "0s"} else seconds_of(text)


async def test_rule(request: web.Request) -> web.Response:
    """Send a test alert to the rule's channels, with the number as it is now."""
    name, rule_name = deployment_of(request), name_of(request)
    rule = watch_of(request).rules.get((name, rule_name))
    if rule is None:
        raise ApiError(404, "unknown_rule", f"there is no alert rule {rule_name!r}")
    app = request.app
    found = await asyncio.to_thread(measured, app[EVENT_LOG], app[REGISTRY], app[FOLLOWER].catalog, name, rule, now_us())
    fact = AlertRaised(rule_name, rule["severity"], rule["measure"], float(found.value or 0.0), alerts.bound_of(rule), found.window, found.sql, test=True)
    event, position = await propose(request, fact, name)
    return json_response({"alert_id": event.event_id, "value": found.value, "position": position}, 202)


async def backtest_rule(request: web.Request) -> web.Response:
    """When a rule would have been raised on the stored history: {"rule": {…}, "step"?: "1d"}."""
    await wait_after(request)
    data = await object_body(request, "rule")
    rule, step = alerts.read_rule(data["rule"]), str(data.get("step", "1d"))
    if step not in BUCKETS:
        raise ApiError(422, "wrong_bucket", f"step is one of {', '.join(BUCKETS)}")
    app, name = request.app, deployment_of(request)
    return json_response(await asyncio.to_thread(backtest, app[EVENT_LOG], app[REGISTRY], app[FOLLOWER].catalog, name, rule, BUCKETS[step]))


async def firing(request: web.Request) -> web.Response:
    """Alerts that are not cleared, of all deployments."""
    await wait_after(request)
    found = sorted(watch_of(request).firing.items(), key=lambda pair: -pair[1].since)
    items = [
        {"deployment": d, "rule": r, "since": iso(f.since), "alert_id": f.event_id, "severity": f.fact.severity, "measure": f.fact.measure, "value": f.fact.value, "bound": f.fact.bound, "window": f.fact.window, "sql": f.fact.sql}
        for (d, r), f in found
    ]
    return json_response(page(request, items))


def run_json(run: Run) -> dict[str, Any]:
    """A run as its readers know it."""
    return {
        "run_id": run.run_id,
        "policy": run.policy,
        "started_at": iso(run.started_at),
        "evidence": run.evidence,
        "outcome": run.outcome or ("waits for a person" if run.awaits else "under way"),
        "sentence": run.sentence or run.proposal,
        "result": run.result,
        "finished_at": iso(run.finished_at) if run.finished_at else None,
    }


async def many(request: web.Request) -> web.Response:
    """A deployment's policies, each with its runs, newest first."""
    await wait_after(request)
    name, watch = deployment_of(request), watch_of(request)
    items = [{"name": p, **data, "set_at": iso(data["set_at"]), "runs": [run_json(r) for r in watch.runs_of(name, p)]} for (d, p), data in watch.policies.items() if d == name]
    return json_response(page(request, items))


async def put_policy(request: web.Request) -> web.Response:
    """Set a retraining policy: trigger, data, model_selection, action, gate, minimum_interval."""
    name, policy = deployment_of(request), policies.read_policy(await object_body(request))
    _, position = await propose(request, PolicySet(name_of(request), policy), name)
    return json_response({"name": request.match_info["name"], **policy, "position": position})


async def delete_policy(request: web.Request) -> web.Response:
    """Take a policy away; a run of it that is under way is cancelled."""
    _, position = await propose(request, PolicyRemoved(name_of(request)), deployment_of(request))
    return json_response({"name": request.match_info["name"], "position": position})


async def decide_run(request: web.Request) -> web.Response:
    """A person's word on a run that waits for it: {"decision": "promote"|"refuse", "reason"}."""
    data = await object_body(request, "decision", "reason")
    name, run = deployment_of(request), run_of(request)
    who, reason = request.get("actor", "") or "a person", str(data["reason"])
    if not run.awaits or run.outcome:
        raise ApiError(409, "not_waiting", f"run {run.run_id!r} does not wait for a person")
    if data["decision"] == "promote":
        deployment = request.app[FOLLOWER].catalog.deployment(name)
        _, position = await propose(request, ChampionChanged(run.awaits, f"policy {run.policy}, approved by {who}: {reason}. {run.proposal}", deployment.now.version), name)
        await request.app[SERVING].loaded(name, deployment.now.version)
    elif data["decision"] == "refuse":
        sentence = f"model {run.awaits[:12]} was refused by {who}: {reason}"
        _, position = await propose(request, PolicyRunFinished(run.run_id, "refused", sentence, run.result), name)
    else:
        raise ApiError(422, "wrong_decision", "decision is promote or refuse")
    return json_response({"run_id": run.run_id, "decision": data["decision"], "position": position})


async def cancel_run(request: web.Request) -> web.Response:
    """Break a run off; what it trains is stopped."""
    name, run = deployment_of(request), run_of(request)
    sentence = f"cancelled by {request.get('actor', '') or 'a person'}"
    _, position = await propose(request, PolicyRunFinished(run.run_id, "cancelled", sentence, run.result), name)
    project = request.app[FOLLOWER].catalog.projects.get(run.run_id)
    if project is not None and project.state in RUNNING:
        await propose(request, ProjectFailed(run.run_id, "cancelled", sentence), name)
    return json_response({"run_id": run.run_id, "outcome": "cancelled", "position": position})


def run_of(request: web.Request) -> Run:
    """The run of the path; 404 where there is none."""
    run = watch_of(request).runs.get(request.match_info["run"])
    if run is None or (run.deployment, run.policy) != (deployment_of(request), name_of(request)):
        raise ApiError(404, "unknown_run", f"there is no run {request.match_info['run']!r} of this policy")
    return run


async def run_policy(request: web.Request) -> web.Response:
    """Begin a run now; 409 where one is under way."""
    name, policy = deployment_of(request), name_of(request)
    run_id = new_id()[:12]
    _, position = await propose(request, PolicyRunStarted(run_id, policy, {"trigger": "manual", "by": request.get("actor", "")}), name)
    return json_response({"run_id": run_id, "position": position}, 202)
