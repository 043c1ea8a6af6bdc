"""Confusion matrix, lift, ROC, calibration and score distribution of held-out predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.classes import confusion
from models.metrics import decide
from models.schema import Target
from models.types import Floats

POINTS = 60


def curves(target: Target, y: Any, output: Floats) -> dict[str, Any]:
    """All curves that exist for the task, as JSON."""
    if target.task == "regression":
        return {"lift": lift(y, output.reshape(-1)), "residuals": residuals(y, output.reshape(-1))}
    table = confusion(y, decide(output), len(target.classes))[:-1]  # training rows are of no other class
    found: dict[str, Any] = {"confusion": {"labels": list(target.classes), "actual_by_predicted": table.tolist()}}
    if target.task == "binary":
        hot = (y == 1).astype(np.float64)
        found |= {"lift": lift(hot, output[:, 1]), "roc": roc(hot, output[:, 1]), "calibration": lift(hot, output[:, 1], equal=True)}
    return found


def lift(y: Any, score: Floats, *, equal: bool = False) -> dict[str, Any]:
    """Mean prediction and mean actual in ten groups by score (equal counts, or equal width)."""
    if equal:
        group = np.minimum((score * 10).astype(int), 9)
    else:
        group = np.empty(len(score), dtype=int)
        group[np.argsort(score, kind="stable")] = np.arange(len(score)) * 10 // max(len(score), 1)
    counts = np.bincount(group, minlength=10)
    below = np.maximum(counts, 1)
    return {
        "rows": counts.tolist(),
        "predicted": (np.bincount(group, weights=score, minlength=10) / below).tolist(),
        "actual": (np.bincount(group, weights=y, minlength=10) / below).tolist(),
    }


def roc(hot: Floats, score: Floats) -> dict[str, Any]:
    """False and true positive rates at evenly spread thresholds."""
    order = np.argsort(-score, kind="stable")
    hits, misses = np.cumsum(hot[order]), np.cumsum(1 - hot[order])
    at = np.unique(np.linspace(0, len(order) - 1, POINTS).astype(int))
    return {
        "threshold": score[order][at].tolist(),
        "true_positive_rate": (hits[at] / max(hits[-1], 1)).tolist(),
        "false_positive_rate": (misses[at] / max(misses[-1], 1)).tolist(),
    }


def residuals(y: Any, predicted: Floats) -> dict[str, Any]:
    """A histogram of actual minus predicted."""
    counts, edges = np.histogram(y - predicted, bins=30)
    return {"counts": counts.tolist(), "edges": edges.tolist()}
