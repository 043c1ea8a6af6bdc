"""Custom metrics: an aggregate over a deployment's rows, defined today and answered for any window of the past.

A definition: `value` (an aggregate such as `sum(if(predicted_class = actual_class, 12, -80))`), `over`
(`outcomes`, or `predictions` where no actual is needed), `where` (a condition). It is not computed ahead and
kept: it is a SELECT, so it has all of history at once and every segment, and nothing to be rebuilt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from models.errors import DataError
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.errors import QueryRejected
from stream.queries import SERVED, Window, outcomes_as_of, roles_of
from stream.segments import expression

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
OVER = ("outcomes", "predictions")
READS = re.compile(r"\b(SELECT|FROM|INTO|SETTINGS|FORMAT)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Metric:
    """A definition that was read."""

    name: str
    value: str
    over: str = "outcomes"
    where: str = "1"


def read_metric(name: str, data: dict[str, Any]) -> Metric:
    """A definition with its defaults; DataError or Refused says what is wrong."""
    if not NAME.fullmatch(name):
        raise DataError("wrong_metric", "a metric's name has letters, digits and underscores, and begins with a letter")
    unknown = sorted(set(data) - {"value", "over", "where"})
    if unknown or data.get("over", "outcomes") not in OVER:
        raise DataError("wrong_metric", f"a metric has value, over ({' or '.join(OVER)}) and where" + (f", not {unknown[0]!r}" if unknown else ""))
    texts = {part: expression(str(data.get(part) or "")) if data.get(part) or part == "value" else "1" for part in ("value", "where")}
    if any(READS.search(text) for text in texts.values()):
        raise DataError("wrong_metric", "value and where are expressions over the rows' columns, without queries of their own")
    return Metric(name, texts["value"], str(data.get("over", "outcomes")), texts["where"])


def answer(log: EventLog, window: Window, metric: Metric) -> dict[str, Any]:
    """The metric of a window and of each of its buckets, with the rows behind it and its SELECT; DataError where it is no number."""
    source = outcomes_as_of(window.deployment, window.as_of) if metric.over == "outcomes" and window.as_of is not None else metric.over
    whose = roles_of(window)
    rows = f"FROM {source} WHERE {window.where()} AND {whose} AND {SERVED} AND ({metric.where})"
    sql = f"SELECT {window.bucketed()} AS at, toFloat64({metric.value}) AS value, count() AS rows\n{rows}\nGROUP BY at ORDER BY at"
    whole = f"SELECT toFloat64({metric.value}) AS value, count() AS rows\n{rows}"
    try:
        buckets, totals = log.rows(sql), log.rows(whole)[0]
    except QueryRejected as error:
        raise DataError("wrong_metric", f"{metric.name} cannot be computed: {error}"[:500]) from error
    return {
        "name": metric.name,
        "over": metric.over,
        "value": totals["value"] if totals["rows"] else None,
        "rows": totals["rows"],
        "buckets": [{"at": iso(row["at"]), "value": row["value"], "rows": row["rows"]} for row in buckets],
        "sql": sql,
        "totals_sql": whole,
    }


def defined(settings: dict[str, Any]) -> list[Metric]:
    """The metrics of a deployment's settings."""
    return [read_metric(name, data) for name, data in (settings.get("custom_metrics") or {}).items()]


def newest_value(log: EventLog, settings: dict[str, Any], window: Window, name: str) -> tuple[float | None, str, int]:
    """A metric's number, SELECT and rows for a rule; nothing where it is not defined."""
    metric = next((m for m in defined(settings) if m.name == name), None)
    if metric is None:
        return None, "", 0
    found = answer(log, window, metric)
    return found["value"], found["totals_sql"], int(found["rows"])
