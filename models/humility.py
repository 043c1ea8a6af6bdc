"""Humility: rules that guard one prediction. A rule is a trigger and an action; applying them is pure.

Triggers: `uncertain_prediction` (lower, upper), `outlying_input` (feature, lower, upper),
`low_observation_region` (feature, values, inside), `missing_feature` and `unseen_category` (feature, or
any), `disagreement` (model_id, above), `latency_budget` (milliseconds). Actions: `none` (recorded only),
`override` (prediction), `error` (message), `fallback` (model_id), `refer` (to a person). All rules that
hit are recorded; the first with an action other than `none` acts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.baseline import Baseline
from models.errors import DataError
from models.schema import Schema
from models.types import Bools, Floats, label_text

TRIGGERS: dict[str, tuple[str, ...]] = {
    "uncertain_prediction": ("lower", "upper"),
    "outlying_input": ("feature", "lower", "upper"),
    "low_observation_region": ("feature", "values", "inside"),
    "missing_feature": ("feature",),
    "unseen_category": ("feature",),
    "disagreement": ("model_id", "above"),
    "latency_budget": ("milliseconds",),
}
ACTIONS: dict[str, tuple[str, ...]] = {"none": (), "override": ("prediction",), "error": ("message",), "fallback": ("model_id",), "refer": ()}
OPTIONAL = {"missing_feature", "unseen_category"}
MOST_RULES = 50


@dataclass(frozen=True)
class Rule:
    """A named trigger with its action."""

    name: str
    trigger: str
    on: dict[str, Any]
    action: str
    does: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What `read_rule` reads."""
        return {"name": self.name, "trigger": {"kind": self.trigger, **self.on}, "action": {"kind": self.action, **self.does}}


@dataclass
class Humbled:
    """What the rules did: outputs to serve, all hits by row, and the rule that acted by row."""

    output: Floats
    hits: dict[int, list[Rule]] = field(default_factory=dict)
    acted: dict[int, Rule] = field(default_factory=dict)


def read_rules(data: Any, schema: Schema) -> tuple[Rule, ...]:
    """Rules out of JSON; DataError says what is wrong with which."""
    if not isinstance(data, list) or len(data) > MOST_RULES:
        raise DataError("wrong_rule", f"humility is a list of at most {MOST_RULES} rules")
    rules = tuple(read_rule(item, schema) for item in data)
    if len({rule.name for rule in rules}) < len(rules):
        raise DataError("wrong_rule", "two rules have one name")
    return rules


def read_rule(data: Any, schema: Schema) -> Rule:
    """One rule: known trigger and action, fields of the right type, features and classes that exist."""
    if not isinstance(data, dict) or not isinstance(data.get("trigger"), dict):
        raise DataError("wrong_rule", 'a rule is {"name", "trigger": {"kind", …}, "action": {"kind", …}}')
    action = data.get("action") or {"kind": "none"}
    trigger = data["trigger"]
    kind, does = trigger.get("kind"), action.get("kind") if isinstance(action, dict) else None
    if kind not in TRIGGERS:
        raise DataError("wrong_rule", f"trigger {kind!r} is none of {', '.join(TRIGGERS)}")
    if does not in ACTIONS:
        raise DataError("wrong_rule", f"action {does!r} is none of {', '.join(ACTIONS)}")
    name = str(data.get("name") or kind)
    if not name.replace("_", "").replace("-", "").replace(" ", "").isalnum() or len(name) > 40:  # noqa: PLR2004
        raise DataError("wrong_rule", "a rule's name has letters, digits, spaces, dashes and underscores, 40 at most")
    on = {k: trigger[k] for k in TRIGGERS[kind] if trigger.get(k) is not None}
    _check_trigger(name, kind, on, schema)
    then = {k: action[k] for k in ACTIONS[does] if action.get(k) is not None}
    _check_action(name, does, then, schema)
    return Rule(name, kind, on, does, then)


def _check_trigger(name: str, kind: str, on: dict[str, Any], schema: Schema) -> None:
    for key in ("lower", "upper", "above", "milliseconds"):
        value = on.get(key)
        if key in TRIGGERS[kind] and value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)):
            raise DataError("wrong_rule", f"{name}: {key} must be a number")
    if kind in {"uncertain_prediction", "outlying_input"} and not {"lower", "upper"} & set(on):
        raise DataError("wrong_rule", f"{name}: lower or upper is missing")
    needed = {"disagreement": ("model_id", "above"), "latency_budget": ("milliseconds",), "outlying_input": ("feature",), "low_observation_region": ("feature", "values")}.get(kind, ())
    if missing := [key for key in needed if key not in on]:
        raise DataError("wrong_rule", f"{name}: {', '.join(missing)} is missing")
    kinds = {f.name: f.kind for f in schema.features}
    feature = str(on["feature"]) if "feature" in on else None
    if feature is not None and feature not in kinds:
        raise DataError("wrong_rule", f"{name}: {feature!r} is no input of the champion; inputs: {', '.join(kinds)}")
    if feature is not None and kind == "outlying_input" and kinds[feature] == "categorical":
        raise DataError("wrong_rule", f"{name}: {feature!r} is categorical: use low_observation_region")
    if feature is not None and kind == "low_observation_region" and (kinds[feature] != "categorical" or not isinstance(on["values"], list)):
        raise DataError("wrong_rule", f"{name}: low_observation_region wants a categorical input and a list of values")


def _check_action(name: str, does: str, then: dict[str, Any], schema: Schema) -> None:
    target = schema.target
    if does == "override":
        value = then.get("prediction")
        if target.task == "regression" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError("wrong_rule", f"{name}: override wants a number as prediction")
        if target.task != "regression" and label_text(value) not in target.classes:
            raise DataError("wrong_rule", f"{name}: override wants one of the classes {', '.join(target.classes)}")
    if does == "fallback" and not isinstance(then.get("model_id"), str):
        raise DataError("wrong_rule", f"{name}: fallback wants a model_id")


def hits(rule: Rule, schema: Schema, base: Floats, output: Floats, others: dict[str, Floats], milliseconds: float) -> Bools:
    """Which rows a rule's trigger hits; `others` are further models' outputs on the same rows."""
    on, rows = rule.on, len(base)
    low, high = on.get("lower", -math.inf), on.get("upper", math.inf)
    if rule.trigger == "uncertain_prediction":
        if schema.target.task == "regression":
            return np.asarray((output[:, 0] < low) | (output[:, 0] > high))
        score = output[:, 1] if schema.target.task == "binary" else output.max(axis=1)
        return np.asarray((score >= low) & (score <= high))
    if rule.trigger == "latency_budget":
        return np.full(rows, milliseconds > on["milliseconds"])
    if rule.trigger == "disagreement":
        return np.asarray(np.abs(output - others[on["model_id"]]).max(axis=1) > on["above"])
    places = [k for k, f in enumerate(schema.features) if on.get("feature") in {None, f.name}]
    if rule.trigger == "missing_feature":
        return np.asarray(np.isnan(base[:, places]).any(axis=1))
    if rule.trigger == "unseen_category":
        found = np.zeros(rows, dtype=bool)
        for k in places:
            if schema.features[k].kind == "categorical":
                found |= base[:, k] == len(schema.features[k].levels)
        return found
    column = base[:, places[0]]
    if rule.trigger == "outlying_input":
        return np.asarray((column < low) | (column > high))
    levels = schema.features[places[0]].levels
    wanted = [float(levels.index(str(v))) for v in on["values"] if str(v) in levels]
    inside = np.isin(column, wanted)
    return np.asarray(inside if on.get("inside", True) else ~inside)


def apply(rules: tuple[Rule, ...], schema: Schema, base: Floats, output: Floats, others: dict[str, Floats], milliseconds: float) -> Humbled:
    """All rules on all rows: what hit, what acted, and what is served then."""
    found = Humbled(output)
    for rule in rules:
        for row in np.nonzero(hits(rule, schema, base, output, others, milliseconds))[0].tolist():
            found.hits.setdefault(row, []).append(rule)
            if rule.action != "none":
                found.acted.setdefault(row, rule)
    if any(rule.action in {"override", "fallback"} for rule in found.acted.values()):
        found.output = output.copy()
        for row, rule in found.acted.items():
            if rule.action == "fallback":
                found.output[row] = others[rule.does["model_id"]][row]
            elif rule.action == "override" and schema.target.task == "regression":
                found.output[row, 0] = float(rule.does["prediction"])
    return found


def overridden(rule: Rule, schema: Schema) -> int:
    """The class index that an override serves."""
    return schema.target.classes.index(label_text(rule.does["prediction"]))


def hits_text(found: Humbled, row: int) -> str:
    """How the log names it: "rule:action,rule:none"."""
    acting = found.acted.get(row)
    return ",".join(f"{rule.name}:{rule.action if rule is acting else 'none'}" for rule in found.hits.get(row, []))


def recommended(schema: Schema, baseline: Baseline, importance: dict[str, float], quantiles: list[float] | None) -> list[dict[str, Any]]:
    """Two rules to begin with: uncertain predictions, and outliers of the strongest numeric input. Both only record.

    Bounds are calculated from held-out predictions (`quantiles`: of the watched score, evenly spaced) and
    from the reference range of the input.
    """
    rules: list[dict[str, Any]] = []
    if quantiles:
        low, high = uncertain_bounds(schema, np.array(quantiles))
        rules.append({"name": "uncertain prediction", "trigger": {"kind": "uncertain_prediction", "lower": low, "upper": high}, "action": {"kind": "none"}})
    numeric = [b for b in baseline.features if b.kind != "categorical"]
    if numeric:
        top = max(numeric, key=lambda b: importance.get(b.name, 0.0))
        rules.append({"name": f"outlying {top.name}"[:40], "trigger": {"kind": "outlying_input", "feature": top.name, "lower": top.low, "upper": top.high}, "action": {"kind": "none"}})
    return rules


def uncertain_bounds(schema: Schema, quantiles: Floats) -> tuple[float, float]:
    """Two classes: the tenth of the held-out scores nearest to one half; else the outer hundredths."""
    if schema.target.task == "binary":
        nearest = np.sort(quantiles[np.argsort(np.abs(quantiles - 0.5))[: max(2, len(quantiles) // 10)]])
        return float(nearest[0]), float(nearest[-1])
    return float(np.quantile(quantiles, 0.01)), float(np.quantile(quantiles, 0.99))
