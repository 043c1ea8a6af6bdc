"""What of a deployment is set: its state, and how it decides, what its answers are worth, what is explained and watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import propose
from gateway.keys import EVENT_LOG, FOLLOWER, REGISTRY, SERVING
from models.detectors import read_detectors
from models.package import ModelPackage
from models.payoff import read_payoff
from stream.events import DeploymentConfigured, DeploymentStateChanged
from stream.measures import seconds_of
from stream.present_rule import expression_of, tried
from stream.recount import package_of

ACTIONS = {"pause": "paused", "resume": "active", "archive": "archived", "active": "active", "paused": "paused", "archived": "archived"}
LEAST_CHECK = 60


async def change(request: web.Request) -> web.Response:
    """Pause, resume or archive by `state`; or set the class `threshold` of two classes, the `payoff`, the share of answers to `explain`, other `detectors`, `drift_checks` by schedule, the `present_rule` that stands beside the metrics, or the step of `adaptive_intervals` (null takes each away)."""
    data = await object_body(request)
    name = next((name for name in SETTINGS if name in data), "")
    if name:
        value = data[name]
        if value is not None:
            champion = request.app[FOLLOWER].catalog.deployment(request.match_info["d"]).now.champion
            package = await asyncio.to_thread(package_of, request.app[REGISTRY], champion)
            value = SETTINGS[name](package, value)
            if name == "present_rule":
                await asyncio.to_thread(tried, request.app[EVENT_LOG], request.match_info["d"], value, package.schema)
        return await configure(request, {name: value}, str(data.get("reason", "")))
    if not data.get("state"):
        raise ApiError(422, "missing_field", f"missing: state, {', '.join(SETTINGS)}", [{"field": "state"}])
    state = ACTIONS.get(str(data["state"]))
    if state is None:
        raise ApiError(422, "wrong_state", f"state is one of {', '.join(ACTIONS)}")
    return await to_state(request, state, str(data.get("reason", "")))


async def configure(request: web.Request, settings: dict[str, Any], reason: str) -> web.Response:
    """Put settings through control; answered once this gateway serves by them."""
    name = request.match_info["d"]
    deployment = request.app[FOLLOWER].catalog.deployment(name)
    _, position = await propose(request, DeploymentConfigured(settings, reason), name)
    await request.app[SERVING].loaded(name, deployment.now.version)
    return json_response({"name": name, "version": deployment.now.version, "settings": deployment.settings, "position": position})


async def to_state(request: web.Request, state: str, reason: str) -> web.Response:
    """Change a deployment's state."""
    name = request.match_info["d"]
    request.app[FOLLOWER].catalog.deployment(name)
    _, position = await propose(request, DeploymentStateChanged(state, reason), name)
    return json_response({"name": name, "state": state, "position": position})


def threshold(package: ModelPackage, value: Any) -> float:
    """The positive class from this probability on."""
    if package.schema.target.task != "binary":
        raise ApiError(422, "wrong_threshold", "a threshold is for two classes")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ApiError(422, "wrong_threshold", "threshold is a number between 0 and 1, or null")
    return value


def explain(package: ModelPackage, value: Any) -> float:
    """The share of the champion's answers that the worker explains and the log keeps."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ApiError(422, "wrong_share", "explain is a share of the answers above 0 and up to 1, or null")
    if package.plan.external:
        raise ApiError(422, "scored_elsewhere", "a model that predicts elsewhere cannot be explained here")
    return value


def payoff(package: ModelPackage, value: Any) -> Any:
    """What each pair of what came true and what was said is worth: {actual: {predicted: value}}."""
    if package.schema.target.task == "regression":
        raise ApiError(422, "wrong_payoff", "a payoff is for classes; for values define a custom metric")
    return read_payoff(value, package.schema.target.classes)


def detectors(package: ModelPackage, value: Any) -> Any:
    """Detectors beside the one that is always there, on the error or on a numeric input."""
    return read_detectors(value, package.schema) or None


def drift_checks(package: ModelPackage, value: Any) -> dict[str, str]:
    """How often the trainer tells the newest rows from those the champion was trained on: {"every", "window"?}."""
    del package
    if not isinstance(value, dict) or not value.get("every") or set(value) - {"every", "window"}:
        raise ApiError(422, "wrong_checks", 'drift_checks is {"every": a span such as 1d, "window"?: a span}')
    found = {"every": str(value["every"]), "window": str(value.get("window") or value["every"])}
    if min(map(seconds_of, found.values())) < LEAST_CHECK:
        raise ApiError(422, "wrong_checks", "a drift check is made at most once a minute of event time")
    return found


def adaptive_intervals(package: ModelPackage, value: Any) -> float:
    """By which step intervals follow the outcomes: how much of a cohort's surplus outside of them is taken back."""
    if package.schema.target.task != "regression":
        raise ApiError(422, "no_interval", "intervals are for regression models with held-out residuals")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ApiError(422, "wrong_step", "adaptive_intervals is a step above 0 and up to 1, such as 0.05, or null")
    return float(value)


def present_rule(package: ModelPackage, value: Any) -> str:
    """The rule that decides at present: an input's name, of two classes a segment, or sql:EXPRESSION."""
    if not isinstance(value, str) or not value.strip():
        raise ApiError(422, "wrong_rule", "present_rule is an input's name, a segment such as distance>=1000, sql:EXPRESSION, or null")
    expression_of(value, package.schema)
    return value


SETTINGS: dict[str, Callable[[ModelPackage, Any], Any]] = {"threshold": threshold, "payoff": payoff, "explain": explain, "detectors": detectors, "drift_checks": drift_checks, "present_rule": present_rule, "adaptive_intervals": adaptive_intervals}
