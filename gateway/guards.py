"""What is said beside a prediction: humility rules that hit, explanations, intervals."""

from __future__ import annotations

from typing import Any

from gateway.asked import Asked, Served
from gateway.errors import ApiError
from models.conformal import half_width
from models.humility import Humbled, Rule, apply
from models.insights.contributions import contributions
from models.package import ModelPackage
from models.schema import Encoded
from models.types import Floats

MOST_EXPLAINED = 1000


def models_of(rule: Rule) -> list[str]:
    """Further models that a rule needs."""
    return [m for m in (rule.on.get("model_id"), rule.does.get("model_id")) if m]


def humble(served: Served, encoded: Encoded, output: Floats, milliseconds: float) -> Humbled:
    """Apply the deployment's rules; rows that could not be scored are beyond them."""
    outputs = {}
    for model_id, other in served.others.items():
        base = encoded.matrix if other.schema == served.package.schema else other.schema.encode_rows(encoded.logged).matrix
        outputs[model_id] = other.plan.predict(base)
    found = apply(served.rules, served.package.schema, encoded.matrix, output, outputs, milliseconds)
    for row in encoded.errors:
        found.hits.pop(row, None)
        found.acted.pop(row, None)
    return found


def say_humility(predictions: list[dict[str, Any]], humbled: Humbled) -> None:
    """What the rules did, in the answer; a refused row has an error in place of its prediction."""
    for row, rules in humbled.hits.items():
        acting = humbled.acted.get(row)
        predictions[row]["humility"] = {"rules": [r.name for r in rules], "rule": acting.name if acting else None, "action": acting.action if acting else "none"}
        if acting is not None and acting.action == "error":
            for name in ("prediction", "probabilities"):
                predictions[row].pop(name, None)
            predictions[row]["error"] = f"humility: {acting.does.get('message') or acting.name}"


def check_more(asked: Asked, package: ModelPackage) -> None:
    """Refuse what cannot be said of this request by this model, before anything of it is recorded."""
    if asked.explain and len(asked.rows) > MOST_EXPLAINED:
        raise ApiError(413, "too_many_rows", f"explanations are given for {MOST_EXPLAINED} rows at most")
    if asked.interval and (package.schema.target.task != "regression" or not package.metadata.get("residual_quantiles")):
        raise ApiError(422, "no_interval", "intervals are for regression models with held-out residuals")


def add_more(predictions: list[dict[str, Any]], served: Served, asked: Asked, encoded: Encoded, output: Floats, chosen: list[int]) -> None:
    """Explanations and intervals, where they were asked for."""
    package = served.package
    check_more(asked, package)
    half = None
    if asked.interval:
        half = half_width(package.metadata["residual_quantiles"], asked.interval, served.adapted[package.digest][-1][1] if package.digest in served.adapted else None)
    for k, row in enumerate(predictions):
        if "error" in row:
            continue
        if asked.explain:
            found = contributions(package.plan, package.baseline, encoded.matrix[k], chosen[k] if chosen else 0, asked.explain)
            row["explanations"] = found.pop("strongest")
            row["explained"] = found
        if asked.interval:
            value = float(output[k, 0])
            row["interval"] = {"level": asked.interval, "lower": value - half, "upper": value + half} if half is not None else None
