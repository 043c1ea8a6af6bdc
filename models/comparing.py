"""When one model is better than another on the same rows: what the five blocks of time say, over several challengers; and tests over rows, which take them for independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import bdtr, stdtr

from models.types import Ints

BLOCKS, LEVEL = 5, 0.05
LEAST_MATCHED = 100
RESAMPLES, RESAMPLED = 200, 5_000
INDEPENDENT = "independent rows"
T_4_95 = 2.7764451051977987  # 97.5 % quantile of Student's t with 4 degrees of freedom


def blocks_of(times: Any) -> list[Any]:
    """Row positions in five contiguous blocks of equal time; none where one would be empty."""
    if not len(times):
        return []
    edges = np.linspace(times.min(), times.max(), BLOCKS + 1)[1:-1]
    place = np.searchsorted(edges, times, side="right")
    parts = [np.nonzero(place == k)[0] for k in range(BLOCKS)]
    return parts if all(len(p) for p in parts) else []


def interval_of(blocks: list[float] | None) -> list[float] | None:
    """The 95 % interval of a metric's mean over five blocks of time (Student's t); None where a block does not define it."""
    if not blocks or not np.all(np.isfinite(blocks)):
        return None
    mean, half = float(np.mean(blocks)), T_4_95 * float(np.std(blocks, ddof=1)) / float(np.sqrt(BLOCKS))
    return [mean - half, mean + half]


def block_p(differences: list[float]) -> float:
    """The two-sided p-value of a mean difference over blocks of time, by Student's t (Ibragimov and Müller 2010)."""
    mean, error = float(np.mean(differences)), float(np.std(differences, ddof=1)) / float(np.sqrt(len(differences)))
    if not error:
        return 0.0 if mean else 1.0
    return float(2 * stdtr(len(differences) - 1, -abs(mean) / error))


def holm(values: list[float]) -> list[float]:
    """P-values of several comparisons, adjusted so that any false one stays as rare as one alone (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted


def mcnemar(first: Any, second: Any) -> dict[str, Any]:
    """How often only one of two models was right (n,), and the exact p-value that it is chance (McNemar 1947), if rows were independent.

    They seldom are: on flights, whose days hang together, such a test errs in a third of the cases. The blocks decide; this is shown beside them.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    apart = only_first + only_second
    p = min(1.0, 2 * float(bdtr(min(only_first, only_second), apart, 0.5))) if apart else 1.0
    return {"only_champion_right": only_first, "only_challenger_right": only_second, "p_value": p, "assumes": INDEPENDENT}


def bootstrap(value_of: Callable[[Ints], float], size: int) -> list[float] | None:
    """The 95 % interval of a number made of some of `size` rows, if they were independent: of 200 seeded draws with replacement (Efron 1979).

    Of many rows a draw takes 5,000, and its distance from the whole's number counts less by the root of their share (Bickel, Götze and
    van Zwet 1997). None where the number is not defined on a draw.
    """
    taken, seeded = min(size, RESAMPLED), np.random.default_rng(0)
    whole = value_of(np.arange(size))
    drawn = np.array([value_of(seeded.integers(0, size, taken)) for _ in range(RESAMPLES)])
    if not np.isfinite(whole) or not np.isfinite(drawn).all():
        return None
    low, high = np.quantile(whole + (drawn - whole) * np.sqrt(taken / size), [LEVEL / 2, 1 - LEVEL / 2])
    return [float(low), float(high)]
