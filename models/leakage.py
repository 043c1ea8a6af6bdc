"""Target leakage: single-feature scores and the rules of the statistics paper (a) to (d)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from models.metrics import auc_of
from models.report import FeatureReport, column_for_score, ranked
from models.schema import Target
from models.table import Table
from models.types import Floats, Leakage

FOLDS = 5
LEAVES = 32
SMOOTHING = 10.0


def single_feature_score(values: Any, y: Any, target: Target, seed: int) -> float:
    """What a column alone tells of the target, by 5-fold cross-validation, from 0 to 1.

    R2 for regression, normalised Gini for two classes, their class-weighted one-vs-rest mean for
    more; by a tree of 32 leaves, or by smoothed level means for texts.
    """
    fold = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    if target.task == "regression":
        guess = out_of_fold(values, y.astype(np.float64), fold)
        spread = float(np.sum((y - y.mean()) ** 2))
        return max(0.0, 1 - float(np.sum((y - guess) ** 2)) / spread) if spread else 0.0
    classes = [1] if target.task == "binary" else list(range(len(target.classes)))
    total, weight = 0.0, 0
    for k in classes:
        hot = (y == k).astype(np.float64)
        count = int(hot.sum())
        if 0 < count < len(y):
            gini = 2 * auc_of(hot > 0, out_of_fold(values, hot, fold)) - 1
            total, weight = total + count * gini, weight + count
    return max(0.0, total / weight) if weight else 0.0


def out_of_fold(values: Any, y: Floats, fold: Any) -> Floats:
    """Predictions of y by one column, each row's by a model that has not seen its fold."""
    if values.dtype == object:
        _, codes = np.unique(np.array([v or "" for v in values], dtype=str), return_inverse=True)
        return _by_level(codes, y, fold)
    return _by_tree(values.reshape(-1, 1), y, fold)


def _by_level(codes: Any, y: Floats, fold: Any) -> Floats:
    guess = np.empty(len(y))
    size = int(codes.max()) + 1
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        mean = y[train].mean() if train.any() else 0.0
        sums = np.bincount(codes[train], weights=y[train], minlength=size)
        counts = np.bincount(codes[train], minlength=size)
        guess[test] = ((sums + SMOOTHING * mean) / (counts + SMOOTHING))[codes[test]]
    return guess


def _by_tree(x: Floats, y: Floats, fold: Any) -> Floats:
    from sklearn.tree import DecisionTreeRegressor

    guess = np.empty(len(y))
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        tree = DecisionTreeRegressor(max_leaf_nodes=LEAVES, min_samples_leaf=5, random_state=0)
        if not train.any() or not test.any():
            guess[test] = y.mean()
            continue
        guess[test] = tree.fit(x[train], y[train]).predict(x[test])
    return guess


def leakage_levels(
    table: Table,
    small: Table,
    reports: list[FeatureReport],
    target: Target,
    y: Any,
    labelled: Any,
) -> list[FeatureReport]:
    """Give each report its leakage level and the rules that found it."""
    columns = {r.name: column_for_score(small, r) for r in reports if r.kind not in {"constant", "date", "text"}}
    grouped = group_leak(columns, reports, target, y)
    done = []
    for report in reports:
        reasons = []
        if report.importance >= 0.975:  # noqa: PLR2004
            reasons.append(f"alone it predicts the target with a score of {report.importance:.3f}")
        if report.name in columns and fixed_by_target(columns[report.name], y, target):
            reasons.append("the target fixes it: it is a function of the outcome")
        if comes_with_outcome(table, report.name, labelled):
            reasons.append("it is empty where the outcome is unknown: it comes with the outcome")
        if report.name in grouped:
            reasons.append("together with " + ", ".join(n for n in grouped if n != report.name) + " it gives the target exactly")
        level: Leakage = "high" if reasons else "none"
        if not reasons and stands_out(report, reports, columns):
            level = "moderate"
            reasons.append(f"its score of {report.importance:.3f} leaves less than half the error of the next feature")
        done.append(replace(report, leakage=level, reasons=tuple(reasons)))
    return done


def fixed_by_target(values: Any, y: Any, target: Target) -> bool:
    """(b): predicted from the target, the column's error is at most 1 % of the constant's."""
    if values.dtype == object:
        _, codes = np.unique(np.array([v or "" for v in values], dtype=str), return_inverse=True)
        counts = np.bincount(codes)
        if len(counts) > 50 or 1 - counts.max() / len(codes) < 0.005:  # noqa: PLR2004
            return False
        hot = [(codes == k).astype(np.float64) for k in range(len(counts))]
    else:
        keep = np.isfinite(values)
        if keep.sum() < 0.5 * len(values):
            return False
        values, y = values[keep], y[keep]
        _, counts = np.unique(values, return_counts=True)
        if 1 - counts.max() / len(values) < 0.005:  # noqa: PLR2004
            return False
        hot = [values]
    error = spread = 0.0
    fold = np.arange(len(y)) % FOLDS
    for column in hot:
        guess = _by_tree(y.astype(np.float64).reshape(-1, 1), column, fold) if target.task == "regression" else _by_level(y, column, fold)
        error += float(np.sum((column - guess) ** 2))
        spread += float(np.sum((column - column.mean()) ** 2))
    return spread > 0 and error <= 0.01 * spread


def comes_with_outcome(table: Table, name: str, labelled: Any) -> bool:
    """(c): empty in half the rows without target, hardly ever in the others."""
    unknown = ~labelled
    if unknown.sum() < 30:  # noqa: PLR2004
        return False
    missing = table.missing(name)
    return bool(missing[unknown].mean() >= 0.5 and missing[labelled].mean() < 0.005)  # noqa: PLR2004


def stands_out(report: FeatureReport, reports: list[FeatureReport], columns: dict[str, Any]) -> bool:
    """(d): a score of 0.6 that leaves at most half the error of the next unrelated feature."""
    if report.importance < 0.6 or report.name not in columns:  # noqa: PLR2004
        return False
    rest = [
        other.importance
        for other in reports
        if other.name != report.name
        and other.kind != "id"
        and other.name in columns
        and abs(rank_correlation(columns[report.name], columns[other.name])) < 0.9  # noqa: PLR2004
    ]
    return bool(rest) and 1 - report.importance <= 0.5 * (1 - max(rest))


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's coefficient; texts are ordered by their spelling."""
    x, z = ranked(a), ranked(b)
    if x.std() == 0 or z.std() == 0:
        return 0.0
    return float(np.corrcoef(x, z)[0, 1])


def group_leak(columns: dict[str, Any], reports: list[FeatureReport], target: Target, y: Any) -> list[str]:
    """The numeric columns (ten at most) whose linear fit gives the target with R2 >= 0.999."""
    if target.task != "regression":
        return []
    from sklearn.linear_model import LinearRegression

    numeric = [r for r in reports if r.name in columns and columns[r.name].dtype != object and r.importance < 0.975]  # noqa: PLR2004
    names = [r.name for r in sorted(numeric, key=lambda r: -r.importance)][:10]
    if len(names) < 2:  # noqa: PLR2004
        return []
    x = np.column_stack([columns[n] for n in names])
    keep = np.isfinite(x).all(axis=1)
    if keep.sum() < 20 * len(names):
        return []
    x, z = x[keep], y[keep]
    train = np.arange(len(z)) % 2 == 0
    fit = LinearRegression().fit(x[train], z[train])
    rest = z[~train]
    r2 = 1 - float(np.sum((rest - fit.predict(x[~train])) ** 2) / max(np.sum((rest - rest.mean()) ** 2), 1e-300))
    if r2 < 0.999:  # noqa: PLR2004
        return []
    weight = np.abs(fit.coef_) * x.std(axis=0) / max(z.std(), 1e-300)
    return [n for n, w in zip(names, weight, strict=True) if w > 0.01]  # noqa: PLR2004
