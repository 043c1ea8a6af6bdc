"""What an AutoPilot run leaves behind: packages in the registry, leaderboard and analysis as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.analysis import Analysis
from models.autopilot import Entry, Result
from models.baseline import drift_score, freeze
from models.conformal import residual_quantiles
from models.detectors import errors_of, priming_of
from models.insights.curves import curves
from models.insights.importance import normalised, permutation_importance
from models.losses import Losses, learn_losses
from models.metrics import decide
from models.preparation import Options, Prepared, prepare
from models.registry import Registry
from models.schema import Target
from models.table import Table
from models.texts import freeze_texts
from models.types import Floats

ENOUGH_HELD = 2000


def save_all(registry: Registry, table: Table, result: Result, options: Options, more: dict[str, Any]) -> list[dict[str, Any]]:
    """Package every entry; answers the leaderboard as JSON with each model's id and insights."""
    data = prepare(table, options)
    rng = np.random.default_rng(options.seed)
    target = data.schema.target
    board = []
    importances: dict[str, dict[str, float]] = {}
    unread = {name: [int(table.missing(name).sum()), len(table)] for name in data.schema.unused}
    texts = [freeze_texts(r.name, table.texts(r.name).tolist(), options.seed).to_json() for r in data.analysis.reports if r.kind == "text"]
    losses: dict[int, Losses | None] = {}  # a model retrained on all rows keeps what was learnt of its parent's held-out ones
    for entry in result.entries:
        held = data.partition.holdout
        if entry.blueprint not in importances:
            importances[entry.blueprint] = permutation_importance(entry.plan, data.base[held], data.y[held], result.metric, options.seed, data.weights_of(held))
        used = rng.permutation(len(data.base))[:100_000] if len(data.base) > 100_000 else slice(None)  # noqa: PLR2004
        reference = entry.held if len(entry.held) >= ENOUGH_HELD else np.concatenate([entry.out_of_fold, entry.held])
        baseline = freeze(data.schema, data.base[used], drift_score(target, reference))
        summary = entry_json(entry, result.metric)
        metadata = {
            **more,
            **summary,
            "project_target": target.name,
            "task": target.task,
            "importance": normalised(importances[entry.blueprint]),
            "importance_raw": importances[entry.blueprint],
            "metrics": {k: v for k, v in entry.scores.items() if np.isfinite(v)},
            **held_out(target, data.y[held], entry.held, reference),
            "partition": result.partition,
            "seed": options.seed,
            "texts": texts,
            "unread": unread,
        }
        if id(entry.held) not in losses:
            losses[id(entry.held)] = losses_of(data, entry, options.seed)
        entry.model_id = registry.save(entry.plan, baseline, metadata, losses[id(entry.held)])
        board.append({**summary, "model_id": entry.model_id})
    return board


def losses_of(data: Prepared, entry: Entry, seed: int) -> Losses | None:
    """What an entry's errors were on the rows that no fit of it has seen, learnt; of values only."""
    if data.schema.target.task != "regression":
        return None
    seen = np.concatenate([validate for _, validate in data.partition.folds])
    if len(seen) != len(entry.out_of_fold):
        seen = seen[:0]
    rows = np.concatenate([seen, data.partition.holdout])
    said = np.concatenate([entry.out_of_fold[: len(seen)], entry.held])[:, 0]
    return learn_losses(data.schema, data.base[rows], data.y[rows], said, seed)


def held_out(target: Target, y: Any, output: Floats, reference: Floats) -> dict[str, Any]:
    """What a package keeps of rows that no fit has seen, with their outputs; the prediction's quantiles are of `reference`."""
    watched = reference.max(axis=1) if target.task == "multiclass" else drift_score(target, reference)
    return {
        "prediction_quantiles": np.quantile(watched, np.linspace(0, 1, 101)).tolist(),
        "residual_quantiles": residual_quantiles(y, output) if target.task == "regression" else None,
        "priming": priming_of(held_out_errors(target, y, output)),
        "insights": curves(target, y, output),
    }


def held_out_errors(target: Target, y: Any, output: Floats) -> Any:
    """The errors that a detector is primed with."""
    if target.task == "regression":
        return errors_of("regression", y, None, output[:, 0], target.upper - target.lower)
    return errors_of(target.task, y, decide(output), None, 1.0)


def entry_json(entry: Entry, metric: str) -> dict[str, Any]:
    """A leaderboard row."""
    return {
        "blueprint": entry.blueprint,
        "family": entry.family,
        "metric": metric,
        "validation": _finite(entry.validation),
        "cross_validation": [_finite(v) for v in entry.folds],
        "learning_curve": [{"rows": n, "validation": _finite(v)} for n, v in zip(entry.fold_rows, entry.folds, strict=True)],
        "holdout": _finite(entry.holdout),
        "ms_per_row": entry.ms_per_row,
        "train_seconds": entry.train_seconds,
        "rows": entry.rows,
        "trained_on": entry.trained_on,
        "recommended": entry.recommended,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def features_json(analysis: Analysis) -> list[dict[str, Any]]:
    """The feature analysis as JSON."""
    return [
        {
            "name": r.name,
            "kind": r.kind,
            "missing": r.missing,
            "unique": r.unique,
            "importance": r.importance,
            "leakage": r.leakage,
            "reasons": list(r.reasons),
            "warnings": list(r.warnings),
            "summary": r.summary,
            "associated": [list(pair) for pair in r.associated],
        }
        for r in analysis.reports
    ]
