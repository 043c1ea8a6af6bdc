"""Feature analysis at ingest: kinds, quality, associations and target leakage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataError
from models.leakage import leakage_levels, single_feature_score
from models.report import FeatureReport, column_for_score, ranked
from models.schema import MAX_LEVELS, Feature, Target
from models.table import Table
from models.types import Floats, Ints, Kind, Objects, TaskType, label_text

SAMPLE = 30_000
DISGUISED_NUMBERS = (-999.0, -9999.0, 999999.0, -99999.0)
MULTICLASS_MOST = 100


@dataclass(frozen=True)
class Analysis:
    """The target, its values, and a report for every other column."""

    target: Target
    labelled: np.ndarray[Any, np.dtype[np.bool_]]
    reports: tuple[FeatureReport, ...]
    notes: tuple[str, ...] = ()


def analyze(
    table: Table,
    target: str,
    *,
    task: TaskType | None = None,
    positive: str | None = None,
    classes: tuple[str, ...] = (),
    timestamp: str | None = None,
    association_id: str | None = None,
    seed: int = 0,
) -> Analysis:
    """Analyse a table for a target; DataError where it cannot be learnt from."""
    goal, labelled, values = read_target(table, target, task, positive, classes)
    rng = np.random.default_rng(seed)
    with_target = np.nonzero(labelled)[0]
    sample = np.sort(rng.permutation(with_target)[:SAMPLE])
    notes = []
    if len(sample) < len(with_target):
        notes.append(f"scores come from a seeded sample of {SAMPLE:,} of {len(with_target):,} rows")
    small, y = table.take(sample), values[np.searchsorted(with_target, sample)]
    reports = []
    for name in table.names:
        if name in {target, timestamp, association_id}:
            continue
        report = profile(table, name)
        if report.kind not in {"constant", "date", "text"}:
            score = single_feature_score(column_for_score(small, report), y, goal, seed)
            report = replace(report, importance=score)
        reports.append(report)
    reports = leakage_levels(table, small, reports, goal, y, labelled)
    reports = with_associations(small, reports)
    return Analysis(goal, labelled, tuple(reports), tuple(notes))


def read_target(
    table: Table, name: str, task: TaskType | None, positive: str | None, classes: tuple[str, ...] = ()
) -> tuple[Target, Any, Any]:
    """The target, which rows have one, and those rows' values (class index or number).

    `classes` are known beforehand: they keep their places, whether a row has them or not.
    """
    if name not in table.names:
        raise DataError("no_target", f"there is no column {name!r}; columns: {', '.join(table.names)}")
    labelled = ~table.missing(name)
    if not labelled.any():
        raise DataError("constant_target", f"the target {name!r} has no values")
    kept = table.take(labelled)
    numeric = kept.is_numeric(name)
    if classes and task != "regression":
        task = "multiclass"  # or binary: their number says it below
    if task is None:
        distinct = len(pc.unique(kept.arrow.column(name)))
        task = "binary" if distinct == 2 else "regression" if numeric and distinct > 10 else "multiclass"  # noqa: PLR2004
    if task == "regression":
        if not numeric:
            raise DataError("wrong_target", f"the target {name!r} is not a number: no regression")
        y = kept.numbers(name)
        if np.ptp(y) == 0:
            raise DataError("constant_target", f"the target {name!r} has one value: {y[0]:g}")
        return (
            Target(name, task, lower=float(y.min()), upper=float(y.max()), mean=float(y.mean())),
            labelled,
            y,
        )
    labels, indices = class_indices(kept.texts(name), positive, classes)
    if len(np.unique(indices)) < 2:  # noqa: PLR2004
        raise DataError("constant_target", f"the target {name!r} has one value: {labels[indices[0]]!r}")
    if len(labels) > MULTICLASS_MOST:
        raise DataError("too_many_classes", f"the target {name!r} has {len(labels)} classes; {MULTICLASS_MOST} at most")
    if task == "binary" and len(labels) != 2:  # noqa: PLR2004
        raise DataError("wrong_target", f"the target {name!r} has {len(labels)} values: not binary")
    word: TaskType = "binary" if len(labels) == 2 else "multiclass"  # noqa: PLR2004
    return Target(name, word, tuple(labels), labels[1] if word == "binary" else ""), labelled, indices


def class_indices(texts: Objects, positive: str | None, classes: tuple[str, ...] = ()) -> tuple[list[str], Ints]:
    """The class names in order (the known ones first, else the positive one last of two) and each row's index."""
    spelt = {text: label_text(text) for text in set(texts.tolist())}
    labels = [*classes, *sorted(set(spelt.values()) - set(classes), key=_label_order)]
    if classes:
        positive = None
    if positive is not None:
        wanted = label_text(positive)
        if wanted not in labels:
            raise DataError("wrong_target", f"no row has the positive class {positive!r}")
        labels = [label for label in labels if label != wanted] + [wanted]
    index = {text: labels.index(label) for text, label in spelt.items()}
    return labels, np.array([index[text] for text in texts], dtype=np.int64)


def _label_order(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def profile(table: Table, name: str) -> FeatureReport:
    """One column's kind and quality, without looking at the target."""
    column = table.arrow.column(name)
    missing = float(np.mean(table.missing(name)))
    valid = pc.drop_null(column)
    unique = len(pc.unique(valid)) if len(valid) else 0
    kind, warnings = kind_of(table, name, valid, unique)
    summary: dict[str, Any] = {}
    if kind == "numeric" or (kind == "id" and table.is_numeric(name)):
        numbers = table.numbers(name)
        numbers = numbers[np.isfinite(numbers)]
        summary, found = numeric_summary(numbers)
        warnings += found
    elif len(valid) and kind != "date":
        counts = pc.value_counts(pc.cast(valid, pa.string()))
        top = sorted(((c["counts"].as_py(), c["values"].as_py()) for c in counts), key=lambda t: (-t[0], t[1]))
        summary = {"top": [[text, count] for count, text in top[:10]]}
    if missing >= 0.5:  # noqa: PLR2004
        warnings.append("mostly_missing")
    return FeatureReport(name, kind, missing, unique, warnings=tuple(warnings), summary=summary)


def kind_of(table: Table, name: str, valid: Any, unique: int) -> tuple[Kind, list[str]]:
    """A column's kind and why it is not an input, where it is not."""
    rows = len(valid)
    if unique <= 1:
        return "constant", ["constant" if rows else "empty"]
    if table.is_date(name):
        return "date", []
    if table.is_boolean(name):
        return "boolean", []
    every = unique >= 0.99 * rows and rows >= 50  # noqa: PLR2004
    if table.is_numeric(name):
        numbers = np.asarray(pc.cast(valid, pa.float64()).to_numpy(zero_copy_only=False))
        whole = bool(np.all(numbers == np.floor(numbers)))
        return ("id", ["identifier"]) if every and whole else ("numeric", [])
    texts = valid.slice(0, 2000).to_pylist()
    words = float(np.mean([len(str(t).split()) for t in texts]))
    if unique > 0.5 * rows and rows >= 50:  # noqa: PLR2004
        if words >= 3:  # noqa: PLR2004
            return "text", ["text_not_used"]
        return "id", ["identifier"]
    if unique > MAX_LEVELS:
        return "id", ["too_many_levels"]
    return "categorical", ["high_cardinality"] if unique > 100 else []  # noqa: PLR2004


def numeric_summary(numbers: Floats) -> tuple[dict[str, Any], list[str]]:
    """Quantiles, outliers by three interquartile ranges, disguised missing values, excess zeros."""
    if not len(numbers):
        return {}, []
    q = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1])
    spread = q[3] - q[1]
    outside = (numbers < q[1] - 3 * spread) | (numbers > q[3] + 3 * spread) if spread > 0 else np.zeros(len(numbers), bool)
    counts, edges = np.histogram(numbers, bins=20)
    warnings = []
    if outside.mean() > 0.005:  # noqa: PLR2004
        warnings.append("outliers")
    warnings += [f"disguised_missing: {v:g}" for v in DISGUISED_NUMBERS if np.mean(numbers == v) > 0.01]  # noqa: PLR2004
    if np.mean(numbers == 0) > 0.5 and q[4] != q[0]:  # noqa: PLR2004
        warnings.append("excess_zeros")
    return {
        "min": float(q[0]),
        "q1": float(q[1]),
        "median": float(q[2]),
        "q3": float(q[3]),
        "max": float(q[4]),
        "mean": float(numbers.mean()),
        "std": float(numbers.std()),
        "outliers": int(outside.sum()),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }, warnings


def with_associations(small: Table, reports: list[FeatureReport]) -> list[FeatureReport]:
    """Each column's strongest associations with others, and which repeat an earlier one."""
    codes = {r.name: ranked(column_for_score(small, r)) for r in reports if r.kind not in {"constant", "date", "text", "id"}}
    names = list(codes)
    kinds = {r.name: r.kind for r in reports}
    strength = np.zeros((len(names), len(names)))
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            strength[i, j] = strength[j, i] = association(codes[a], codes[names[j]], kinds[a], kinds[names[j]])
    done = []
    for report in reports:
        if report.name in codes:
            row = strength[names.index(report.name)]
            order = [k for k in np.argsort(-row) if row[k] >= 0.3][:5]  # noqa: PLR2004
            pairs = tuple((names[k], round(float(row[k]), 4)) for k in order)
            earlier = [n for n, s in pairs if s > 0.9999 and names.index(n) < names.index(report.name)]  # noqa: PLR2004
            notes = (*report.warnings, *(f"duplicate_of: {n}" for n in earlier[:1]))
            report = replace(report, associated=pairs, warnings=notes)  # noqa: PLW2901
        done.append(report)
    return done


def association(a: Floats, b: Floats, kind_a: str, kind_b: str) -> float:
    """|rank correlation| of numbers, the correlation ratio of a number and a category, Cramer's V of two."""
    if kind_a != "categorical" and kind_b != "categorical":
        if a.std() == 0 or b.std() == 0:
            return 0.0
        return float(abs(np.corrcoef(a, b)[0, 1]))
    if kind_a == "categorical" and kind_b == "categorical":
        return cramers_v(a.astype(int), b.astype(int))
    levels, numbers = (a.astype(int), b) if kind_a == "categorical" else (b.astype(int), a)
    counts = np.bincount(levels)
    means = np.bincount(levels, weights=numbers) / np.maximum(counts, 1)
    between = float(np.sum(counts * (means - numbers.mean()) ** 2))
    inside = max((counts > 0).sum() - 1, 0) / max(len(numbers) - 1, 1)
    raw = between / (numbers.var() * len(numbers)) if numbers.var() > 0 else 0.0
    return float(np.sqrt(max(0.0, (raw - inside) / (1 - inside)))) if inside < 1 else 0.0


def cramers_v(a: Ints, b: Ints) -> float:
    """Bias-corrected Cramer's V (Bergsma 2013)."""
    r, k, n = a.max() + 1, b.max() + 1, len(a)
    if r < 2 or k < 2 or r * k > 4_000_000:  # noqa: PLR2004
        return 0.0
    table = np.bincount(a * k + b, minlength=r * k).reshape(r, k).astype(np.float64)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    phi2 = float(np.sum(np.divide((table - expected) ** 2, expected, out=np.zeros_like(table), where=expected > 0))) / n
    phi2 = max(0.0, phi2 - (k - 1) * (r - 1) / (n - 1))
    small = min(k - (k - 1) ** 2 / (n - 1), r - (r - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi2 / small)) if small > 0 else 0.0


def as_feature(table: Table, report: FeatureReport) -> Feature:
    """The feature a model reads, with its levels by frequency."""
    if report.kind != "categorical":
        return Feature(report.name, report.kind)
    counts = pc.value_counts(pc.drop_null(pa.array(table.texts(report.name), pa.string())))
    pairs = sorted(((c["counts"].as_py(), c["values"].as_py()) for c in counts), key=lambda t: (-t[0], t[1]))
    return Feature(report.name, "categorical", tuple(text for _, text in pairs[:MAX_LEVELS]))
