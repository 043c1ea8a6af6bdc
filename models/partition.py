"""Partitions: forward in time where there is time, stratified otherwise; always a holdout."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import DataError
from models.metrics import auc_of
from models.types import Floats, Ints, TaskType

LEAST_TIMES = 6
FOLDS = 3
TIME_AUC = 0.9
DAY = 86_400_000_000
LEAST_DAYS = 20
SAME_DAY = 0.7  # local days cut by UTC midnight still share most of their rows


@dataclass(frozen=True)
class Partition:
    """Row positions: (train, validate) folds, the development rows, and the holdout."""

    kind: str
    folds: tuple[tuple[Ints, Ints], ...]
    development: Ints
    holdout: Ints
    note: str = ""


def make_partition(y: Any, task: TaskType, times: Ints | None, *, holdout: float, gap: int, seed: int, groups: Any = None) -> Partition:
    """Forward folds with a gap (microseconds) if `times` has six distinct values, else stratified.

    Rows of one group never lie on both sides of a cut: `groups` holds a label a row.
    """
    if times is not None:
        if len(np.unique(times)) >= LEAST_TIMES:
            found = by_time(times, holdout=holdout, gap=gap)
            return found if groups is None else apart(found, groups)
        note = "fewer than six distinct times: rows are partitioned at random"
        return at_random(y, task, holdout=holdout, seed=seed, note=note) if groups is None else by_group(y, groups, task, holdout=holdout, seed=seed)
    if groups is not None:
        return by_group(y, groups, task, holdout=holdout, seed=seed)
    return at_random(y, task, holdout=holdout, seed=seed)


def by_time(times: Ints, *, holdout: float, gap: int) -> Partition:
    """Cut between distinct times: three expanding folds, then the holdout as the newest rows."""
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    shares = [*(1 - holdout) * np.linspace(0.4, 1.0, FOLDS + 1)]
    cuts = [_between(ordered, share) for share in shares]
    folds = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        known = int(np.searchsorted(ordered, ordered[start] - gap, side="left"))
        if known > 0 and end > start:
            folds.append((order[:known], order[start:end]))
    last = cuts[-1]
    known = int(np.searchsorted(ordered, ordered[min(last, len(ordered) - 1)] - gap, side="left"))
    return Partition("time", tuple(folds), order[: known or last], order[last:])


def _between(ordered: Ints, share: float) -> int:
    at = min(int(len(ordered) * share), len(ordered) - 1)
    left = int(np.searchsorted(ordered, ordered[at], side="left"))
    return left if left > 0 else int(np.searchsorted(ordered, ordered[at], side="right"))


def at_random(y: Any, task: TaskType, *, holdout: float, seed: int, note: str = "") -> Partition:
    """Stratified by class, or by the order of the values for regression."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(y))
    keys = np.argsort(y[shuffled], kind="stable")
    order = shuffled[keys]  # equal or close targets lie together: dealing them out stratifies
    del task
    dealt = np.empty(len(y))
    size = 20
    for block in range(0, len(y), size):
        part = order[block : block + size]
        dealt[part] = (rng.permutation(size)[: len(part)] + 0.5) / size
    held = dealt < holdout
    development, kept = np.nonzero(~held)[0], np.nonzero(held)[0]
    fold = np.minimum(((dealt[development] - holdout) / (1 - holdout) * FOLDS).astype(int), FOLDS - 1)
    folds = tuple((development[fold != k], development[fold == k]) for k in range(FOLDS))
    return Partition("random", folds, development, kept, note)


def apart(found: Partition, groups: Any) -> Partition:
    """Forward folds whose training rows know no group that is validated, and a holdout of new groups' rows or later ones.

    Time comes first: rows are taken away from training, never moved.
    """
    def without(train: Ints, validate: Ints) -> Ints:
        return train[~np.isin(groups[train], np.unique(groups[validate]))]

    folds = tuple((without(train, validate), validate) for train, validate in found.folds)
    kept = tuple(pair for pair in folds if len(pair[0]))
    development = without(found.development, found.holdout)
    if not kept or not len(development):
        raise DataError("too_few_groups", "forward in time every group comes again: no rows are left to train on")
    return Partition("time", kept, development, found.holdout, "rows of a group that is validated are left out of training")


def by_group(y: Any, groups: Any, task: TaskType, *, holdout: float, seed: int) -> Partition:
    """Whole groups held out and dealt to folds, stratified by class (or by quintile of the values)."""
    from sklearn.model_selection import StratifiedGroupKFold

    parts = max(2, round(1 / holdout))
    if len(np.unique(groups)) < max(parts, FOLDS + 1):
        raise DataError("too_few_groups", f"the group column has {len(np.unique(groups))} values: {max(parts, FOLDS + 1)} at least")
    strata = np.asarray(y) if task != "regression" else np.searchsorted(np.quantile(y, [0.2, 0.4, 0.6, 0.8]), y)
    rows = np.arange(len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        development, held = next(StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(rows, strata, groups))
        split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(development, strata[development], groups[development])
        folds = tuple((development[train], development[validate]) for train, validate in split)
    return Partition("group", tuple(pair for pair in folds if len(pair[0]) and len(pair[1])), development, held)


def time_index_auc(values: Floats, folds: tuple[tuple[Ints, Ints], ...]) -> float:
    """How well a single column tells training from validation rows, at its strongest fold."""
    best = 0.0
    for train, validate in folds:
        rows = np.concatenate([train, validate])
        column = values[rows]
        column = np.where(np.isnan(column), np.nanmin(values) - 1 if np.isfinite(values).any() else 0.0, column)
        auc = auc_of(np.arange(len(rows)) >= len(train), column)
        if np.isfinite(auc):
            best = max(best, auc, 1 - auc)
    return best


def too_few_days(values: Floats, times: Ints) -> bool:
    """Whether a column is fixed by the calendar day and a typical value has fewer than twenty days.

    Its effective sample is the days behind a value, not the rows: such a column wins in validation
    by luck (on the flights the day of the month, six days a value in half a year).
    """
    days, day = np.unique(times // DAY, return_inverse=True)
    if len(days) < 2 * LEAST_DAYS or len(values) < 3 * len(days):
        return False
    filled = np.where(np.isnan(values), -1e300, values)
    _, level = np.unique(filled, return_inverse=True)
    pairs, counts = np.unique(day * (level.max() + 1) + level, return_counts=True)
    commonest = np.zeros(len(days))
    np.maximum.at(commonest, pairs // (level.max() + 1), counts)
    if level.max() == 0 or commonest.sum() < SAME_DAY * len(values):
        return False
    own = pairs[counts == commonest[pairs // (level.max() + 1)]] % (level.max() + 1)
    return bool(np.median(np.unique(own, return_counts=True)[1]) < LEAST_DAYS)
