"""Accuracy before the actuals: confidence-based performance estimation (NannyML's CBPE; Guillory et al. 2021).

Each row counts with its own probabilities in place of its label. It assumes that probabilities are
calibrated and that P(y | x) has not changed: it sees a shift of the inputs, and no concept drift.
"""

from __future__ import annotations

import numpy as np

from models.metrics import EPS, decide
from models.types import Floats, Ints


def estimated(p: Floats, chosen: Ints | None = None) -> dict[str, float]:
    """Expected metrics of rows with probabilities (n, K); decisions are `chosen`, else the most probable class."""
    if not len(p):
        return {}
    served = decide(p) if chosen is None else chosen
    right = p[np.arange(len(p)), served]
    clipped = np.clip(p, EPS, 1.0)
    found = {"accuracy": float(right.mean()), "log_loss": float(-np.vdot(p, np.log(clipped)) / len(p))}
    if p.shape[1] != 2:  # noqa: PLR2004
        return found
    positive, says = p[:, 1], served == 1
    hits, alarms, actual = float(positive[says].sum()), float(says.sum()), float(positive.sum())
    found["brier"] = float((positive * (1 - positive)).mean())
    found["precision"] = hits / alarms if alarms else 0.0
    found["recall"] = hits / actual if actual else 0.0
    found["f1"] = 2 * hits / (alarms + actual) if alarms + actual else 0.0
    found["roc_auc"] = expected_auc(positive)
    return found


def expected_auc(positive: Floats) -> float:
    """The area under the ROC curve where each row is positive with weight p and negative with 1 - p.

    A row counts half against itself; that makes rows of one score count half against each other, in whatever order.
    """
    p = np.sort(positive)
    down = 1 - p
    whole = float(p.sum() * down.sum())
    return float(p @ (np.cumsum(down) - down / 2)) / whole if whole else float("nan")
