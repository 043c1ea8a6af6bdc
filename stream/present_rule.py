"""The rule that decides at present, or did before there was a model, beside what is served: the same rows, the same metrics.

A rule is what a deployment's setting `present_rule` says: an input's name (its value is what the rule says), of two classes a
segment (the positive class where it holds), or `sql:EXPRESSION` over a row. It is read from the stored rows when it is asked
for, so it has all of history the moment it is set.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataError
from models.metrics import OF_DECISIONS
from models.payoff import Payoff
from models.registry import Registry
from models.schema import Schema
from models.types import Floats, label_text
from stream import queries
from stream.association import literal
from stream.clickhouse import EventLog
from stream.comparison import gain, judged, paired
from stream.errors import QueryRejected, Refused
from stream.learners import target_package
from stream.projections.catalog import Catalog
from stream.queries import Scored, Window
from stream.rows import number_or_none
from stream.segments import condition, expression

NAMES = {"champion": "rule", "challenger": "served"}
HALF = 0.5


def expression_of(rule: str, schema: Schema) -> str:
    """What a rule says of a row, in SQL; DataError where it cannot be read."""
    key, target = literal(rule), schema.target
    try:
        if rule.startswith("sql:"):
            return f"({expression(rule[4:])})"
        kinds = dict.fromkeys(schema.unused, "") | {f.name: f.kind for f in schema.features}
        if rule in kinds:
            number = f"if(mapContains(features_num, {key}), features_num[{key}], NULL)"
            numeric = target.task == "regression" or (target.task == "binary" and kinds[rule] in {"numeric", "boolean"})
            return number if numeric else f"ifNull(toString({number}), features_cat[{key}])"
        if target.task == "binary":
            return f"if({condition(rule)}, 1, 0)"
    except Refused as error:
        raise DataError("wrong_rule", str(error)) from error
    raise DataError("wrong_rule", f"{rule!r} is no input; a rule is an input's name, sql:EXPRESSION, or of two classes a segment such as distance>=1000")


def tried(log: EventLog, deployment: str, rule: str, schema: Schema) -> None:
    """Ask a rule of one row; DataError where the engine refuses it, or what it says is more than one value."""
    try:
        table = log.arrow(f"SELECT {expression_of(rule, schema)} AS said FROM outcomes WHERE deployment = {literal(deployment)} LIMIT 1")
    except QueryRejected as error:
        raise DataError("wrong_rule", f"{rule!r} cannot be asked: {error}"[:500]) from error
    one_value(rule, table.column("said"))


def one_value(rule: str, said: pa.ChunkedArray) -> pa.ChunkedArray:
    """What a rule says of rows; DataError where it is a list or a map of each."""
    if pa.types.is_nested(said.type):
        raise DataError("wrong_rule", f"{rule!r} says {said.type} of a row: a rule says one class or one number")
    return said


def rule_answer(log: EventLog, registry: Registry, catalog: Catalog, window: Window, *, mature: bool) -> dict[str, Any] | None:
    """The rule's metrics beside those of what was served, on the matched rows of which it says anything, with five-block intervals; None where none is set.

    A rule that decides and gives no probability has the metrics of decisions. Whether what is served is `better` is not said while the window is not mature.
    """
    deployment = catalog.deployment(window.deployment)
    rule = deployment.settings.get("present_rule")
    if not rule:
        return None
    try:
        schema = target_package(registry, catalog.models, window.model_id or deployment.now.champion).schema
        target, said = schema.target, expression_of(rule, schema)
        sql, table = queries.outcome_rows(log, window, target.task, roles=queries.roles_of(window), more=f"{said} AS said")
        one_value(rule, table.column("said"))
    except (QueryRejected, DataError) as error:
        return {"rule": rule, "error": str(error)[:500]}
    if target.task == "regression":
        table = table.filter(pc.is_finite(pc.fill_null(table.column("actual_value"), np.nan)))
    rows = queries.scored(table, target.task, lambda m: target_package(registry, catalog.models, m).schema.target.classes, target.classes)
    theirs, silent, sure = read(rows, table.column("said"))
    answer: dict[str, Any] = {"rule": rule, "rows": int((~silent).sum()), "silent_rows": int(silent.sum()), "sql": sql}
    return {**answer, **compared(rows, theirs, ~silent, sure=sure, payoff=deployment.settings.get("payoff"), mature=mature)}


def compared(rows: Scored, theirs: Scored, keep: Any, *, sure: bool, payoff: Payoff | None, mature: bool) -> dict[str, Any]:
    """The rule and what was served on the rows to keep."""
    both = replace(
        rows,
        y=np.concatenate([rows.y, rows.y]),
        p=np.concatenate([theirs.p, rows.p]),
        times=np.concatenate([rows.times, rows.times]),
        chosen=None if rows.chosen is None or theirs.chosen is None else np.concatenate([theirs.chosen, rows.chosen]),
    )
    first = np.nonzero(keep)[0]
    second = first + len(rows.y)
    one: dict[str, Any] = {"metrics": paired(both, first, second), "payoff": gain(both, first, second, payoff)}
    if mature:
        judged([one])
    metrics = {name: renamed(entry) for name, entry in one["metrics"].items() if not sure or name in OF_DECISIONS}
    return {"metrics": metrics, "payoff": one["payoff"] and renamed(one["payoff"])}


def renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """A comparison in which the rule is the first and what was served the second."""
    return {NAMES.get(name, name): value for name, value in entry.items()}


def read(rows: Scored, said: pa.ChunkedArray) -> tuple[Scored, Any, bool]:
    """What a rule says of some rows as if a model had; the rows (n,) of which it says nothing, and whether it decides rather than gives a probability."""
    kind = said.type
    if rows.task == "regression":
        values = numbers(said)
        silent = ~np.isfinite(values)
        return replace(rows, p=np.where(silent, 0.0, values)), silent, False
    size = len(rows.labels)
    if rows.task == "binary" and (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        values = numbers(said)
        silent = ~((values >= 0) & (values <= 1))
        values = np.where(silent, 0.0, values)
        p = np.zeros((len(values), size))  # labels beyond the two are of actuals never trained
        p[:, 0], p[:, 1] = 1 - values, values
        return replace(rows, p=p, chosen=(values >= HALF).astype(np.int64)), silent, bool(np.isin(values, (0.0, 1.0)).all())
    codes, texts = queries.coded(said)
    index = {label: k for k, label in enumerate(rows.labels)}
    chosen = np.array([index.get(label_text(text), -1) if text is not None else -1 for text in texts], dtype=np.int64)[codes]
    silent = chosen < 0
    chosen = np.maximum(chosen, 0)
    return replace(rows, p=np.eye(size)[chosen], chosen=chosen), silent, True


def numbers(said: pa.ChunkedArray) -> Floats:
    """What a rule says as numbers (n,), NaN where it is none."""
    if pa.types.is_null(said.type):
        return np.full(len(said), np.nan)
    if pa.types.is_floating(said.type) or pa.types.is_integer(said.type) or pa.types.is_boolean(said.type):
        return np.asarray(pc.fill_null(pc.cast(said, pa.float64()), np.nan).to_numpy(), dtype=np.float64)
    codes, texts = queries.coded(said)
    found = [number_or_none(None if text is None else str(text)) for text in texts]
    return np.asarray(np.array([np.nan if value is None else value for value in found], dtype=np.float64)[codes])
