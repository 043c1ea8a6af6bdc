"""Distances between reference and production counts, and thresholds that know the sample sizes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import chdtrc, chdtri

from models.types import Floats, Ints, Status

WARNING = 0.10
FAILING = 0.25
IMPORTANT = 0.5  # importance, of which 1 is the strongest input
DRAWS = 5000
LEAST_ROWS = 100
STEPS, TINY = 10, 1e-3  # of the grid of shares: steps in a factor of e; rows in a bin that nobody fell into


def shares(counts: Any) -> Floats:
    """Smoothed shares (c + 1/2) / (N + B/2)."""
    counts = np.asarray(counts, dtype=np.float64)
    return np.asarray((counts + 0.5) / (counts.sum(axis=-1, keepdims=True) + 0.5 * counts.shape[-1]))


def psi(reference: Any, production: Any) -> float:
    """Population stability index between two arrays of counts."""
    p, q = shares(reference), shares(production)
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Any, production: Any) -> float:
    """Jensen-Shannon distance (base 2), 0 to 1."""
    p, q = shares(reference), shares(production)
    m = (p + q) / 2
    return float(math.sqrt(max(0.0, 0.5 * np.sum(p * np.log2(p / m)) + 0.5 * np.sum(q * np.log2(q / m)))))


def hellinger(reference: Any, production: Any) -> float:
    """Hellinger distance, 0 to 1."""
    return float(np.sqrt(0.5 * np.sum((np.sqrt(shares(reference)) - np.sqrt(shares(production))) ** 2)))


def kl_divergence(reference: Any, production: Any) -> float:
    """Kullback-Leibler divergence of production from the reference, in nats."""
    p, q = shares(reference), shares(production)
    return float(np.sum(q * np.log(q / p)))


def chi_squared(reference: Any, production: Any) -> dict[str, float]:
    """Pearson's test that two arrays of counts come of the same shares: the statistic and its probability. On large windows it always alarms."""
    both = np.array([reference, production], dtype=np.float64)
    both = both[:, both.sum(axis=0) > 0]
    expected = both.sum(axis=1, keepdims=True) * both.sum(axis=0) / both.sum()
    statistic = float(np.sum((both - expected) ** 2 / expected))
    return {"statistic": statistic, "p": float(chdtrc(both.shape[1] - 1, statistic)) if both.shape[1] > 1 else 1.0}


def null_quantile(reference: Ints, production: Ints, features: int) -> float:
    """The 1 - 0.05/F quantile of PSI between two samples of these sizes with equal shares.

    The production size is rounded down to a grid of powers of the square root of two and the shares to a tenth of
    themselves, so that the draws are made once for many windows.
    """
    pooled = np.asarray(reference, dtype=np.float64) + np.asarray(production, dtype=np.float64)
    steps = np.round(STEPS * np.log(np.maximum(pooled, TINY) / max(pooled.sum(), 1)))
    return _null_quantile(tuple(steps.tolist()), int(np.sum(reference)), grid_of(int(np.sum(production))), features)


def grid_of(n: int) -> int:
    """A size rounded down to a power of the square root of two."""
    return max(1, int(math.sqrt(2) ** math.floor(2 * math.log2(n)))) if n else 1


def most_null(bins: int, m: int, n: int, features: int) -> float:
    """What that quantile does not exceed, without a draw: its chi-squared limit, and a margin for sizes that are far apart.

    (1/m + 1/n) times the quantile of chi-squared with one degree of freedom less than bins; the smoothing of empty bins adds up
    to a quarter of ln(m/n). Of 10,000 hostile cases (sparse bins, m and n from 10 to 10^7) the worst needed 1.09 where 1.5 stands.
    """
    n = grid_of(n)
    apart = math.log(max(m, n) / min(m, n))
    return float((1.5 + apart / 4) * (1 / m + 1 / n) * chdtri(max(bins - 1, 1), 0.05 / max(features, 1)))


@lru_cache(maxsize=4096)
def _null_quantile(steps: tuple[float, ...], m: int, n: int, features: int) -> float:
    p = np.exp(np.array(steps) / STEPS)
    p = p / p.sum()
    rng = np.random.default_rng(20261123)
    a = shares(rng.multinomial(m, p, size=DRAWS))
    b = shares(rng.multinomial(n, p, size=DRAWS))
    draws = np.sum((b - a) * np.log(b / a), axis=1)
    return float(np.quantile(draws, 1 - 0.05 / max(features, 1)))


def status_of(value: float, reference: Ints, production: Ints, features: int, *, warning: float = WARNING, failing: float = FAILING) -> Status:
    """Passing, warning or failing; unknown below a hundred rows, and where there is nothing to compare with."""
    if int(np.sum(production)) < LEAST_ROWS or not np.sum(reference):
        return "unknown"
    if value < warning:
        return "passing"
    by_size: Status = "failing" if value >= failing else "warning"
    if value >= most_null(len(reference), int(np.sum(reference)), int(np.sum(production)), features):
        return by_size
    return by_size if value >= null_quantile(reference, production, features) else "passing"


def quadrant_of(status: Status, importance: float | None) -> str | None:
    """Where an input stands in the plane of drift and importance; None where either is unknown."""
    if status == "unknown" or importance is None:
        return None
    return f"{'important' if importance >= IMPORTANT else 'minor'}_{'steady' if status == 'passing' else 'drifted'}"


def weighed(statuses: list[tuple[Status, float | None]]) -> Status:
    """The worst of inputs' statuses, where one that is not important counts a step less."""
    less: dict[Status, Status] = {"failing": "warning", "warning": "passing"}
    return worst([status if importance is not None and importance >= IMPORTANT else less.get(status, status) for status, importance in statuses])


def worst(statuses: list[Status]) -> Status:
    """The worst of several; unknown only where nothing is known."""
    for status in ("failing", "warning", "passing"):
        if status in statuses:
            return status
    return "unknown"
