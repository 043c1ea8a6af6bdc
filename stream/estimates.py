"""Accuracy before the actuals as an answer: CBPE for classes, DLE for values, each beside its own past error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from models.estimation import estimated
from models.losses import errors_of_losses
from models.registry import Registry
from models.types import Floats
from stream import queries
from stream.clickhouse import DICTIONARIES, EventLog
from stream.queries import Window
from stream.recount import package_of
from stream.rows import base_of, logged

MOST_CLASSES, MOST_VALUES = 1_000_000, 200_000  # rows that are read; of more, every k-th by the hash of its id


def estimate_answer(log: EventLog, registry: Registry, window: Window, rows: queries.Scored, realised: dict[str, float], count: int) -> dict[str, Any] | None:
    """Expected metrics of the `count` rows of a window, and of the matched ones (`rows`) beside what became true of them (`realised`)."""
    if rows.task == "regression":
        return values_estimate(log, registry, window, count)
    sql = f"SELECT probabilities FROM predictions WHERE {sampled(window, count, MOST_CLASSES)} AND length(probabilities) = {rows.p.shape[1]}"
    matched = estimated(rows.p)
    if count == len(rows.p):  # each row is matched: they have been read
        number, everything = count, matched
    else:
        flat = pc.list_flatten(log.arrow(sql).column("probabilities").combine_chunks()).to_numpy(zero_copy_only=False)
        p = np.asarray(flat, dtype=np.float64).reshape(-1, rows.p.shape[1])
        number, everything = len(p), estimated(p)
    if not number:
        return None
    past = beside(matched, realised if len(rows.y) else {})
    return {"method": "CBPE", "rows": number, "metrics": queries.finite(everything), "on_matched_rows": past, "assumes": "calibrated probabilities and an unchanged P(y | x)", "sql": sql}


def values_estimate(log: EventLog, registry: Registry, window: Window, count: int) -> dict[str, Any] | None:
    """Expected errors of values, by each row's own model; None where no model here has learnt its losses."""
    chosen = sampled(window, count, MOST_VALUES)
    source = queries.outcomes_as_of(window.deployment, window.as_of) if window.as_of is not None else "outcomes"
    sql = f"""SELECT p.model_id AS model_id, p.predicted_value AS predicted_value, p.features_num AS features_num, p.features_cat AS features_cat, o.event_id != '' AS matched, o.actual_value AS actual_value
FROM (SELECT model_id, event_id, predicted_value, features_num, features_cat FROM predictions WHERE {chosen}) AS p
LEFT JOIN (SELECT event_id, actual_value FROM {source} WHERE {chosen}) AS o ON p.event_id = o.event_id"""
    table = log.arrow(sql, settings=DICTIONARIES)
    losses, said, true = [np.zeros((0, 2))], [np.zeros(0)], [np.zeros(0)]
    for model_id in pc.unique(table.column("model_id")).to_pylist():
        package = package_of(registry, model_id)
        if package.losses is None:
            continue
        part = table.filter(pc.equal(table.column("model_id"), model_id))
        base = base_of(package.schema, logged(part))
        said.append(numbers(part, "predicted_value"))
        losses.append(package.losses.expected(base, said[-1]))
        true.append(np.where(part.column("matched").to_numpy(zero_copy_only=False).astype(bool), numbers(part, "actual_value"), np.nan))
    expected, answers, actual = np.concatenate(losses), np.concatenate(said), np.concatenate(true)
    if not len(expected):
        return None
    matched = np.isfinite(actual)
    errors = actual[matched] - answers[matched]
    realised = {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))} if matched.any() else {}
    past = beside(errors_of_losses(expected[matched]), realised)
    return {"method": "DLE", "rows": len(expected), "metrics": errors_of_losses(expected), "on_matched_rows": past, "assumes": "an unchanged P(y | x)", "sql": sql}


def sampled(window: Window, count: int, most: int) -> str:
    """The WHERE of a window's served rows; of more than `most` every k-th."""
    every = -(-count // most)
    return f"{window.where()} AND role = 'champion' AND {queries.SERVED}" + (f" AND cityHash64(event_id) % {every} = 0" if every > 1 else "")


def beside(estimates: dict[str, float], realised: dict[str, float]) -> dict[str, Any]:
    """The method's own error where the outcome is known."""
    return {name: {"estimated": value, "realised": realised[name], "error": value - realised[name]} for name, value in estimates.items() if name in realised}


def numbers(table: Any, name: str) -> Floats:
    """A column as numbers."""
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)
