"""Distances between reference and production counts, and thresholds that know the sample sizes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from models.types import Floats, Ints, Status

WARNING = 0.10
FAILING = 0.25
DRAWS = 5000
LEAST_ROWS = 100


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


def null_quantile(reference: Ints, production: Ints, features: int) -> float:
    """The 1 - 0.05/F quantile of PSI between two samples of these sizes with equal shares.

    The production size is rounded down to a grid of powers of the square root of two, so that the
    draws are made once for many windows.
    """
    n = int(production.sum())
    grid = max(1, int(math.sqrt(2) ** math.floor(2 * math.log2(n)))) if n else 1
    pooled = np.asarray(reference, dtype=np.float64) + np.asarray(production, dtype=np.float64)
    rounded = tuple(np.round(pooled / max(pooled.sum(), 1), 3).tolist())
    return _null_quantile(rounded, int(np.sum(reference)), grid, features)


@lru_cache(maxsize=4096)
def _null_quantile(pooled: tuple[float, ...], m: int, n: int, features: int) -> float:
    p = np.maximum(np.array(pooled), 1e-9)
    p = p / p.sum()
    rng = np.random.default_rng(20261123)
    a = shares(rng.multinomial(m, p, size=DRAWS))
    b = shares(rng.multinomial(n, p, size=DRAWS))
    draws = np.sum((b - a) * np.log(b / a), axis=1)
    return float(np.quantile(draws, 1 - 0.05 / max(features, 1)))


def status_of(value: float, reference: Ints, production: Ints, features: int) -> Status:
    """Passing, warning or failing; unknown below a hundred rows, and where there is nothing to compare with."""
    if int(np.sum(production)) < LEAST_ROWS or not np.sum(reference):
        return "unknown"
    if value < WARNING:
        return "passing"
    q = null_quantile(np.asarray(reference), np.asarray(production), features)
    if value >= max(FAILING, q):
        return "failing"
    return "warning" if value >= max(WARNING, q) else "passing"


def worst(statuses: list[Status]) -> Status:
    """The worst of several; unknown only where nothing is known."""
    for status in ("failing", "warning", "passing"):
        if status in statuses:
            return status
    return "unknown"
