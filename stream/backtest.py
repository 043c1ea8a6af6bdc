"""A back-test of an alert rule: when it would have been raised and cleared on the stored history, and how often before accuracy fell."""

from __future__ import annotations

from typing import Any

from models.comparing import LEAST_MATCHED
from models.errors import DataError
from models.registry import Registry
from stream.alerts import judge
from stream.association import literal
from stream.clickhouse import EventLog
from stream.clock import iso, parse_time
from stream.measures import loss, measured, seconds_of
from stream.monitoring import WARNING, accuracy_answer
from stream.projections.catalog import Catalog
from stream.queries import Window

MOST_POINTS = 500
FOREVER = 1 << 62


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
    raised = sum(c["change"] == "raised" for c in changes)
    beside = None if str(rule["measure"]).startswith("accuracy.") else beside_accuracy(log, registry, catalog, deployment, changes, step, seconds_of(rule.get("window", "1d")))
    return {"points": points, "changes": changes, "raised": raised, "accuracy": beside}


def beside_accuracy(log: EventLog, registry: Registry, catalog: Catalog, deployment: str, changes: list[dict[str, Any]], step: int, lead: int) -> dict[str, Any]:
    """How many of the steps in which accuracy fell (5 % below the holdout, after one in which it had not) the rule had announced."""
    found = accuracy_answer(log, registry, catalog, Window(deployment, bucket=step))
    baseline = found["totals"]["metrics"][found["metric"]]["baseline"]
    known = [(parse_time(b["at"]), worse) for b in found["buckets"] if b["rows"] >= LEAST_MATCHED and (worse := loss(found["metric"], b["metrics"][found["metric"]], baseline)) is not None]
    falls = [at for (at, worse), (_, before) in zip(known, [(0, 0.0), *known], strict=False) if worse >= WARNING > before]
    told = [parse_time(change["at"]) for change in changes]
    firing = list(zip(told[::2], [*told[1::2], *([FOREVER] if len(told) % 2 else [])], strict=True))
    return {"metric": found["metric"], "lead_seconds": lead, **announced(falls, firing, step * 1_000_000, lead * 1_000_000), "sql": found["sql"]}


def announced(falls: list[int], firing: list[tuple[int, int]], step: int, lead: int) -> dict[str, int]:
    """Of falls (beginnings of steps) those before whose end the rule fired, at most `lead` before it; and how often it fired for nothing.

    >>> announced([10, 50], [(8, 12), (30, 35)], 5, 3)
    {'fell': 2, 'announced': 1, 'raised_for_nothing': 1}
    """
    heralds = [[(start, end) for start, end in firing if start <= at + step and end >= at - lead] for at in falls]
    useful = {pair for found in heralds for pair in found}
    return {"fell": len(falls), "announced": sum(map(bool, heralds)), "raised_for_nothing": len([pair for pair in firing if pair not in useful])}
