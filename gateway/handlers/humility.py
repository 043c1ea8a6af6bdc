"""Humility: rules, recommended ones, their hits, a rehearsal on the stored past; predictions referred to people."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import catalog_of, propose, stamped, wait_after, window_of
from gateway.handlers.settings import configure
from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY
from models.humility import Rule, read_rules, recommended
from models.package import ModelPackage
from stream.association import literal
from stream.clock import iso
from stream.events import ReferralAnswered
from stream.recount import package_of
from stream.rehearsal import rehearse


async def champion_of(request: web.Request) -> ModelPackage:
    """The champion's package."""
    deployment = request.app[FOLLOWER].catalog.deployment(request.match_info["d"])
    return await asyncio.to_thread(package_of, request.app[REGISTRY], deployment.now.champion)


async def checked_rules(request: web.Request, data: Any) -> tuple[Rule, ...]:
    """Rules that this deployment can follow; 422 otherwise."""
    package = await champion_of(request)
    if package.plan.external:
        raise ApiError(422, "scored_elsewhere", "the champion predicts elsewhere: its answer is given before a rule here could act")
    catalog, found = request.app[FOLLOWER].catalog, []
    for rule in read_rules(data, package.schema):
        for part in (rule.on, rule.does):
            if "model_id" in part:
                model = catalog.model(str(part["model_id"]))
                other = await asyncio.to_thread(package_of, request.app[REGISTRY], model.model_id)
                if (other.schema.target.task, other.schema.target.classes) != (package.schema.target.task, package.schema.target.classes):
                    raise ApiError(422, "other_target", f"{rule.name}: model {model.model_id[:12]} predicts something else")
                if other.plan.external:
                    raise ApiError(422, "scored_elsewhere", f"{rule.name}: {model.blueprint} predicts elsewhere: it cannot be asked here")
                part["model_id"] = model.model_id
        found.append(rule)
    return tuple(found)


async def show(request: web.Request) -> web.Response:
    """The rules, and how often each was hit and acted, in total and over time."""
    await wait_after(request)
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    sql = f"""SELECT {window.bucketed()} AS at, splitByChar(':', part)[1] AS rule, splitByChar(':', part)[2] AS action, count() AS rows
FROM predictions ARRAY JOIN splitByChar(',', humility) AS part
WHERE {window.where()} AND role = 'champion' AND humility != '' GROUP BY at, rule, action ORDER BY at, rule, action"""
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, sql)
    totals: dict[tuple[str, str], int] = {}
    buckets: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["rule"], row["action"])
        totals[key] = totals.get(key, 0) + int(row["rows"])
        buckets.setdefault(int(row["at"]), []).append({"rule": row["rule"], "action": row["action"], "rows": int(row["rows"])})
    hits = [{"rule": rule, "action": action, "rows": count} for (rule, action), count in sorted(totals.items())]
    answer = {
        "rules": deployment.settings.get("humility", []),
        "threshold": deployment.settings.get("threshold"),
        "totals": {"rules": hits},
        "buckets": [{"at": iso(at), "rules": found} for at, found in sorted(buckets.items())],
        "status": "passing" if deployment.settings.get("humility") else "unknown",
        "sql": sql,
    }
    return await stamped(request, answer)


async def put(request: web.Request) -> web.Response:
    """Replace the rules: {"rules": [{"name", "trigger", "action"}], "reason"?}; an empty list takes them away."""
    data = await object_body(request)
    if not isinstance(data.get("rules"), list):
        raise ApiError(422, "missing_field", "missing: rules", [{"field": "rules"}])
    rules = await checked_rules(request, data["rules"])
    return await configure(request, {"humility": [rule.to_json() for rule in rules] or None}, str(data.get("reason", "")))


async def recommend(request: web.Request) -> web.Response:
    """Rules to begin with, their bounds calculated from held-out predictions and the reference."""
    package = await champion_of(request)
    found = recommended(package.schema, package.baseline, package.metadata.get("importance", {}), package.metadata.get("prediction_quantiles"))
    return json_response({"rules": found})


async def dry_run(request: web.Request) -> web.Response:
    """What rules would have done to the stored requests (`?from=&to=&segment=`), and with the actuals, what that was worth."""
    await wait_after(request)
    data = await object_body(request)
    rules = await checked_rules(request, data.get("rules", []))
    deployment = request.app[FOLLOWER].catalog.deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    model_id = window.model_id or deployment.now.champion
    found = await asyncio.to_thread(rehearse, request.app[EVENT_LOG], request.app[REGISTRY], window, model_id, rules)
    return json_response(found)


async def referrals(request: web.Request) -> web.Response:
    """Predictions that rules referred to people, newest first; `?open=false` shows the decided ones too."""
    await wait_after(request)
    name = request.app[FOLLOWER].catalog.deployment(request.match_info["d"]).name
    log = request.app[EVENT_LOG]
    decided = await asyncio.to_thread(log.rows, f"SELECT payload, actor, occurred_at FROM events WHERE type = 'referral_answered' AND deployment = {literal(name)} ORDER BY sequence")
    answers = {found["prediction_id"]: {**found, "by": row["actor"], "at": row["occurred_at"]} for row in decided for found in [orjson.loads(row["payload"])]}
    sql = f"""SELECT event_id AS prediction_id, association_id, occurred_at, features, predicted_class, predicted_value, probabilities, humility
FROM predictions WHERE deployment = {literal(name)} AND role = 'champion' AND position(humility, ':refer') > 0 ORDER BY recorded_at DESC, event_id LIMIT 1000"""
    rows = await asyncio.to_thread(log.rows, sql)
    items = [{**row, "features": orjson.loads(row["features"]), "answer": answers.get(row["prediction_id"])} for row in rows]
    waiting = [item for item in items if item["answer"] is None]
    return json_response({"items": items if request.query.get("open") == "false" else waiting, "waiting": len(waiting)})


async def decide(request: web.Request) -> web.Response:
    """A person's decision of a referred prediction: {"decision", "note"?}."""
    data = await object_body(request, "decision")
    name = request.app[FOLLOWER].catalog.deployment(request.match_info["d"]).name
    prediction_id = request.match_info["id"]
    sql = f"SELECT count() AS n FROM predictions WHERE deployment = {literal(name)} AND event_id = {literal(prediction_id)} AND position(humility, ':refer') > 0"
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, sql)
    if not rows[0]["n"]:
        raise ApiError(404, "unknown_referral", f"no prediction {prediction_id!r} of {name!r} was referred to a person")
    _, position = await propose(request, ReferralAnswered(prediction_id, str(data["decision"]), str(data.get("note", ""))), name)
    return json_response({"prediction_id": prediction_id, "decision": str(data["decision"]), "position": position})
