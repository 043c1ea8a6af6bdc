"""How well what a model says fits what comes: rows in ten groups by what was said, and what became true in each (a reliability diagram: DeGroot and Fienberg 1983)."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.metrics import GROUPS, group_of, stated
from models.types import Floats, TaskType

Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def reliability(task: TaskType, y: Any, p: Floats) -> list[dict[str, Any]]:
    """The groups that have rows: how many, the mean of what was said, the mean of what came, and its 95 % interval (None for one value alone).

    Classes: groups of equal width by the positive class's probability, of several classes by the chosen one's, as `ece` has them; the interval is Wilson's (1927).
    Values: groups of as many rows each, but that equal predictions stay together; the interval is the normal one of a mean.
    """
    if not len(y):
        return []
    if task == "regression":
        said, came = p, np.asarray(y, dtype=np.float64)
        ordered = np.sort(said)
        group = np.searchsorted(ordered[np.arange(1, GROUPS) * len(said) // GROUPS], said, side="right")
    else:
        said, right = stated(y, p)
        came, group = right.astype(np.float64), group_of(said)
    rows = np.bincount(group, minlength=GROUPS)
    sums, outcomes = (np.bincount(group, weights=values, minlength=GROUPS) for values in (said, came))
    squares = np.bincount(group, weights=came * came, minlength=GROUPS)
    found = []
    for k in np.flatnonzero(rows).tolist():
        n, total = int(rows[k]), float(outcomes[k])
        interval = wilson(total, n) if task != "regression" else around_mean(total, float(squares[k]), n)
        found.append({"rows": n, "predicted": float(sums[k]) / n, "actual": total / n, "interval": interval})
    return found


def wilson(hits: float, n: int) -> list[float]:
    """The 95 % interval of a share."""
    square = Z_95 * Z_95
    middle = (hits + square / 2) / (n + square)
    half = Z_95 * float(np.sqrt(hits * (n - hits) / n + square / 4)) / (n + square)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def around_mean(total: float, squares: float, n: int) -> list[float] | None:
    """The 95 % interval of the mean of `n` values with this sum and sum of squares."""
    if n < 2:  # noqa: PLR2004
        return None
    spread = max(0.0, squares - total * total / n) / (n - 1)
    half = Z_95 * float(np.sqrt(spread / n))
    return [total / n - half, total / n + half]
