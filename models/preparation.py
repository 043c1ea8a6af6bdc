"""From a table to what blueprints learn from: analysis, inputs, partition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.analysis import Analysis, analyze, as_feature
from models.errors import DataError
from models.metrics import default_metric, metrics_of
from models.partition import TIME_AUC, Partition, make_partition, time_index_auc, too_few_days
from models.report import FeatureReport
from models.schema import Schema
from models.table import Table
from models.types import INPUT_KINDS, Floats, Ints, TaskType, label_text

LEAST_ROWS = 20


@dataclass(frozen=True)
class Options:
    """What a project may choose; the rest follows from the data."""

    target: str
    task: TaskType | None = None
    metric: str | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()
    timestamp: str | None = None
    association_id: str | None = None
    exclude: tuple[str, ...] = ()
    group: str | None = None
    weight: str | None = None
    drop_leakage: str = "high"
    holdout: float = 0.2
    gap_seconds: float = 0.0
    minutes: float | None = None
    seed: int = 0
    keep: str = ""  # this blueprint, or blend of blueprints, and no other


@dataclass
class Prepared:
    """A table turned into what blueprints learn from."""

    analysis: Analysis
    schema: Schema
    base: Floats
    y: Any
    partition: Partition
    metric: str
    notes: list[str]
    weights: Floats | None = None

    def weights_of(self, rows: Any) -> Floats | None:
        """The weights of some rows, or None where each counts once."""
        return None if self.weights is None else self.weights[rows]


def prepare(table: Table, options: Options) -> Prepared:
    """Analyse, choose inputs, partition; DataError where no model can be trained."""
    for name in (options.timestamp, options.association_id, options.group, options.weight, *options.exclude):
        if name and name not in table.names:
            raise DataError("unknown_column", f"there is no column {name!r}; columns: {', '.join(table.names)}")
    analysis = analyze(
        table,
        options.target,
        task=options.task,
        positive=options.positive,
        classes=options.classes,
        timestamp=options.timestamp,
        association_id=options.association_id,
        seed=options.seed,
    )
    metric = options.metric or default_metric(analysis.target.task)
    if metric not in metrics_of(analysis.target.task):
        raise DataError("unknown_metric", f"{metric!r} is no metric of a {analysis.target.task} task; these are: {', '.join(metrics_of(analysis.target.task))}")
    kept = table.take(analysis.labelled)
    kept, weights, weighing = weighted(kept, options)
    if len(kept) < LEAST_ROWS:
        raise DataError("too_few_rows", f"{len(kept)} rows have a target; {LEAST_ROWS} at least")
    y = _target_values(kept, analysis)
    times, note = _times(kept, options, analysis)
    notes = [*analysis.notes, *([note] if note else []), *weighing]
    groups = None
    if options.group:  # a row without a group is a group of its own
        groups = np.array([f"row {k}" if label is None else f"group {label}" for k, label in enumerate(kept.texts(options.group))], dtype=object)
    partition = make_partition(
        y, analysis.target.task, times, holdout=options.holdout, gap=int(options.gap_seconds * 1e6), seed=options.seed, groups=groups
    )
    if partition.note:
        notes.append(partition.note)
    chosen, analysis = choose_inputs(analysis, options, kept, partition, times)
    if not chosen:
        raise DataError("no_features", "no column is left to learn from")
    names = {report.name for report in chosen}
    unused = tuple(n for n in table.names if n not in names and n != options.target)
    schema = Schema(analysis.target, tuple(as_feature(kept, r) for r in chosen), unused)
    return Prepared(analysis, schema, schema.encode_table(kept), y, partition, metric, notes, weights)


def weighted(kept: Table, options: Options) -> tuple[Table, Floats | None, list[str]]:
    """The rows that count, their weights (None: once each), and what there is to say of it."""
    if not options.weight:
        return kept, None, []
    weights = kept.numbers(options.weight)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("wrong_weight", f"column {options.weight!r} holds weights: each must be a number of at least 0")
    counts = weights > 0
    left = [] if counts.all() else [f"{int((~counts).sum()):,} rows of weight 0 were left out"]
    return kept.take(counts), weights[counts], [*left, f"rows count as much as {options.weight!r} says, in training and in every score"]


def _target_values(kept: Table, analysis: Analysis) -> Any:
    if analysis.target.task == "regression":
        return kept.numbers(analysis.target.name)
    index = {label: k for k, label in enumerate(analysis.target.classes)}
    texts = kept.texts(analysis.target.name)
    spelt = {text: index[label_text(text)] for text in set(texts.tolist())}
    return np.array([spelt[text] for text in texts], dtype=np.int64)


def _times(kept: Table, options: Options, analysis: Analysis) -> tuple[Ints | None, str]:
    if options.timestamp:
        if not kept.is_date(options.timestamp):
            raise DataError("wrong_timestamp", f"column {options.timestamp!r} does not hold times")
        return kept.micros(options.timestamp), ""
    dates = [r.name for r in analysis.reports if r.kind == "date" and r.missing == 0]
    if len(dates) == 1:
        return kept.micros(dates[0]), f"rows are ordered by {dates[0]!r}, the only complete date"
    return None, ""


def choose_inputs(
    analysis: Analysis, options: Options, kept: Table, partition: Partition, times: Ints | None
) -> tuple[list[FeatureReport], Analysis]:
    """The columns models may read; each other one carries the reason why not."""
    drop = {"none": set(), "high": {"high"}, "all": {"high", "moderate"}}.get(options.drop_leakage)
    if drop is None:
        raise DataError("wrong_option", "drop_leakage is none, high or all")
    chosen, reports = [], []
    for report in analysis.reports:
        reason = ""
        if report.name in options.exclude:
            reason = "excluded"
        elif report.name in {options.group, options.weight}:
            reason = "not_used: group" if report.name == options.group else "not_used: weight"
        elif report.kind not in INPUT_KINDS:
            reason = f"not_used: {report.kind}"
        elif report.leakage in drop:
            reason = f"dropped: {report.leakage} leakage"
        elif any(w.startswith("duplicate_of: ") and w[14:] not in options.exclude for w in report.warnings):
            reason = "dropped: duplicate"
        elif partition.kind == "time" and report.kind == "numeric":
            auc = time_index_auc(kept.numbers(report.name), partition.folds)
            if auc >= TIME_AUC:
                report = replace(report, kind="time_index")  # noqa: PLW2901
                reason = f"dropped: time_index (tells training from validation rows, AUC {auc:.2f})"
            elif times is not None and too_few_days(kept.numbers(report.name), times):
                report = replace(report, kind="time_index")  # noqa: PLW2901
                reason = "dropped: time_index (fixed by the day, fewer than twenty days behind a value)"
        if reason:
            report = replace(report, warnings=(*report.warnings, reason))  # noqa: PLW2901
        else:
            chosen.append(report)
        reports.append(report)
    return chosen, replace(analysis, reports=tuple(reports))
