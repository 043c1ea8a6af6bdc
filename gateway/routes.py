"""The whole HTTP surface as one table, from which OpenAPI and the readable docs are made."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.errors import Handler, json_response
from gateway.handlers import actuals, deployments, models, monitoring, predictions, projects, system
from gateway.portal import views


async def openapi(request: web.Request) -> web.Response:
    """This interface as OpenAPI, made from the route table."""
    del request
    return json_response(openapi_document())


async def docs(request: web.Request) -> web.Response:
    """This interface for people."""
    del request
    return web.Response(text=docs_page(), content_type="text/html")


@dataclass(frozen=True)
class Route:
    """A method, a path, who handles it, and what it is for."""

    method: str
    path: str
    handler: Handler
    summary: str
    group: str


ROUTES: tuple[Route, ...] = (
    Route("GET", "/health/live", system.live, "liveness", "health"),
    Route("GET", "/health/ready", system.ready, "readiness and the state of each part", "health"),
    Route("GET", "/metrics", system.metrics, "Prometheus text", "health"),
    Route("POST", "/v1/projects", projects.create, "hand over a CSV or Parquet file with a target; AutoPilot starts", "projects"),
    Route("GET", "/v1/projects", projects.many, "all projects", "projects"),
    Route("GET", "/v1/projects/{p}", projects.one, "state and progress", "projects"),
    Route("DELETE", "/v1/projects/{p}", projects.cancel, "cancel a project that is not over", "projects"),
    Route("GET", "/v1/projects/{p}/features", projects.features, "feature analysis", "projects"),
    Route("GET", "/v1/projects/{p}/leaderboard", projects.leaderboard, "ranked models", "projects"),
    Route("GET", "/v1/models", models.many, "all models", "models"),
    Route("GET", "/v1/models/{m}", models.one, "everything known of one model", "models"),
    Route("GET", "/v1/models/{m}/importance", models.importance, "permutation importance", "models"),
    Route("GET", "/v1/models/{m}/learning-curve", models.learning_curve, "validation by training rows", "models"),
    Route("GET", "/v1/models/{m}/describe", models.describe, "the model in sentences", "models"),
    Route("GET", "/v1/models/{m}/blueprint", models.blueprint, "the recipe", "models"),
    Route("GET", "/v1/models/{m}/{insight:confusion-matrix|lift|roc|residuals|calibration}", models.insight, "a curve of held-out predictions", "models"),
    Route("POST", "/v1/deployments", deployments.create, "deploy a model", "deployments"),
    Route("GET", "/v1/deployments", deployments.many, "all deployments", "deployments"),
    Route("GET", "/v1/deployments/{d}", deployments.one, "one deployment", "deployments"),
    Route("PATCH", "/v1/deployments/{d}", deployments.change, "pause, resume, archive", "deployments"),
    Route("DELETE", "/v1/deployments/{d}", deployments.delete, "delete", "deployments"),
    Route("POST", "/v1/deployments/{d}/predictions", predictions.predict, "score rows (JSON or CSV)", "predictions"),
    Route("GET", "/v1/predictions/{id}", predictions.receipt, "what the log holds of a request", "predictions"),
    Route("POST", "/v1/deployments/{d}/actuals", actuals.upload, "hand in outcomes (JSON or CSV)", "actuals"),
    Route("PUT", "/v1/deployments/{d}/champion", deployments.promote, "make a model the champion", "deployments"),
    Route("POST", "/v1/deployments/{d}/challengers", deployments.add_challenger, "add a challenger", "deployments"),
    Route("DELETE", "/v1/deployments/{d}/challengers/{m}", deployments.remove_challenger, "remove a challenger", "deployments"),
    Route("POST", "/v1/deployments/{d}/replays", deployments.replay, "score stored requests with another model", "deployments"),
    Route("POST", "/v1/deployments/{d}/retraining", deployments.retrain, "retrain from what production saw", "deployments"),
    Route("GET", "/v1/deployments/{d}/jobs", deployments.jobs, "replays and retrainings", "deployments"),
    Route("GET", "/v1/deployments/{d}/service-health", monitoring.service_health, "requests, errors, latency", "monitoring"),
    Route("GET", "/v1/deployments/{d}/drift", monitoring.drift, "drift of inputs and prediction", "monitoring"),
    Route("GET", "/v1/deployments/{d}/accuracy", monitoring.accuracy, "metrics on matched rows", "monitoring"),
    Route("GET", "/v1/deployments/{d}/comparison", monitoring.comparison, "champion against challengers", "monitoring"),
    Route("GET", "/v1/deployments/{d}/verify", monitoring.proof, "rebuild every number and compare", "monitoring"),
    Route("GET", "/v1/deployments/{d}/humility", monitoring.humility, "hits of humility rules", "monitoring"),
    Route("GET", "/v1/events", system.events, "the audit trail", "events"),
    Route("POST", "/v1/sql", system.sql, "read-only SQL over the event log", "events"),
    Route("GET", "/openapi.json", openapi, "this interface as OpenAPI", "docs"),
    Route("GET", "/docs", docs, "this interface for people", "docs"),
)

PAGES: tuple[tuple[str, Handler], ...] = (
    ("/", views.inventory),
    ("/deployments/{d}", views.deployment),
    ("/projects/{p}", views.project),
    ("/models/{m}", views.model),
    ("/events", views.events),
    ("/static/plotly.min.js", views.plotly),
)


def add_routes(app: web.Application) -> None:
    """Register everything."""
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler)
    for path, handler in PAGES:
        app.router.add_get(path, handler)
    app.router.add_static("/static", views.STATIC)


def openapi_document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)
        names = re.findall(r"\{(\w+)\}", path)
        parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
        operation: dict[str, Any] = {
            "summary": route.summary,
            "description": (route.handler.__doc__ or "").strip(),
            "operationId": f"{route.handler.__module__.rsplit('.', 1)[1]}_{route.handler.__name__}",
            "tags": [route.group],
            "parameters": parameters,
            "responses": {"default": {"description": "JSON; errors as {error: {code, message, details}}"}},
        }
        if route.method in {"POST", "PUT", "PATCH"}:
            operation["requestBody"] = {"content": {"application/json": {"schema": {}}}}
        paths.setdefault(path, {})[route.method.lower()] = operation
    return {"openapi": "3.1.0", "info": {"title": "Champion", "version": "0.1.0"}, "paths": paths}


def docs_page() -> str:
    """A table of all routes."""
    rows = "".join(
        f"<tr><td><b>{r.method}</b></td><td><code>{html.escape(r.path)}</code></td><td>{html.escape((r.handler.__doc__ or r.summary).strip())}</td></tr>"
        for r in ROUTES
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Champion: HTTP interface</title>"
        "<link rel=stylesheet href=/static/portal.css><main><h1>HTTP interface</h1>"
        "<p><a href=/>Portal</a> · <a href=/openapi.json>OpenAPI</a></p>"
        f"<table><tr><th>Method</th><th>Path</th><th></th></tr>{rows}</table></main></html>"
    )
