"""The whole HTTP surface as one table, from which OpenAPI and the readable docs are made."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.errors import Handler, json_response
from gateway.handlers import actuals, custom, deployments, humility, inference, models, monitoring, predictions, projects, settings, system, upkeep, watching
from gateway.portal import views
from gateway.portal.explore import explore


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
    Route("POST", "/v1/projects/{p}/training-set/rebuild", projects.rebuild, "make a retraining's set again and compare", "projects"),
    Route("GET", "/v1/models", models.many, "all models", "models"),
    Route("POST", "/v1/models/external", models.external, "register a model that predicts elsewhere", "models"),
    Route("GET", "/v1/models/{m}", models.one, "everything known of one model", "models"),
    Route("GET", "/v1/models/{m}/importance", models.importance, "permutation importance", "models"),
    Route("GET", "/v1/models/{m}/learning-curve", models.learning_curve, "validation by training rows", "models"),
    Route("GET", "/v1/models/{m}/describe", models.describe, "the model in sentences", "models"),
    Route("GET", "/v1/models/{m}/blueprint", models.blueprint, "the recipe", "models"),
    Route("GET", "/v1/models/{m}/{insight:confusion-matrix|lift|roc|residuals|calibration}", models.insight, "a curve of held-out predictions", "models"),
    Route("POST", "/v1/deployments", deployments.create, "deploy a model", "deployments"),
    Route("GET", "/v1/deployments", deployments.many, "all deployments", "deployments"),
    Route("GET", "/v1/deployments/{d}", deployments.one, "one deployment", "deployments"),
    Route("PATCH", "/v1/deployments/{d}", settings.change, "pause, resume, archive; threshold, payoff, explanations, detectors", "deployments"),
    Route("DELETE", "/v1/deployments/{d}", deployments.delete, "delete", "deployments"),
    Route("POST", "/v1/deployments/{d}/predictions", predictions.predict, "score rows (JSON or CSV)", "predictions"),
    Route("POST", "/v1/deployments/{d}/predictions/external", predictions.external, "hand in what a model elsewhere said", "predictions"),
    Route("POST", "/v1/deployments/{d}/invocations", inference.invocations, "score in MLflow's shapes", "protocols"),
    Route("POST", "/endpoints/{d}/invocations", inference.invocations, "the same where MLflow's deployments client asks", "protocols"),
    Route("GET", "/v1/deployments/{d}/ping", inference.ping, "MLflow's health check", "protocols"),
    Route("POST", "/v1/models/{d:[^:/]+}:predict", inference.predict_v1, "score as KServe V1", "protocols"),
    Route("GET", "/v2", inference.server, "the server, as the Open Inference Protocol has it", "protocols"),
    Route("GET", "/v2/health/live", inference.live, "liveness", "protocols"),
    Route("GET", "/v2/health/ready", inference.ready, "readiness", "protocols"),
    Route("GET", "/v2/models", inference.many, "deployments as models", "protocols"),
    Route("POST", "/v2/repository/index", inference.index, "deployments as models with their state", "protocols"),
    Route("GET", "/v2/models/{d}", inference.metadata, "inputs and outputs of a deployment", "protocols"),
    Route("GET", "/v2/models/{d}/versions/{v}", inference.metadata, "the same for a version", "protocols"),
    Route("GET", "/v2/models/{d}/ready", inference.model_ready, "whether a deployment answers", "protocols"),
    Route("GET", "/v2/models/{d}/versions/{v}/ready", inference.model_ready, "the same for a version", "protocols"),
    Route("POST", "/v2/models/{d}/infer", inference.infer, "score as the Open Inference Protocol V2", "protocols"),
    Route("POST", "/v2/models/{d}/versions/{v}/infer", inference.infer, "the same for a version", "protocols"),
    Route("POST", "/predApi/v1.0/deployments/{d}/predictions", inference.datarobot, "score in DataRobot's shape", "protocols"),
    Route("POST", "/api/v2/deployments/{d}/predictions", inference.datarobot, "the same under its other path", "protocols"),
    Route("POST", "/api/v2/deployments/{d}/actuals/fromJSON/", actuals.upload_datarobot, "outcomes in DataRobot's shape", "protocols"),
    Route("GET", "/v1/predictions/{id}", predictions.receipt, "what the log holds of a request", "predictions"),
    Route("POST", "/v1/predictions/{id}/reexecute", predictions.reexecute, "score the stored request again and compare", "predictions"),
    Route("POST", "/v1/deployments/{d}/actuals", actuals.upload, "hand in outcomes (JSON or CSV)", "actuals"),
    Route("PUT", "/v1/deployments/{d}/champion", deployments.promote, "make a model the champion", "deployments"),
    Route("PUT", "/v1/deployments/{d}/routes", deployments.routes, "A/B and canary: who answers which share", "deployments"),
    Route("POST", "/v1/deployments/{d}/challengers", deployments.add_challenger, "add a challenger", "deployments"),
    Route("DELETE", "/v1/deployments/{d}/challengers/{m}", deployments.remove_challenger, "remove a challenger", "deployments"),
    Route("POST", "/v1/deployments/{d}/replays", deployments.replay, "score stored requests with another model", "deployments"),
    Route("POST", "/v1/deployments/{d}/drift-checks", deployments.check_drift, "tell a window's rows from the training rows, all inputs together", "deployments"),
    Route("POST", "/v1/deployments/{d}/retraining", deployments.retrain, "retrain from what production saw", "deployments"),
    Route("GET", "/v1/deployments/{d}/jobs", deployments.jobs, "replays, retrainings and drift checks", "deployments"),
    Route("DELETE", "/v1/deployments/{d}/jobs/{j}", deployments.cancel, "break a replay off", "deployments"),
    Route("GET", "/v1/deployments/{d}/service-health", monitoring.service_health, "requests, errors, latency", "monitoring"),
    Route("GET", "/v1/deployments/{d}/data-quality", monitoring.quality, "missing, out-of-range and unseen inputs; refused requests", "monitoring"),
    Route("GET", "/v1/deployments/{d}/drift", monitoring.drift, "drift of inputs and prediction", "monitoring"),
    Route("GET", "/v1/deployments/{d}/accuracy", monitoring.accuracy, "metrics on matched rows", "monitoring"),
    Route("GET", "/v1/deployments/{d}/comparison", monitoring.comparison, "champion against challengers", "monitoring"),
    Route("GET", "/v1/deployments/{d}/disagreements", monitoring.disagreements, "where a challenger says something else", "monitoring"),
    Route("GET", "/v1/deployments/{d}/explanations", monitoring.explanations, "what drove the answers", "monitoring"),
    Route("GET", "/v1/deployments/{d}/fairness", monitoring.fairness, "whether groups are treated alike", "monitoring"),
    Route("GET", "/v1/deployments/{d}/custom-metrics", custom.many, "custom metrics of any window", "monitoring"),
    Route("PUT", "/v1/deployments/{d}/custom-metrics/{name}", custom.put, "define a custom metric", "monitoring"),
    Route("DELETE", "/v1/deployments/{d}/custom-metrics/{name}", custom.delete, "take a custom metric away", "monitoring"),
    Route("GET", "/v1/deployments/{d}/verify", monitoring.proof, "rebuild every number and compare", "monitoring"),
    Route("GET", "/v1/deployments/{d}/humility", humility.show, "humility rules and their hits", "humility"),
    Route("PUT", "/v1/deployments/{d}/humility", humility.put, "replace the humility rules", "humility"),
    Route("GET", "/v1/deployments/{d}/humility/recommended", humility.recommend, "rules to begin with", "humility"),
    Route("POST", "/v1/deployments/{d}/humility/dry-run", humility.dry_run, "rehearse rules on the stored past", "humility"),
    Route("GET", "/v1/deployments/{d}/referrals", humility.referrals, "predictions that wait for a person", "humility"),
    Route("POST", "/v1/deployments/{d}/referrals/{id}", humility.decide, "a person's decision", "humility"),
    Route("GET", "/v1/alerts", watching.firing, "alerts that are not cleared", "alerts"),
    Route("GET", "/v1/channels", watching.channels, "where notifications go", "alerts"),
    Route("PUT", "/v1/channels/{name}", watching.put_channel, "set a channel", "alerts"),
    Route("DELETE", "/v1/channels/{name}", watching.delete_channel, "take a channel away", "alerts"),
    Route("GET", "/v1/deployments/{d}/alert-rules", watching.alert_rules, "alert rules and their state", "alerts"),
    Route("PUT", "/v1/deployments/{d}/alert-rules/{name}", watching.put_rule, "set an alert rule", "alerts"),
    Route("DELETE", "/v1/deployments/{d}/alert-rules/{name}", watching.delete_rule, "take an alert rule away", "alerts"),
    Route("POST", "/v1/deployments/{d}/alert-rules/{name}/silence", watching.silence_rule, "raise its alerts in silence for a while", "alerts"),
    Route("POST", "/v1/deployments/{d}/alert-rules/{name}/test", watching.test_rule, "send a test alert", "alerts"),
    Route("POST", "/v1/deployments/{d}/alert-backtests", watching.backtest_rule, "rehearse an alert rule on the stored history", "alerts"),
    Route("GET", "/v1/deployments/{d}/policies", watching.many, "retraining policies and their runs", "policies"),
    Route("PUT", "/v1/deployments/{d}/policies/{name}", watching.put_policy, "set a retraining policy", "policies"),
    Route("DELETE", "/v1/deployments/{d}/policies/{name}", watching.delete_policy, "take a policy away", "policies"),
    Route("POST", "/v1/deployments/{d}/policies/{name}/runs", watching.run_policy, "begin a run now", "policies"),
    Route("POST", "/v1/deployments/{d}/policies/{name}/runs/{run}/decision", watching.decide_run, "a person's word on a run that waits", "policies"),
    Route("DELETE", "/v1/deployments/{d}/policies/{name}/runs/{run}", watching.cancel_run, "break a run off", "policies"),
    Route("POST", "/v1/deployments/{d}/erasures", upkeep.erase, "erase rows", "upkeep"),
    Route("GET", "/v1/dead-letters", upkeep.letters, "messages that could not be handled", "upkeep"),
    Route("POST", "/v1/dead-letters/replays", upkeep.replay_letters, "send dead letters again", "upkeep"),
    Route("GET", "/v1/events", system.events, "the audit trail", "events"),
    Route("POST", "/v1/sql", system.sql, "read-only SQL over the event log", "events"),
    Route("GET", "/openapi.json", openapi, "this interface as OpenAPI", "docs"),
    Route("GET", "/docs", docs, "this interface for people", "docs"),
)

PAGES: tuple[tuple[str, Handler], ...] = (
    ("/", views.inventory),
    ("/deployments/{d}", views.deployment),
    ("/deployments/{d}/disagreements/{m}", views.disagreements),
    ("/deployments/{d}/explore", explore),
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
