"""Service health, drift, accuracy and comparison: each number with the SELECT that gives it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiohttp import web

from gateway.errors import json_response
from gateway.handlers.common import moment, stamped, wait_after, window_of
from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY
from stream import queries
from stream.monitoring import accuracy_answer, comparison_answer, drift_answer
from stream.verify import verify


async def service_health(request: web.Request) -> web.Response:
    """Requests, rows, errors and latency by arrival time."""
    await wait_after(request)
    window = window_of(request, request.app[FOLLOWER].catalog.deployment(request.match_info["d"]).name)
    return await stamped(request, await asyncio.to_thread(queries.service_health, request.app[EVENT_LOG], window))


async def drift(request: web.Request) -> web.Response:
    """Drift of the champion's inputs and of its prediction against its frozen reference."""
    await wait_after(request)
    app = request.app
    deployment = app[FOLLOWER].catalog.deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    model_id = window.model_id or deployment.now.champion
    return await stamped(request, await asyncio.to_thread(drift_answer, app[EVENT_LOG], app[REGISTRY], window, model_id))


async def accuracy(request: web.Request) -> web.Response:
    """All metrics on the matched rows as served, or of one model by `model_id=`."""
    await wait_after(request)
    app = request.app
    catalog = app[FOLLOWER].catalog
    deployment = catalog.deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    as_of = moment(request, "as_of")
    return await stamped(request, await asyncio.to_thread(accuracy_answer, app[EVENT_LOG], app[REGISTRY], catalog, window, as_of))


async def comparison(request: web.Request) -> web.Response:
    """Champion against challengers on identical matched rows, in five blocks of time."""
    await wait_after(request)
    app = request.app
    catalog = app[FOLLOWER].catalog
    deployment = catalog.deployment(request.match_info["d"])
    window = replace(window_of(request, deployment.name), model_id="")
    return await stamped(request, await asyncio.to_thread(comparison_answer, app[EVENT_LOG], app[REGISTRY], catalog, window))


async def proof(request: web.Request) -> web.Response:
    """Every maintained number rebuilt from the log, beside the live one."""
    await wait_after(request)
    app = request.app
    deployment = app[FOLLOWER].catalog.deployment(request.match_info["d"])
    return json_response(await asyncio.to_thread(verify, app[EVENT_LOG], app[REGISTRY], deployment.name))


async def humility(request: web.Request) -> web.Response:
    """How often each rule was hit; a deployment without rules has none."""
    await wait_after(request)
    deployment = request.app[FOLLOWER].catalog.deployment(request.match_info["d"])
    window = window_of(request, deployment.name)
    sql = f"SELECT humility AS rule, count() AS rows FROM predictions WHERE {window.where()} AND role = 'champion' AND humility != '' GROUP BY rule ORDER BY rows DESC"
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, sql)
    return json_response({"buckets": [], "totals": {"rules": rows}, "status": "passing" if rows else "unknown", "sql": sql})
