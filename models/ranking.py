"""What metrics of a ranking share: how many positives and rows have a score up to each of its values. Sorted once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.types import Floats, Ints

NAN = float("nan")


@dataclass(frozen=True)
class Ranking:
    """Cumulated at each distinct score, ascending: positives and rows (or their weights) with no greater score."""

    ones: Floats
    rows: Floats

    @property
    def zeros(self) -> Floats:
        """Rows that are no positives, cumulated in the same way."""
        return self.rows - self.ones


def ranking(positive: Any, score: Floats, w: Floats | None = None) -> Ranking:
    """Rank scores (n,), of which some are positives."""
    positive = np.asarray(positive, dtype=bool)
    if not len(score):
        return Ranking(np.zeros(0), np.zeros(0))
    if w is None and score.min() >= 0:  # values alone are sorted several times as fast as their order is found
        # Read as integers the bits of such floats are in the same order (IEEE 754, 5.10), and the sign's place is free: what is positive is said in the last one.
        marked = np.sort(np.ascontiguousarray(score, dtype=np.float64).view(np.uint64) << np.uint64(1) | positive)
        last = ends(marked >> np.uint64(1))
        return Ranking(np.cumsum(marked & np.uint64(1))[last].astype(np.float64), (last + 1).astype(np.float64))
    order = np.argsort(score, kind="stable")
    last = ends(score[order])
    each = np.ones(len(score)) if w is None else w
    return Ranking(np.cumsum(np.where(positive, each, 0.0)[order])[last], np.cumsum(each[order])[last])


def ends(ordered: Any) -> Ints:
    """Where each distinct value of an ascending row of them has its last place."""
    return np.append(np.nonzero(ordered[1:] != ordered[:-1])[0], len(ordered) - 1)


def area_under_roc(found: Ranking) -> float:
    """The share of pairs of a positive and another that are in order, ties counting half (Mann and Whitney 1947); NaN with one class."""
    zeros = found.zeros
    if not len(zeros) or found.ones[-1] <= 0 or zeros[-1] <= 0:
        return NAN
    both = zeros[1:] + zeros[:-1]  # with a lower score, and with a lower or the same
    pairs = found.ones[0] * zeros[0] + np.diff(found.ones) @ both
    return float(pairs / 2 / (found.ones[-1] * zeros[-1]))


def average_precision(found: Ranking) -> float:
    """Area under the precision-recall steps; NaN without positives."""
    if not len(found.ones) or found.ones[-1] <= 0:
        return NAN
    total, rows = found.ones[-1], found.rows[-1]
    hits, taken = total - found.ones[:-1], rows - found.rows[:-1]  # with a greater score than each but the greatest
    precision = np.divide(hits, taken, out=np.zeros(len(hits)), where=taken > 0)
    return float((found.ones[0] * (total / rows) + np.diff(found.ones) @ precision) / total)


def kolmogorov_smirnov(found: Ranking) -> float:
    """The largest distance between the score distributions of the two classes; NaN with one class."""
    zeros = found.zeros
    if not len(zeros) or found.ones[-1] <= 0 or zeros[-1] <= 0:
        return NAN
    return float(np.max(np.abs(found.ones / found.ones[-1] - zeros / zeros[-1])))
