"""Permutation importance (Breiman 2001): how much worse the model is without each input."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.metrics import METRICS
from models.scoring import ScoringPlan
from models.types import Floats

MOST_ROWS = 5000


def permutation_importance(plan: ScoringPlan, base: Floats, y: Any, metric: str, seed: int, weights: Floats | None = None) -> dict[str, float]:
    """For each input the loss of the metric when its column is shuffled, on at most 5,000 rows."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(base))[:MOST_ROWS]
    base, y, each = base[rows], y[rows], None if weights is None else weights[rows]
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    whole = sign * score(plan, base, y, metric, each)
    losses = {}
    for j, name in enumerate(plan.schema.names):
        shuffled = base.copy()
        shuffled[:, j] = shuffled[rng.permutation(len(base)), j]
        losses[name] = whole - sign * score(plan, shuffled, y, metric, each)
    return losses


def score(plan: ScoringPlan, base: Floats, y: Any, metric: str, weights: Floats | None = None) -> float:
    """One metric of a plan's predictions."""
    output = plan.predict(base)
    if plan.schema.target.task == "regression":
        output = output[:, 0]
    return METRICS[metric].function(y, output, weights)


def normalised(importance: dict[str, float]) -> dict[str, float]:
    """Scaled so that the strongest input has 1; useless ones have 0."""
    top = max([*importance.values(), 0.0])
    return {name: max(0.0, value) / top if top > 0 else 0.0 for name, value in importance.items()}
