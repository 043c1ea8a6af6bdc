"""What metrics of a ranking share: how many positives and rows have a score up to each of its values. Sorted once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.types import Floats

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
    if w is None:
        ordered = np.sort(score)  # values alone are sorted several times as fast as their order is found
        last = np.append(np.nonzero(ordered[1:] != ordered[:-1])[0], len(ordered) - 1)
        ones = np.searchsorted(np.sort(score[positive]), ordered[last], side="right")
        return Ranking(ones.astype(np.float64), (last + 1).astype(np.float64))
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    last = np.append(np.nonzero(ordered[1:] != ordered[:-1])[0], len(ordered) - 1)
    return Ranking(np.cumsum(np.where(positive, w, 0.0)[order])[last], np.cumsum(w[order])[last])


def area_under_roc(found: Ranking) -> float:
    """The share of pairs of a positive and another that are in order, ties counting half (Mann and Whitney 1947); NaN with one class."""
    zeros = found.zeros
    if not len(zeros) or found.ones[-1] <= 0 or zeros[-1] <= 0:
        return NAN
    here = np.diff(found.ones, prepend=0.0)
    below = np.concatenate([[0.0], zeros[:-1]])
    return float(here @ (below + (zeros - below) / 2) / (found.ones[-1] * zeros[-1]))


def average_precision(found: Ranking) -> float:
    """Area under the precision-recall steps; NaN without positives."""
    if not len(found.ones) or found.ones[-1] <= 0:
        return NAN
    total = found.ones[-1]
    hits = total - np.concatenate([[0.0], found.ones[:-1]])  # with a score at least as great
    taken = found.rows[-1] - np.concatenate([[0.0], found.rows[:-1]])
    precision = np.divide(hits, taken, out=np.zeros(len(hits)), where=taken > 0)
    return float(np.diff(found.ones, prepend=0.0) @ precision / total)


def kolmogorov_smirnov(found: Ranking) -> float:
    """The largest distance between the score distributions of the two classes; NaN with one class."""
    zeros = found.zeros
    if not len(zeros) or found.ones[-1] <= 0 or zeros[-1] <= 0:
        return NAN
    return float(np.max(np.abs(found.ones / found.ones[-1] - zeros / zeros[-1])))
