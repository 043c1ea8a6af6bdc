"""AutoPilot: analysis, honest partition, every family, calibration, blend, leaderboard.

`run` is a generator: it yields progress as it goes and at the end the result, so that whoever
drives it decides where the progress is published and when to stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from models import calibration
from models.analysis import Analysis
from models.blueprints import REPOSITORY, Blueprint
from models.blueprints.base import fitted
from models.errors import TrainingError
from models.metrics import METRICS, score_all
from models.partition import Partition
from models.preparation import Options, Prepared, prepare
from models.schema import Target
from models.scoring import Part, ScoringPlan
from models.scoring import blend as mix
from models.table import Table
from models.types import Floats, Ints

BLEND_OF = 3
CHUNK = 50_000


@dataclass(frozen=True)
class Progress:
    """How far a run is, for people."""

    share: float
    message: str
    analysis: Analysis | None = None


@dataclass
class Entry:
    """One row of the leaderboard, with what is needed to package the model."""

    blueprint: str
    family: str
    plan: ScoringPlan
    validation: float
    holdout: float
    folds: list[float]
    fold_rows: list[int]
    scores: dict[str, float]
    train_seconds: float
    ms_per_row: float
    rows: int
    out_of_fold: Floats = field(repr=False)
    held: Floats = field(repr=False)
    model_id: str = ""
    recommended: bool = False
    trained_on: str = "development rows"


@dataclass(frozen=True)
class Result:
    """A finished run: the analysis, the partition in words, and the leaderboard, best first."""

    analysis: Analysis
    metric: str
    partition: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]


def run(table: Table, options: Options, blueprints: tuple[Blueprint, ...] = REPOSITORY) -> Iterator[Progress | Result]:
    """Train every blueprint, blend the best, retrain the recommended one on all rows."""
    started = time.monotonic()
    yield Progress(0.0, f"analysing {len(table):,} rows and {len(table.names)} columns")
    data = prepare(table, options)
    yield Progress(0.1, f"{len(data.schema.features)} features, {data.partition.kind} partition", data.analysis)
    entries: list[Entry] = []
    failures: list[str] = []
    for number, blueprint in enumerate(blueprints):
        spent = (time.monotonic() - started) / 60
        if options.minutes is not None and spent > options.minutes and len(entries) > 1:
            data.notes.append(f"{blueprint.name} and what follows were left out: {options.minutes:g} minutes are over")
            break
        try:
            entry = train_entry(data, blueprint, options)
        except (ValueError, FloatingPointError, TrainingError) as error:
            failures.append(f"{blueprint.name} failed: {error}")
            continue
        entries.append(entry)
        share = 0.1 + 0.75 * (number + 1) / len(blueprints)
        yield Progress(share, f"{blueprint.name}: {data.metric} {entry.validation:.4f} in {entry.train_seconds:.1f} s")
    if not entries:
        raise TrainingError("no_model", "no blueprint could be trained: " + "; ".join(failures))
    entries = ranked(entries, data.metric)
    blended = blend(data, [e for e in entries if e.blueprint != "constant"])
    if blended:
        entries = ranked([*entries, blended], data.metric)
    if options.keep:
        entries = kept(entries, options.keep)
    yield Progress(0.88, f"retraining {entries[0].blueprint} on all {len(data.y):,} rows")
    entries.insert(0, retrain_on_all(data, entries[0], blueprints, options))
    yield Result(data.analysis, data.metric, describe(data.partition), tuple(entries), (*data.notes, *failures))


def kept(entries: list[Entry], blueprint: str) -> list[Entry]:
    """The entry that was asked for first; TrainingError where it could not be made again."""
    wanted = set(blueprint.removeprefix("blend of ").split(", "))
    found = [e for e in entries if set(e.blueprint.removeprefix("blend of ").split(", ")) == wanted]
    if not found:
        raise TrainingError("no_model", f"{blueprint} could not be trained again on these rows")
    return [found[0], *(e for e in entries if e is not found[0])]


def ranked(entries: list[Entry], metric: str) -> list[Entry]:
    """Best validation score first; without one last."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    return sorted(entries, key=lambda e: sign * e.validation if np.isfinite(e.validation) else np.inf)


def sample_of(rows: Ints, most: int, kind: str, seed: int) -> Ints:
    """At most `most` rows: the newest of time-ordered ones, a seeded sample otherwise."""
    if len(rows) <= most:
        return rows
    return rows[-most:] if kind == "time" else np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def train_entry(data: Prepared, blueprint: Blueprint, options: Options) -> Entry:
    """Cross-validate, calibrate out of fold, fit on the development rows, score the holdout."""
    started = time.monotonic()
    target, kind = data.schema.target, data.partition.kind
    outputs, folds, rows, sizes = [], [], [], []
    for train, validate in data.partition.folds:
        train = sample_of(train, blueprint.most_rows, kind, options.seed)  # noqa: PLW2901
        if target.task != "regression" and len(np.unique(data.y[train])) < 2:  # noqa: PLR2004
            continue
        member = fitted(blueprint, data.schema, data.base[train], data.y[train], options.seed, data.weights_of(train))
        output = member.predict(data.base[validate])
        outputs.append(output)
        rows.append(validate)
        sizes.append(len(train))
        folds.append(score_of(target, data.y[validate], output, data.metric, data.weights_of(validate)))
    if not outputs:
        raise TrainingError("no_fold", "no fold has two classes in its training rows")
    out_of_fold, seen = np.concatenate(outputs), np.concatenate(rows)
    by: list[float] = []
    if target.task != "regression" and blueprint.name != "constant":
        fold = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        by = calibration.fit(out_of_fold, data.y[seen], fold, forward=kind == "time", weights=data.weights_of(seen))
    final = sample_of(data.partition.development, blueprint.most_rows, kind, options.seed)
    plan = ScoringPlan(data.schema, (Part(fitted(blueprint, data.schema, data.base[final], data.y[final], options.seed, data.weights_of(final))),), by)
    entry = entry_of(data, plan, blueprint.name, blueprint.family, calibration.calibrate(out_of_fold, by), seen)
    entry.folds, entry.fold_rows = folds, sizes
    entry.rows, entry.train_seconds = len(final), time.monotonic() - started
    return entry


def entry_of(data: Prepared, plan: ScoringPlan, name: str, family: str, out_of_fold: Floats, seen: Ints) -> Entry:
    """Score a plan on out-of-fold rows (at the places `seen`) and holdout rows, and take its speed."""
    target = data.schema.target
    held_y, weights = data.y[data.partition.holdout], data.weights_of(data.partition.holdout)
    held = predict_in_chunks(plan, data.base[data.partition.holdout])
    return Entry(
        blueprint=name,
        family=family,
        plan=plan,
        validation=score_of(target, data.y[seen], out_of_fold, data.metric, data.weights_of(seen)),
        holdout=score_of(target, held_y, held, data.metric, weights),
        folds=[],
        fold_rows=[],
        scores=score_all(target.task, held_y, values_of(target, held), w=weights),
        train_seconds=0.0,
        ms_per_row=single_row_ms(plan, data.base),
        rows=0,
        out_of_fold=out_of_fold,
        held=held,
    )


def predict_in_chunks(plan: ScoringPlan, base: Floats) -> Floats:
    """Predictions of many rows in bounded memory."""
    parts = [plan.predict(base[at : at + CHUNK]) for at in range(0, len(base), CHUNK)]
    return np.concatenate(parts) if parts else plan.predict(base)


def values_of(target: Target, output: Floats) -> Floats:
    """What metrics want: (n, K) probabilities or (n,) values."""
    return output[:, 0] if target.task == "regression" else output


def score_of(target: Target, y: Any, output: Floats, metric: str, weights: Floats | None = None) -> float:
    """One metric."""
    return METRICS[metric].function(y, values_of(target, output), weights)


def single_row_ms(plan: ScoringPlan, base: Floats) -> float:
    """Median milliseconds that a single base row takes."""
    rows = [row.tolist() for row in base[:50]]
    took = []
    for row in rows:
        begun = time.perf_counter()
        plan.predict_one(row)
        took.append(time.perf_counter() - begun)
    return float(np.median(took) * 1000)


def blend(data: Prepared, best: list[Entry]) -> Entry | None:
    """The equal-weight mean of the best calibrated models of different families."""
    chosen: list[Entry] = []
    for entry in best:
        if entry.family not in {e.family for e in chosen} and len(chosen) < BLEND_OF:
            chosen.append(entry)
    if len(chosen) < 2 or len({len(e.out_of_fold) for e in chosen}) > 1:  # noqa: PLR2004
        return None
    weights = [1.0 / len(chosen)] * len(chosen)
    parts = tuple(Part(e.plan.parts[0].member, w, e.plan.calibration) for e, w in zip(chosen, weights, strict=True))
    mixed = mix([e.out_of_fold for e in chosen], weights, data.schema.target.task)
    seen = np.concatenate([v for _, v in data.partition.folds])
    if len(seen) != len(mixed):
        return None
    plan = ScoringPlan(data.schema, parts)
    name = "blend of " + ", ".join(e.blueprint for e in chosen)
    entry = entry_of(data, plan, name, "blend", mixed, seen)
    entry.rows = max(e.rows for e in chosen)
    entry.train_seconds = sum(e.train_seconds for e in chosen)
    return entry


def retrain_on_all(data: Prepared, best: Entry, blueprints: tuple[Blueprint, ...], options: Options) -> Entry:
    """The best recipe fitted on every row; calibration and out-of-fold predictions stay its parent's."""
    started = time.monotonic()
    rows = np.concatenate([data.partition.development, data.partition.holdout])
    if data.partition.kind != "time":
        rows = np.sort(rows)
    names = best.blueprint.removeprefix("blend of ").split(", ")
    recipes = {b.name: b for b in blueprints}
    parts = []
    for name, part in zip(names, best.plan.parts, strict=True):
        blueprint = recipes[name]
        chosen = sample_of(rows, blueprint.most_rows, data.partition.kind, options.seed)
        member = fitted(blueprint, data.schema, data.base[chosen], data.y[chosen], options.seed, data.weights_of(chosen))
        parts.append(Part(member, part.weight, part.calibration))
    plan = ScoringPlan(data.schema, tuple(parts), best.plan.calibration)
    return replace(
        best,
        plan=plan,
        rows=len(rows),
        train_seconds=time.monotonic() - started,
        ms_per_row=single_row_ms(plan, data.base),
        recommended=True,
        trained_on="all rows",
    )


def describe(partition: Partition) -> str:
    """The partition in words."""
    how = {"time": "forward in time", "group": "by whole groups, stratified"}.get(partition.kind, "at random, stratified")
    return f"{len(partition.folds)} folds {how}, {len(partition.holdout):,} rows held out"
