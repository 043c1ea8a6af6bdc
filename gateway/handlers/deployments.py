"""Deployments: champion, challengers, replays, retraining, state."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import catalog_of, job_id, moment, page, propose, wait_after
from gateway.handlers.settings import SETTINGS, configure, to_state
from gateway.handlers.status import with_status, with_status_then
from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY, SERVING
from models.members import EXTERNAL
from models.online import read_learner
from stream.clock import iso, now_us, parse_time
from stream.events import (
    ChallengerAdded,
    ChallengerRemoved,
    ChampionChanged,
    DeploymentCreated,
    DriftCheckRequested,
    OnlineChallengerAdded,
    ReplayFinished,
    ReplayRequested,
    RetrainingStarted,
)
from stream.learners import PREFIX
from stream.policies import choice_of, read_data, read_trigger
from stream.projections.catalog import CANCELLED, Catalog, Deployment, Model
from stream.recount import package_of
from stream.snapshots import snapshot

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def deployment_json(catalog: Catalog, deployment: Deployment) -> dict[str, Any]:
    """A deployment as its readers know it."""
    now = deployment.now
    champion = catalog.models[now.champion]
    served = now  # the version since which this champion serves: what came after may have changed challengers or settings
    for version in reversed(deployment.versions):
        if version.champion != now.champion:
            break
        served = version
    return {
        "name": deployment.name,
        "state": deployment.state,
        "version": now.version,
        "target": champion.target,
        "task": champion.task,
        "champion": {"model_id": now.champion, "blueprint": champion.blueprint, "since": iso(served.since), "reason": served.reason},
        "challengers": [{"model_id": m, "blueprint": catalog.models[m].blueprint, "fraction": f} for m, f in now.challengers],
        "association_id": deployment.association_id,
        "settings": deployment.settings,
        "created_at": iso(deployment.created_at),
        "versions": [
            {"version": v.version, "champion": v.champion, "challengers": [m for m, _ in v.challengers], "since": iso(v.since), "reason": v.reason}
            for v in deployment.versions
        ],
    }


async def create(request: web.Request) -> web.Response:
    """Give a model a stable address."""
    data = await object_body(request, "name", "model_id")
    name = str(data["name"])
    if not NAME.fullmatch(name):
        raise ApiError(422, "wrong_name", "a name has 1 to 64 letters, digits, dots, dashes or underscores")
    catalog = request.app[FOLLOWER].catalog
    model = catalog.model(str(data["model_id"]))
    settings = {k: v for k, v in data.items() if k not in {"name", "model_id", "association_id"}}
    if early := sorted(set(settings) & {"routes", "guard", "custom_metrics", "humility", *SETTINGS} - {"threshold"}):
        raise ApiError(422, "set_it_after", f"{early[0]} is set on a deployment that exists: it has a call of its own")
    fact = DeploymentCreated(model.model_id, str(data.get("association_id") or ""), settings)
    _, position = await propose(request, fact, name)
    await request.app[SERVING].loaded(name, 1)
    return json_response({**deployment_json(catalog, catalog.deployment(name)), "position": position}, 201)


async def many(request: web.Request) -> web.Response:
    """All deployments."""
    await wait_after(request)
    catalog = request.app[FOLLOWER].catalog
    found = page(request, [deployment_json(catalog, d) for d in catalog.deployments.values() if d.state != "deleted"])
    found["items"] = await asyncio.gather(*(with_status(request.app, d) for d in found["items"]))
    return json_response(found)


async def one(request: web.Request) -> web.Response:
    """One deployment; `as_of` answers as it was known then, with the numbers of then."""
    await wait_after(request)
    catalog, at = await catalog_of(request), moment(request, "as_of")
    found = deployment_json(catalog, catalog.deployment(request.match_info["d"]))
    return json_response(await with_status(request.app, found) if at is None else await with_status_then(request.app, catalog, found, at))


async def routes(request: web.Request) -> web.Response:
    """Who answers which share of the rows: {"routes": [{"model_id", "share"}], "guard"?: [rule], "reason"?}; no routes: the champion alone.

    A guard is written as a trigger: measure, above or below, window, least_rows. It watches each routed model's
    own rows; where it trips, the routes are taken away. `health.error_rate` is the share of its requests in which
    it failed and the champion answered; for `disagreement.*` it becomes a challenger, where it is none.
    """
    data = await object_body(request, "routes")
    catalog = request.app[FOLLOWER].catalog
    deployment = catalog.deployment(request.match_info["d"])
    answering(catalog, deployment.now.champion)  # otherwise there is nobody here to share with
    found = read_routes(catalog, deployment, data["routes"])
    guard = data.get("guard") or []
    if not isinstance(guard, list):
        raise ApiError(422, "wrong_routes", "guard is a list of rules")
    if not all(isinstance(rule, dict) for rule in guard):
        raise ApiError(422, "wrong_routes", "a guard is written as a trigger: measure, above or below, window")
    rules = [{k: v for k, v in read_trigger({**rule, "kind": "measure"}).items() if k != "kind"} for rule in guard]
    if others := [r["measure"] for r in rules if r["measure"].startswith(("estimated.", "silence."))]:
        raise ApiError(422, "wrong_routes", f"{others[0]} cannot be told for one model's rows alone")
    if any(rule["measure"].startswith("disagreement.") for rule in rules):
        await shadowed(request, deployment, [route["model_id"] for route in found])
    return await configure(request, {"routes": found or None, "guard": rules if found and rules else None}, str(data.get("reason", "")) or "routes")


async def shadowed(request: web.Request, deployment: Deployment, models: list[str]) -> None:
    """Make models challengers where they are none: how far they differ is only known of rows that the champion answered too."""
    follower, key = request.app[FOLLOWER], request.headers.get("Idempotency-Key", "")
    for model_id in models:
        if model_id not in dict(deployment.now.challengers):
            event = await follower.propose(ChallengerAdded(model_id), actor=request.get("actor", ""), deployment=deployment.name, key=f"{key}:{model_id}" if key else "")
            await follower.logged(event)


def read_routes(catalog: Catalog, deployment: Deployment, data: Any) -> list[dict[str, Any]]:
    """Models of the same target, with shares that leave the champion something."""
    if not isinstance(data, list) or not all(isinstance(r, dict) and "model_id" in r for r in data):
        raise ApiError(422, "wrong_routes", 'routes is a list of {"model_id", "share"}')
    champion = catalog.models[deployment.now.champion]
    found: list[dict[str, Any]] = []
    for route in data:
        model, share = answering(catalog, str(route["model_id"])), route.get("share")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ApiError(422, "wrong_routes", "a share is above 0 and below 1")
        if (model.task, model.target) != (champion.task, champion.target) or model.summary.get("online"):
            raise ApiError(422, "wrong_routes", f"model {model.model_id[:12]} cannot answer for the champion: it predicts another target, or is not frozen")
        found.append({"model_id": model.model_id, "share": float(share)})
    names = [r["model_id"] for r in found]
    if len(set(names)) < len(names) or champion.model_id in names or sum(r["share"] for r in found) >= 1:
        raise ApiError(422, "wrong_routes", "each model once, none of them the champion, and less than everything")
    return found


async def delete(request: web.Request) -> web.Response:
    """Delete: it answers no more; its events stay in the log."""
    return await to_state(request, "deleted", request.query.get("reason", ""))


async def promote(request: web.Request) -> web.Response:
    """Make a model the champion; the old one goes on in the shadow. Of an online model a frozen snapshot serves; itself it learns on."""
    data = await object_body(request, "model_id", "reason")
    name = request.match_info["d"]
    catalog = request.app[FOLLOWER].catalog
    deployment = catalog.deployment(name)
    model = catalog.model(str(data["model_id"]))
    if catalog.models[deployment.now.champion].summary.get("family") != EXTERNAL:
        answering(catalog, model.model_id)
    expected = data.get("expected_version")
    if expected is not None and not isinstance(expected, int):
        raise ApiError(422, "wrong_type", "expected_version must be a whole number")
    if model.summary.get("online"):
        app = request.app
        if model.model_id not in dict(deployment.now.challengers):
            raise ApiError(409, "no_challenger", f"{model.model_id} is no challenger of {name!r}")
        if expected is not None and expected != deployment.now.version:
            raise ApiError(409, "version_moved", f"the deployment is at version {deployment.now.version}, not {expected}")
        frozen = await asyncio.to_thread(snapshot, app[EVENT_LOG], app[REGISTRY], app[FOLLOWER], name, model.model_id)
        registered = await app[FOLLOWER].propose(frozen, actor=request.get("actor", ""), deployment=name, key=frozen.model_id)
        await app[FOLLOWER].logged(registered)  # a retried promotion freezes anew, and is the same promotion
        model = catalog.model(frozen.model_id)
    event, position = await propose(request, ChampionChanged(model.model_id, str(data["reason"]), expected), name)
    del event
    await request.app[SERVING].loaded(name, deployment.now.version)
    return json_response({**deployment_json(catalog, deployment), "position": position})


def answering(catalog: Catalog, model_id: str) -> Model:
    """A model that predicts here; 422 for one that predicts elsewhere."""
    model = catalog.model(model_id)
    if model.summary.get("family") == EXTERNAL:
        raise ApiError(422, "scored_elsewhere", f"{model.blueprint} predicts elsewhere: it cannot be asked here")
    return model


async def add_challenger(request: web.Request) -> web.Response:
    """Score a model on the same rows in the shadow; {"online": kind, "parameters"?} bears one that learns from each outcome."""
    data = await object_body(request)
    if data.get("online"):
        return await add_online(request, data)
    if not data.get("model_id"):
        raise ApiError(422, "missing_field", "missing: model_id, or online", [{"field": "model_id"}])
    name = request.match_info["d"]
    catalog = request.app[FOLLOWER].catalog
    deployment = catalog.deployment(name)
    model = answering(catalog, str(data["model_id"]))
    try:
        fraction = float(data.get("fraction", 1.0))
    except (TypeError, ValueError) as error:
        raise ApiError(422, "wrong_fraction", "fraction must be a number above 0 and at most 1") from error
    if not 0 < fraction <= 1:
        raise ApiError(422, "wrong_fraction", "fraction must be a number above 0 and at most 1")
    _, position = await propose(request, ChallengerAdded(model.model_id, fraction), name)
    await request.app[SERVING].loaded(name, deployment.now.version)
    return json_response({**deployment_json(catalog, deployment), "position": position}, 201)


async def add_online(request: web.Request, data: dict[str, Any]) -> web.Response:
    """A challenger that is born knowing nothing and learns."""
    name = request.match_info["d"]
    catalog = request.app[FOLLOWER].catalog
    deployment = catalog.deployment(name)
    package = await asyncio.to_thread(package_of, request.app[REGISTRY], deployment.now.champion)
    parameters = read_learner(data["online"], data.get("parameters"), package.schema.target)
    learner_id = PREFIX + job_id(request)
    _, position = await propose(request, OnlineChallengerAdded(learner_id, str(data["online"]), parameters), name)
    await request.app[SERVING].loaded(name, deployment.now.version)
    return json_response({**deployment_json(catalog, deployment), "learner_id": learner_id, "position": position}, 201)


async def remove_challenger(request: web.Request) -> web.Response:
    """No longer score a model in the shadow."""
    name = request.match_info["d"]
    catalog = request.app[FOLLOWER].catalog
    deployment = catalog.deployment(name)
    model = catalog.model(request.match_info["m"])
    _, position = await propose(request, ChallengerRemoved(model.model_id, request.query.get("reason", "")), name)
    await request.app[SERVING].loaded(name, deployment.now.version)
    return json_response({**deployment_json(catalog, deployment), "position": position})


async def replay(request: web.Request) -> web.Response:
    """Score the stored requests of a window with another model."""
    data = await object_body(request, "model_id", "from", "to")
    name = request.match_info["d"]
    catalog = request.app[FOLLOWER].catalog
    catalog.deployment(name)
    model = answering(catalog, str(data["model_id"]))
    try:
        start, end = parse_time(data["from"]), parse_time(data["to"])
    except ValueError as error:
        raise ApiError(422, "wrong_time", str(error)) from error
    if start >= end:
        raise ApiError(422, "wrong_window", "'from' must be before 'to'")
    replay_id = job_id(request)
    _, position = await propose(request, ReplayRequested(replay_id, model.model_id, iso(start), iso(end)), name)
    return json_response({"replay_id": replay_id, "state": "queued", "position": position}, 202)


async def check_drift(request: web.Request) -> web.Response:
    """Have the trainer tell the rows of a window from those the champion was trained on, or from those of `reference` (FROM..TO): {"from", "to", "reference"?}."""
    data = await object_body(request, "from", "to")
    name = request.match_info["d"]
    champion = request.app[FOLLOWER].catalog.deployment(name).now.champion
    first, dots, last = str(data.get("reference") or "").partition("..")
    try:
        start, end = iso(parse_time(data["from"])), iso(parse_time(data["to"]))
        reference = (iso(parse_time(first)), iso(parse_time(last))) if dots else ("", "")
    except (ValueError, OverflowError) as error:
        raise ApiError(422, "wrong_time", str(error)) from error
    if start >= end or (dots and reference[0] >= reference[1]) or bool(first) != bool(dots):
        raise ApiError(422, "wrong_window", "'from' must be before 'to', and a reference is FROM..TO")
    check_id = job_id(request)
    _, position = await propose(request, DriftCheckRequested(check_id, champion, start, end, *reference), name)
    return json_response({"check_id": check_id, "state": "queued", "position": position}, 202)


async def retrain(request: web.Request) -> web.Response:
    """Make a training set of stored requests and the actuals known now, and run AutoPilot on it.

    {"from"?, "cut_off"?, "with_original"?, "minutes"?, "data"?: {"window", "half_life", "rows", "exclude", "refresh"}}
    """
    data = await object_body(request)
    name = request.match_info["d"]
    request.app[FOLLOWER].catalog.deployment(name)
    try:
        cut_off = parse_time(data["cut_off"]) if data.get("cut_off") else now_us()
        start = iso(parse_time(data["from"])) if data.get("from") else ""
        minutes = float(data["minutes"]) if data.get("minutes") else None
    except (ValueError, TypeError, OverflowError) as error:
        raise ApiError(422, "wrong_type", str(error)) from error
    retraining_id = job_id(request)
    used = read_data({"with_original": bool(data.get("with_original", False)), **(data.get("data") or {})})
    fact = RetrainingStarted(retraining_id, iso(cut_off), start, used["with_original"], minutes, choice=choice_of({"data": used}), refresh=used["refresh"])
    _, position = await propose(request, fact, name)
    return json_response({"retraining_id": retraining_id, "project_id": retraining_id, "state": "queued", "position": position}, 202)


async def jobs(request: web.Request) -> web.Response:
    """Replays, retrainings and drift checks of a deployment, newest first."""
    await wait_after(request)
    name = request.match_info["d"]
    catalog = request.app[FOLLOWER].catalog
    catalog.deployment(name)
    found = sorted((j for j in catalog.jobs.values() if j.deployment == name), key=lambda j: -j.requested_at)
    return json_response(page(request, [{"job_id": j.job_id, "kind": j.kind, "state": j.state, "progress": j.progress, "request": j.request, "result": j.result, "requested_at": iso(j.requested_at)} for j in found]))


async def cancel(request: web.Request) -> web.Response:
    """Break a replay off; what it has scored stays in the log under its id."""
    name, job_name = request.match_info["d"], request.match_info["j"]
    job = request.app[FOLLOWER].catalog.jobs.get(job_name)
    if job is None or job.deployment != name:
        raise ApiError(404, "unknown_job", f"{name!r} has no job {job_name!r}")
    if job.kind != "replay":
        raise ApiError(409, "not_a_replay", "only replays are broken off here; a retraining is cancelled by its project: DELETE /v1/projects/{p}")
    _, position = await propose(request, ReplayFinished(job_name, int(job.result.get("rows", 0)), CANCELLED), name)
    return json_response({"job_id": job_name, "state": CANCELLED, "position": position})
