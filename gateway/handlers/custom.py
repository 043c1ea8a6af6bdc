"""Custom metrics of a deployment: defined, answered for any window, taken away."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.errors import ApiError, object_body
from gateway.handlers.common import catalog_of, stamped, wait_after, window_of
from gateway.handlers.settings import configure
from gateway.keys import EVENT_LOG, FOLLOWER
from stream.custom import answer, defined, read_metric
from stream.queries import Window


async def many(request: web.Request) -> web.Response:
    """Each metric of a window and its buckets: `from`, `to`, `bucket`, `model_id`, `segment`, `as_of` as everywhere."""
    await wait_after(request)
    deployment = (await catalog_of(request)).deployment(request.match_info["d"])
    window, log = window_of(request, deployment.name), request.app[EVENT_LOG]
    items = [await asyncio.to_thread(answer, log, window, metric) for metric in defined(deployment.settings)]
    return await stamped(request, {"items": items})


async def put(request: web.Request) -> web.Response:
    """Define a metric: {"value": AGGREGATE, "over"?: "outcomes"|"predictions", "where"?: CONDITION}; tried before it is kept."""
    data = await object_body(request, "value")
    name, deployment = request.match_info["name"], request.app[FOLLOWER].catalog.deployment(request.match_info["d"])
    kept = {k: v for k, v in data.items() if k != "reason"}
    metric = read_metric(name, kept)
    await asyncio.to_thread(answer, request.app[EVENT_LOG], Window(deployment.name), metric)
    return await configure(request, {"custom_metrics": {**(deployment.settings.get("custom_metrics") or {}), name: kept}}, str(data.get("reason", "")) or f"custom metric {name}")


async def delete(request: web.Request) -> web.Response:
    """Take a metric away; the rows stay, so it can be defined again with all its history."""
    name, deployment = request.match_info["name"], request.app[FOLLOWER].catalog.deployment(request.match_info["d"])
    known = dict(deployment.settings.get("custom_metrics") or {})
    if known.pop(name, None) is None:
        raise ApiError(404, "unknown_metric", f"{deployment.name!r} has no custom metric {name!r}")
    return await configure(request, {"custom_metrics": known or None}, f"custom metric {name} taken away")
