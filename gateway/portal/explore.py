"""Any question of a deployment's past as a page: a window, a segment, a reference, as it was known then."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from gateway.errors import api_error
from gateway.handlers.common import catalog_of, window_of
from gateway.handlers.monitoring import LOOKED
from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY
from gateway.portal import charts, pictures
from gateway.portal.views import fitting_bucket, page
from stream.fairness import fairness
from stream.health import health_answer
from stream.monitoring import accuracy_story, drift_answer, quality_answer
from stream.projections.catalog import Catalog
from stream.queries import BUCKETS, Window
from stream.recount import package_of
from stream.recut import look_of

ASKED = ("from", "to", "bucket", "segment", "as_of", "by", "favorable", *LOOKED)
MOST_CHECKS = 8


async def explore(request: web.Request) -> web.Response:
    """Drift, accuracy, quality and fairness of what the form asks for; what is wrong with a question is said on the page."""
    name = request.match_info["d"]
    asked = {field: request.query.get(field, "") for field in ASKED}
    asked["bucket"] = asked["bucket"] or "1d"
    found: dict[str, Any] = {}
    error = ""
    request.app[FOLLOWER].catalog.deployment(name)
    try:
        catalog = await catalog_of(request)
        window = window_of(request, catalog.deployment(name).name, bucket=asked["bucket"])
        found = await asyncio.to_thread(partial(answers, request.app, catalog, window, asked))
    except Exception as problem:
        wrong = api_error(problem)
        if wrong.status >= 500:  # noqa: PLR2004
            raise
        error = str(wrong)
    return page("explore.html", deployment=name, asked=asked, buckets=list(BUCKETS), error=error, **found)


def answers(app: web.Application, catalog: Catalog, window: Window, asked: dict[str, str]) -> dict[str, Any]:
    """Everything the page shows."""
    log, registry = app[EVENT_LOG], app[REGISTRY]
    deployment = catalog.deployment(window.deployment)
    package = package_of(registry, deployment.now.champion)
    target = package.schema.target
    look = look_of(registry, app[FOLLOWER].catalog, deployment.now.champion, **{name: asked[name] for name in LOOKED})
    drift = drift_answer(log, registry, window, deployment.now.champion, look)
    accuracy = accuracy_story(log, registry, catalog, window)
    quality = quality_answer(log, registry, window, deployment.now.champion)
    groups = fairness(log, window, target, asked["by"], asked["favorable"]) if asked["by"] else None
    health = health_answer(log, replace(window, bucket=BUCKETS[fitting_bucket(log, deployment.name, "arrivals")]), sketched=True)
    watch = catalog.watch
    return {
        "health": health,
        "drift": drift,
        "accuracy": accuracy,
        "quality": quality,
        "fairness": groups,
        "classes": target.classes,
        "numeric": [f.name for f in package.schema.features if f.kind != "categorical"],
        "settings": deployment.settings,
        "concepts": watch.concepts.get(deployment.name, []),
        "changes": watch.changes.get(deployment.name, []),
        "checks": [job for job in reversed(catalog.drift_checks(deployment.name)) if job.state == "finished"][:MOST_CHECKS],
        "chart_drift": charts.drift_scatter(drift),
        "chart_drift_time": charts.drift_over_time(drift),
        "chart_health": pictures.health(health),
        "chart_quality": pictures.quality(quality),
        "chart_fairness": pictures.fairness(groups) if groups else "",
        "chart_estimated": pictures.estimated(accuracy["estimated"]),
        "chart_calibration": pictures.calibration(accuracy["calibration"]),
        "chart_confusion": pictures.confusion(accuracy["by_class"]),
    }
