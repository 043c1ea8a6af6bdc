"""Calibration of scores: Platt scaling for two classes, temperature for more."""

from __future__ import annotations

import numpy as np

from models.types import Floats, Ints

CLIP = 1e-7


def logit(p: Floats) -> Floats:
    """The log odds of probabilities, kept finite."""
    p = np.minimum(np.maximum(p, CLIP), 1 - CLIP)  # what `clip` does, in half its time
    return np.asarray(np.log(p / (1 - p)))


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def softmax(x: Floats) -> Floats:
    """Row-wise shares of exp(x)."""
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def two_columns(p: Floats) -> Floats:
    """Probabilities of both classes from the positive one's."""
    out = np.empty((len(p), 2))
    np.subtract(1.0, p, out=out[:, 0])
    out[:, 1] = p
    return out


def shares(weights: Floats | None, rows: int) -> Floats:
    """Weights with mean 1."""
    return np.ones(rows) if weights is None else weights * (rows / weights.sum())


def fit_platt(p: Floats, y: Ints, weights: Floats | None = None) -> tuple[float, float]:
    """Slope and intercept on the log odds that minimise the log loss (Platt 1999), by Newton steps.

    Four pseudo-rows at the identity keep a tiny sample from a wild fit.
    """
    x, t, each = logit(p), (y == 1).astype(np.float64), shares(weights, len(y))
    a, b = 1.0, 0.0
    ridge = np.diag([4.0, 4.0])
    for _ in range(50):
        q = sigmoid(a * x + b)
        w = each * np.maximum(q * (1 - q), 1e-12)
        gradient = np.array([np.sum(each * (q - t) * x), np.sum(each * (q - t))]) + ridge @ np.array([a - 1.0, b])
        hessian = np.array([[np.sum(w * x * x), np.sum(w * x)], [np.sum(w * x), np.sum(w)]]) + ridge
        step = np.linalg.solve(hessian, gradient)
        a, b = a - float(step[0]), b - float(step[1])
        if float(np.abs(step).max()) < 1e-9:  # noqa: PLR2004
            break
    return (a, b) if np.isfinite(a) and np.isfinite(b) and a > 0 else (1.0, 0.0)


def fit_temperature(p: Floats, y: Ints, weights: Floats | None = None) -> float:
    """The temperature that minimises the log loss, by golden-section search in its logarithm."""
    log = np.log(np.clip(p, CLIP, 1.0))
    rows, each = np.arange(len(y)), shares(weights, len(y))

    def loss(t: float) -> float:
        return float(-np.mean(each * np.log(np.clip(softmax(log / np.exp(t))[rows, y], 1e-15, 1))))

    low, high, ratio = -2.0, 2.0, (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def fit_slope(p: Floats, y: Ints, fold: Ints, weights: Floats | None = None) -> tuple[float, float]:
    """Platt's slope about the mean score, the base rate of each forward fold taken out.

    Forward in time an intercept only follows the last months' base rate: on the flights it takes the
    log loss from 0.512 to 0.521.
    """
    x, t, each = logit(p), (y == 1).astype(np.float64), shares(weights, len(y))
    centre = float(x.mean())
    a, levels = 1.0, np.zeros(int(fold.max()) + 1)
    for _ in range(100):
        q = sigmoid(a * (x - centre) + centre + levels[fold])
        w = each * np.maximum(q * (1 - q), 1e-12)
        step = float((np.sum(each * (q - t) * (x - centre)) + 4 * (a - 1)) / (np.sum(w * (x - centre) ** 2) + 4))
        shift = np.bincount(fold, weights=each * (q - t)) / np.bincount(fold, weights=w)
        a, levels = a - step, levels - np.clip(shift, -1, 1)
        if abs(step) < 1e-9 and float(np.abs(shift).max()) < 1e-9:  # noqa: PLR2004
            break
    a = a if np.isfinite(a) and a > 0 else 1.0
    return a, (1 - a) * centre


def calibrate(p: Floats, by: list[float]) -> Floats:
    """Apply [slope, intercept] (two classes), [temperature] (more) or nothing."""
    if not by:
        return p
    if len(by) == 2:  # noqa: PLR2004
        return two_columns(sigmoid(by[0] * logit(p[:, 1]) + by[1]))
    return softmax(np.log(np.clip(p, CLIP, 1.0)) / by[0])


def two_of(p: float) -> tuple[float, float]:
    """`two_columns` for one row."""
    return 1.0 - p, p


def calibrate_one(p: tuple[float, float], by: list[float]) -> tuple[float, float]:
    """`calibrate` for one row of two classes: the same operations on plain numbers, so the same bits."""
    if not by:
        return p
    q = min(max(p[1], CLIP), 1 - CLIP)
    return two_of(1.0 / (1.0 + float(np.exp(-(by[0] * float(np.log(q / (1 - q))) + by[1])))))


def fit(p: Floats, y: Ints, fold: Ints, *, forward: bool, weights: Floats | None = None) -> list[float]:
    """What `calibrate` wants, learnt from out-of-fold probabilities."""
    if p.shape[1] > 2:  # noqa: PLR2004
        return [fit_temperature(p, y, weights)]
    return list(fit_slope(p[:, 1], y, fold, weights) if forward else fit_platt(p[:, 1], y, weights))
