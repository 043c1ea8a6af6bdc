"""When one model is better than another on the same rows: what the five blocks of time say, over several challengers; and tests over rows, which take them for independent."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import bdtr, stdtr

BLOCKS, LEVEL = 5, 0.05


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
    return {"only_champion_right": only_first, "only_challenger_right": only_second, "p_value": p, "assumes": "independent rows"}
