"""Why this prediction: each input's contribution, for any model of ours, without looking inside.

The mean of an input's first and last marginal effect against a typical row: what it does alone, and
what its loss takes away. Where inputs interact at most in pairs this is the Shapley value (Owen 1972's
multilinear extension at its ends); the rest is said as `interaction`. Scale: log odds of the positive
class, log probability of the predicted class, or the value. Deterministic; 2 F + 1 scorings a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.baseline import Baseline, Bins
from models.schema import Schema
from models.scoring import ScoringPlan
from models.types import Floats

CLIP = 1e-12
BLOCK = 256


def typical(schema: Schema, baseline: Baseline) -> Floats:
    """A row of medians and commonest levels of the reference (F,)."""
    return np.array([_typical(f.levels, b) for f, b in zip(schema.features, baseline.features, strict=True)])


def _typical(levels: tuple[str, ...], bins: Bins) -> float:
    counts = np.array(bins.reference)
    if bins.kind == "categorical":
        own = len(bins.labels) - 3
        return float(levels.index(bins.labels[int(np.argmax(counts[:own]))])) if own else float("nan")
    inner = counts[1:-2].astype(np.float64)
    if not inner.sum():
        return bins.low
    place = int(np.searchsorted(np.cumsum(inner), inner.sum() / 2))
    bounds = [bins.low, *bins.edges, bins.high]
    if len(bins.edges) + 1 == len(inner) and bins.labels[1 + place].count(" to ") == 0:
        return float(bounds[place]) if place == 0 else float(bins.edges[place - 1])  # one bin a value
    return float((bounds[place] + bounds[place + 1]) / 2)


def scale_of(plan: ScoringPlan) -> str:
    """What contributions are measured in."""
    return {"binary": "log_odds", "multiclass": "log_probability", "regression": "value"}[plan.schema.target.task]


def raw(plan: ScoringPlan, output: Floats, chosen: Any) -> Floats:
    """The explained score (n,)."""
    if plan.schema.target.task == "regression":
        return output[:, 0]
    if plan.schema.target.task == "binary":
        p = np.clip(output[:, 1], CLIP, 1 - CLIP)
        return np.asarray(np.log(p / (1 - p)))
    return np.asarray(np.log(np.clip(output[np.arange(len(output)), chosen], CLIP, 1.0)))


@dataclass(frozen=True)
class Effects:
    """The explained scores (n,), that of the typical row, and each input's part in each (n, F)."""

    scores: Floats
    typical: Floats
    effects: Floats


def effects(plan: ScoringPlan, baseline: Baseline, rows: Floats, chosen: Any) -> Effects:
    """Contributions of base rows (n, F); `chosen` (n,) is the class that is explained where there are more than two."""
    found = [_effects(plan, baseline, rows[at : at + BLOCK], chosen[at : at + BLOCK]) for at in range(0, len(rows), BLOCK)]
    return Effects(*(np.concatenate([getattr(one, name) for one in found]) for name in ("scores", "typical", "effects")))


def _effects(plan: ScoringPlan, baseline: Baseline, rows: Floats, chosen: Any) -> Effects:
    n, width = rows.shape
    reference = typical(plan.schema, baseline)
    block = np.empty((n, 2 * width + 2, width))
    block[:, : width + 1], block[:, width + 1 :] = rows[:, None, :], reference
    for j in range(width):
        block[:, j, j] = reference[j]  # the row without this input
        block[:, width + 1 + j, j] = rows[:, j]  # the typical row with it
    scores = raw(plan, plan.predict(block.reshape(-1, width)), np.repeat(chosen, 2 * width + 2)).reshape(n, -1)
    whole, start = scores[:, width], scores[:, -1]
    return Effects(whole, start, ((whole[:, None] - scores[:, :width]) + (scores[:, width + 1 : -1] - start[:, None])) / 2)


def contributions(plan: ScoringPlan, baseline: Baseline, row: Floats, chosen: int, count: int) -> dict[str, Any]:
    """The strongest contributions of one base row."""
    found = effects(plan, baseline, row.reshape(1, -1), np.array([chosen]))
    whole, start, effect = float(found.scores[0]), float(found.typical[0]), found.effects[0]
    order = np.argsort(-np.abs(effect), kind="stable")[:count]
    strongest = [{"feature": plan.schema.features[j].name, "value": value_of(plan.schema, j, row[j]), "contribution": float(effect[j])} for j in order.tolist()]
    return {"scale": scale_of(plan), "score": whole, "typical_score": start, "interaction": float(whole - start - effect.sum()), "strongest": strongest}


def value_of(schema: Schema, j: int, value: float) -> Any:
    """A base value as it was asked."""
    if np.isnan(value):
        return None
    feature = schema.features[j]
    if feature.kind != "categorical":
        return float(value)
    return feature.levels[int(value)] if int(value) < len(feature.levels) else "(unseen)"
