"""Service health, drift, accuracy and comparison: each number with the SELECT that gives it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from functools import partial

from aiohttp import web

from gateway.errors import ApiError, json_response
from gateway.handlers.common import catalog_of, stamped, wait_after, window_of
from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY, SETTINGS
from stream.clock import now_us
from stream.comparison import comparison_answer, replay_comparison
from stream.disagreement import explore
from stream.explainer import drivers
from stream.fairness import fairness as fairness_of
from stream.health import health_answer
from stream.monitoring import accuracy_story, drift_answer, quality_answer
from stream.recount import package_of
from stream.recut import look_of
from stream.verify import verify

MOST_SHOWN = 1000
LATENCIES = ("exact", "sketched")
LOOKED = ("reference", "bins", "warning", "failing")


async def service_health(request: web.Request) -> web.Response:
    """Requests, rows, errors and latency by arrival time; `latency=` exact (the default, out of the rows) or sketched (at once, at most 2 % off; where a model, segment or past time is asked for, exact)."""
    await wait_after(request)
    latency = request.query.get("latency", "exact")
    if latency not in LATENCIES:
        raise ApiError(422, "wrong_latency", f"{latency!r} is none of {', '.join(LATENCIES)}")
    window = window_of(request, (await catalog_of(request)).deployment(request.match_info["d"]).name)
    return await stamped(request, await asyncio.to_thread(partial(health_answer, request.app[EVENT_LOG], window, sketched=latency == "sketched")))


async def drift(request: web.Request) -> web.Response:
    """Drift of the champion's inputs and of its prediction; `reference=` training (the default), weekdays (the same ones of eight weeks before), or FROM..TO; `bins=`, `warning=`, `failing=` other than the frozen ones."""
    await wait_after(request)
    app = request.app
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    model_id = window.model_id or deployment.now.champion
    asked = {name: request.query.get(name, "").replace(" ", "+") for name in LOOKED}
    look = await asyncio.to_thread(partial(look_of, app[REGISTRY], app[FOLLOWER].catalog, model_id, **asked))
    found = await asyncio.to_thread(drift_answer, app[EVENT_LOG], app[REGISTRY], window, model_id, look)
    watch = (await catalog_of(request)).watch
    found["concept_drift"] = [asdict(fact) for fact in watch.concepts.get(deployment.name, [])]
    found["changes"] = [asdict(fact) for fact in watch.changes.get(deployment.name, [])]
    return await stamped(request, found)


async def quality(request: web.Request) -> web.Response:
    """Missing, out-of-range and unseen values of each input against the champion's frozen reference, and refused requests by their reason."""
    await wait_after(request)
    app = request.app
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    return await stamped(request, await asyncio.to_thread(quality_answer, app[EVENT_LOG], app[REGISTRY], window, window.model_id or deployment.now.champion))


async def accuracy(request: web.Request) -> web.Response:
    """All metrics on the matched rows as served, or of one model by `model_id=`."""
    await wait_after(request)
    app = request.app
    catalog = await catalog_of(request)
    deployment = catalog.deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    return await stamped(request, await asyncio.to_thread(accuracy_story, app[EVENT_LOG], app[REGISTRY], catalog, window))


async def comparison(request: web.Request) -> web.Response:
    """Champion against challengers on identical matched rows, in five blocks of time; `replay_id=` a replayed model against what was served: had it served since."""
    await wait_after(request)
    app = request.app
    catalog = await catalog_of(request)
    deployment = catalog.deployment(request.match_info["d"])
    window = replace(window_of(request, deployment.name), model_id="")
    if replay_id := request.query.get("replay_id", ""):
        return await stamped(request, await asyncio.to_thread(replay_comparison, app[EVENT_LOG], app[REGISTRY], catalog, window, replay_id))
    return await stamped(request, await asyncio.to_thread(comparison_answer, app[EVENT_LOG], app[REGISTRY], catalog, window))


async def disagreements(request: web.Request) -> web.Response:
    """Where a challenger (`model_id=`, by default the first) says something else than the champion: how often, in which classes, at which values of which inputs, on which rows most (`limit=`)."""
    await wait_after(request)
    app = request.app
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    shadows = [model_id for model_id, _ in deployment.now.challengers]
    model_id = window.model_id or next(iter(shadows), "")
    if not model_id:
        raise ApiError(409, "no_challenger", f"deployment {deployment.name!r} has no challenger")
    limit = request.query.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= MOST_SHOWN):
        raise ApiError(422, "wrong_option", f"limit is a number from 1 to {MOST_SHOWN}, not {limit!r}")
    return await stamped(request, await asyncio.to_thread(explore, app[EVENT_LOG], app[REGISTRY], window, deployment.now.champion, model_id, int(limit)))


async def explanations(request: web.Request) -> web.Response:
    """What drove the champion's answers (or those of `model_id=`): of each input the mean effect and its mean size over the explained rows of a window."""
    await wait_after(request)
    app = request.app
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    package = await asyncio.to_thread(package_of, app[REGISTRY], window.model_id or deployment.now.champion)
    return await stamped(request, await asyncio.to_thread(drivers, app[EVENT_LOG], package, window))


async def fairness(request: web.Request) -> web.Response:
    """Whether groups are treated alike: `by=` an input, `consumer` or `sql:EXPRESSION`; `favorable=` a class."""
    await wait_after(request)
    app = request.app
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window, by = window_of(request, deployment.name), request.query.get("by", "")
    if not by:
        raise ApiError(422, "missing_field", "by= names an input, consumer, or sql:EXPRESSION", [{"field": "by"}])
    target = (await asyncio.to_thread(package_of, app[REGISTRY], window.model_id or deployment.now.champion)).schema.target
    return await stamped(request, await asyncio.to_thread(fairness_of, app[EVENT_LOG], window, target, by, request.query.get("favorable", "")))


async def proof(request: web.Request) -> web.Response:
    """Every maintained number rebuilt from the log, beside the live one."""
    await wait_after(request)
    app = request.app
    deployment = app[FOLLOWER].catalog.deployment(request.match_info["d"])
    days = app[SETTINGS].log_retention_days
    since = now_us() - days * 86_400_000_000 if days else 0
    return json_response(await asyncio.to_thread(verify, app[EVENT_LOG], app[REGISTRY], deployment.name, since))

