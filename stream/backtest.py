"""A back-test of an alert rule: when it would have been raised and cleared on the stored history."""

from __future__ import annotations

from typing import Any

from models.errors import DataError
from models.registry import Registry
from stream.alerts import judge
from stream.association import literal
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.measures import measured
from stream.projections.catalog import Catalog

MOST_POINTS = 500


def backtest(log: EventLog, registry: Registry, catalog: Catalog, deployment: str, rule: dict[str, Any], step: int) -> dict[str, Any]:
    """Judge a rule at the end of every `step` seconds of event time, as the steward would have."""
    if str(rule["measure"]).startswith(("health.", "silence.")):
        raise DataError("no_backtest", "health and silence go by arrival: a replayed history has none of its own")
    sql = f"SELECT toUnixTimestamp64Micro(min(occurred_at)) AS a, toUnixTimestamp64Micro(max(occurred_at)) AS b, count() AS n FROM predictions_log WHERE deployment = {literal(deployment)} AND role = 'champion'"
    span = log.rows(sql)[0]
    points: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    firing, cleared = False, 0
    at = int(span["a"]) // (step * 1_000_000) * step * 1_000_000 + step * 1_000_000 if int(span["n"]) else 1
    end = int(span["b"]) + step * 1_000_000 if int(span["n"]) else 0
    if (end - at) // (step * 1_000_000) > MOST_POINTS:
        raise DataError("too_many_points", f"more than {MOST_POINTS} points: take a larger step")
    while at <= end:
        value = measured(log, registry, catalog, deployment, rule, at, until=at).value
        word = judge(rule, value, firing=firing, cleared_at=cleared, now=at)
        points.append({"at": iso(at), "value": value})
        if word:
            firing = word == "raise"
            cleared = cleared if firing else at
            changes.append({"at": iso(at), "change": "raised" if firing else "cleared", "value": value})
        at += step * 1_000_000
    return {"points": points, "changes": changes, "raised": sum(c["change"] == "raised" for c in changes)}
