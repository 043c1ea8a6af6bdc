"""Models that predict elsewhere: what they are watched by is made of a file with what they said."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from models.baseline import drift_score, freeze
from models.errors import DataError
from models.insights.importance import normalised
from models.members import EXTERNAL, ExternalMember
from models.metrics import score_all
from models.packaging import held_out
from models.preparation import Options, prepare
from models.registry import Registry
from models.schema import Target
from models.scoring import Part, ScoringPlan
from models.table import Table
from models.types import Floats

SUM_TOLERANCE = 1e-3  # how far a row's probabilities may be from 1: files hold rounded numbers


def register(registry: Registry, table: Table, options: Options, prediction: str, name: str) -> dict[str, Any]:
    """Make a package of a file with inputs, actuals and predictions; answers what the catalog wants to know of it.

    `prediction` is a column of values (or of the positive class's probabilities), or what the columns of the
    classes' probabilities begin with. The file is the reference of drift and the base line of accuracy.
    """
    if options.weight:
        raise DataError("wrong_option", "a reference has no weights: each of its rows counts once")
    said = prediction_columns(table.names, prediction)
    data = prepare(table.drop(said), replace(options, drop_leakage="none"))
    target = data.schema.target
    output = outputs_in(table.take(data.analysis.labelled), target, prediction, said)
    importance = {r.name: r.importance for r in data.analysis.reports if r.name in data.schema.names}
    scores = score_all(target.task, data.y, output[:, 0] if target.task == "regression" else output)
    summary: dict[str, Any] = {
        "blueprint": name,
        "family": EXTERNAL,
        "metric": data.metric,
        "validation": None,
        "cross_validation": [],
        "learning_curve": [],
        "holdout": scores[data.metric] if np.isfinite(scores[data.metric]) else None,
        "ms_per_row": None,
        "rows": len(data.y),
        "trained_on": "elsewhere",
        "recommended": False,
    }
    metadata = {
        **summary,
        "project_id": "",
        "project_target": target.name,
        "task": target.task,
        "importance": normalised(importance),
        "importance_raw": importance,
        "metrics": {k: v for k, v in scores.items() if np.isfinite(v)},
        **held_out(target, data.y, output, output),
        "partition": "all rows of the file are its reference",
        "seed": options.seed,
    }
    baseline = freeze(data.schema, data.base, drift_score(target, output))
    digest = registry.save(ScoringPlan(data.schema, (Part(ExternalMember(name)),)), baseline, metadata)
    return {**summary, "model_id": digest, "task": target.task, "target": target.name}


def prediction_columns(names: Collection[str], prediction: str) -> list[str]:
    """Those of the columns that hold what the model said; DataError where there are none."""
    found = [prediction] if prediction in names else [n for n in names if prediction and n.startswith(prediction)]
    if not found:
        raise DataError("unknown_column", f"there is no column {prediction!r}, and none that begins so; columns: {', '.join(names)}")
    return found


def outputs_in(table: Table, target: Target, prediction: str, said: list[str]) -> Floats:
    """The predictions of a table as outputs (n, K); DataError where they are none of this task's."""
    if said == [prediction] and target.task != "multiclass":
        return outputs_of_values(target, table.numbers(prediction).tolist())
    if target.task == "regression":
        raise DataError("wrong_prediction", f"a value is in one column, and there is none that is called {prediction!r}")
    missing = [label for label in target.classes if prediction + label not in said]
    if missing:
        raise DataError("wrong_prediction", f"there is no column {prediction}{missing[0]} for class {missing[0]!r}")
    columns = [table.numbers(prediction + label).tolist() for label in target.classes]
    return outputs_of_values(target, [dict(zip(target.classes, row, strict=True)) for row in zip(*columns, strict=True)])


def outputs_of_values(target: Target, values: list[Any]) -> Floats:
    """Predictions as outputs (n, K): numbers, probabilities of the positive class, or objects of a probability a class.

    DataError names the first row that is none of these.
    """
    out = np.full((len(values), max(1, len(target.classes))), np.nan)
    for k, value in enumerate(values):
        if type(value) is dict and target.task != "regression" and set(value) == set(target.classes):
            row = [value[label] for label in target.classes]
        elif target.task == "multiclass":
            raise DataError("wrong_prediction", f"row {k}: a prediction is an object with a probability for each of {', '.join(target.classes)}")
        else:
            row = [value] if target.task == "regression" else [1 - value, value] if type(value) in {int, float} else [value, value]
        if any(type(v) not in {int, float} for v in row):
            raise DataError("wrong_prediction", f"row {k}: {value!r} is no prediction of a {target.task} task")
        out[k] = row
    wrong = ~np.isfinite(out).all(axis=1)
    if target.task != "regression":
        wrong |= (out < 0).any(axis=1) | (out > 1).any(axis=1) | (np.abs(out.sum(axis=1) - 1) > SUM_TOLERANCE)
    if wrong.any():
        first = int(np.argmax(wrong))
        want = "a finite number" if target.task == "regression" else "probabilities that add up to 1"
        raise DataError("wrong_prediction", f"row {first}: {values[first]!r}: a prediction is {want}")
    return out
