"""A deployment's numbers at a glance: health, drift and accuracy, for the inventory and the API."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY
from stream.errors import LogUnavailable, QueryRejected
from stream.health import health_answer
from stream.monitoring import accuracy_answer, drift_answer
from stream.projections.catalog import Catalog
from stream.queries import BUCKETS, Window

FRESH = 3.0
SEEN: dict[tuple[str, int], tuple[float, dict[str, Any]]] = {}


async def glance(app: web.Application, deployment: dict[str, Any]) -> dict[str, Any]:
    """The numbers, at most three seconds old."""
    key = (deployment["name"], deployment["version"])
    kept = SEEN.get(key)
    if kept is not None and time.monotonic() - kept[0] < FRESH:
        return kept[1]
    found = await asyncio.to_thread(tile, app, app[FOLLOWER].catalog, deployment)
    SEEN[key] = (time.monotonic(), found)
    for old in [k for k in SEEN if k[0] == key[0] and k != key]:
        del SEEN[old]
    return found


async def with_status(app: web.Application, deployment: dict[str, Any]) -> dict[str, Any]:
    """A deployment with `status`: of health, drift and accuracy."""
    return stated(deployment, await glance(app, deployment))


async def with_status_then(app: web.Application, catalog: Catalog, deployment: dict[str, Any], at: int) -> dict[str, Any]:
    """The same as it was known at a time, with the numbers of then."""
    found = await asyncio.to_thread(tile, app, catalog, deployment, at)
    return {**stated(deployment, found), "numbers": found}


def stated(deployment: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A deployment and what its numbers say."""
    return {**deployment, "status": {name: found.get(name, "unknown") for name in ("health", "drift", "accuracy")}}


def tile(app: web.Application, catalog: Catalog, deployment: dict[str, Any], as_of: int | None = None) -> dict[str, Any]:
    """A deployment's numbers at a glance; what the log cannot tell now is said."""
    log, registry = app[EVENT_LOG], app[REGISTRY]
    window = Window(deployment["name"], bucket=BUCKETS["1d"], as_of=as_of)
    try:
        health = health_answer(log, window, sketched=True)
        drift = drift_answer(log, registry, window, deployment["champion"]["model_id"])
        accuracy = accuracy_answer(log, registry, catalog, window)
    except (LogUnavailable, QueryRejected) as error:
        return {"error": str(error)}
    metric = accuracy["metric"]
    return {
        "rows": health["totals"]["rows"],
        "requests": health["totals"]["requests"],
        "health": health["status"],
        "drift": drift["status"],
        "drifted": [f["name"] for f in drift["totals"]["features"] if f["status"] in {"warning", "failing"}],
        "accuracy": accuracy["status"],
        "metric": metric,
        "value": accuracy["totals"]["metrics"][metric]["value"],
        "baseline": accuracy["totals"]["metrics"][metric]["baseline"],
        "matched": accuracy["totals"]["matched"],
        "waiting": accuracy["totals"]["waiting"],
    }
