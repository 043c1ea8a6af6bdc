"""Whether rows of two times can be told apart, all inputs together: a domain classifier.

A classifier learns which rows are of the window and which of the reference; its out-of-fold AUC is the distance (0.5: it
cannot tell; Rabanser, Günnemann and Lipton 2019). It sees what no input shows alone, such as a correlation that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.blueprints.boosting import LightGBM
from models.drift import LEAST_ROWS
from models.metrics import auc_of
from models.reliability import Z_95
from models.schema import Schema, Target
from models.types import Floats, Status

MOST_ROWS = 20_000
FOLDS = 5
WARNING, FAILING = 0.65, 0.75
RECIPE = LightGBM("domain", leaves=31, rate=0.1, rounds=60, least=50)


@dataclass(frozen=True)
class Told:
    """How well two samples were told apart: the AUC with its 95 % interval, and what of it each input carries."""

    auc: float | None
    low: float | None
    high: float | None
    importance: dict[str, float]
    status: Status


def tell_apart(schema: Schema, reference: Floats, window: Floats, seed: int = 20261123) -> Told:
    """Tell the base rows of a window from those of a reference; unknown where either has fewer than a hundred."""
    if min(len(reference), len(window)) < LEAST_ROWS or not schema.features:
        return Told(None, None, None, {}, "unknown")
    rng = np.random.default_rng(seed)
    base = np.concatenate([reference, window])
    y = np.repeat([0, 1], [len(reference), len(window)])
    fold = np.concatenate([rng.permutation(len(part)) % FOLDS for part in (reference, window)])
    asked = replace(schema, target=Target("window", "binary", ("reference", "window"), "window"))
    score = np.empty(len(y))
    lost = np.zeros((FOLDS, len(schema.features)))
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        member = RECIPE.fit(asked, base[train], y[train], seed)
        held = base[test]
        score[test] = member.predict(held)[:, 1]
        whole = auc_of(y[test], score[test])
        for j in range(len(schema.features)):
            shuffled = held.copy()
            shuffled[:, j] = rng.permutation(shuffled[:, j])
            lost[k, j] = whole - auc_of(y[test], member.predict(shuffled)[:, 1])
    auc = float(auc_of(y, score))
    half = Z_95 * standard_error(auc, len(reference), len(window))
    carried = {name: float(max(value, 0.0)) for name, value in zip(schema.names, lost.mean(axis=0), strict=True)}
    order = sorted(carried, key=lambda name: -carried[name])
    return Told(auc, auc - half, auc + half, {name: carried[name] for name in order}, status_of(auc, auc - half))


def row_distances(schema: Schema, reference: Floats, window: Floats) -> dict[str, dict[str, float]]:
    """Kolmogorov-Smirnov and Wasserstein distances of each numeric input, from base rows; missing values are left out."""
    from scipy.stats import ks_2samp, wasserstein_distance

    found = {}
    for j, feature in enumerate(schema.features):
        a, b = (rows[np.isfinite(rows[:, j]), j] for rows in (reference, window))
        if feature.kind != "categorical" and len(a) and len(b):
            found[feature.name] = {"kolmogorov_smirnov": float(ks_2samp(a, b, method="asymp").statistic), "wasserstein": float(wasserstein_distance(a, b))}
    return found


def standard_error(auc: float, m: int, n: int) -> float:
    """Of an AUC of m and n rows (Hanley and McNeil 1982)."""
    one, two = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    return float(np.sqrt(max(auc * (1 - auc) + (n - 1) * (one - auc**2) + (m - 1) * (two - auc**2), 0.0) / (m * n)))


def status_of(auc: float, low: float) -> Status:
    """Warning from 0.65, failing from 0.75, where the interval lies above 0.5."""
    if auc < WARNING or low <= 0.5:  # noqa: PLR2004
        return "passing"
    return "failing" if auc >= FAILING else "warning"
