"""Proof: every maintained number rebuilt from an empty state out of the log, beside the live one.

Drift counts are counted again from the stored rows, outcomes are joined again from predictions and
actuals, the events' hashes are chained again. Equal means equal: counts exactly, outcomes row for row.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from models.baseline import drift_score
from models.registry import Registry
from stream import events
from stream.association import LATEST, literal
from stream.clickhouse import EventLog
from stream.control import COLUMNS, chained
from stream.engine import outputs_from
from stream.monitoring import package_of
from stream.projections.drift import MINUTE
from stream.rows import base_of, columns_of_maps

CHUNK = 50_000
OUTCOME = "event_id, actual_class, ifNull(actual_value, nan), actual_at, actual_received_at, actual_event_id"


def verify(log: EventLog, registry: Registry, deployment: str) -> dict[str, Any]:
    """What was rebuilt and what is live, with digests; `equal` says whether all agree."""
    parts = {"drift": drift(log, registry, deployment), "outcomes": outcomes(log, deployment), "events": chain(log)}
    return {"deployment": deployment, "parts": parts, "equal": all(p["equal"] for p in parts.values())}


def digest(value: Any) -> str:
    """A short SHA-256 of a canonical text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def drift(log: EventLog, registry: Registry, deployment: str) -> dict[str, Any]:
    """Counts of every baseline and minute, from the rows and from the fold."""
    rebuilt: dict[tuple[str, int], Any] = {}
    rows = 0
    where = f"deployment = {literal(deployment)} AND role = 'champion'"
    last = ""
    while True:
        sql = f"""SELECT model_id, event_id, toUnixTimestamp64Micro(occurred_at) AS time, features_num, features_cat, predicted_value, probabilities
FROM predictions WHERE {where} AND event_id > {literal(last)} ORDER BY event_id LIMIT {CHUNK}"""
        found = log.arrow(sql)
        if not found.num_rows:
            break
        rows += found.num_rows
        last = found.column("event_id")[-1].as_py()
        for model_id in set(found.column("model_id").to_pylist()):
            mask = pa.compute.equal(found.column("model_id"), model_id)
            _count(rebuilt, registry, model_id, found.filter(mask).combine_chunks())
    live = {
        (row["baseline_id"], row["at"]): row["counts"]
        for row in log.rows(f"SELECT baseline_id, toUnixTimestamp(minute) AS at, sumForEach(counts) AS counts FROM drift_counts WHERE deployment = {literal(deployment)} GROUP BY ALL")
    }
    again = {key: counts.tolist() for key, counts in rebuilt.items()}
    wrong = sorted(key for key in set(live) | set(again) if live.get(key) != again.get(key))
    return {"rows": rows, "buckets": len(again), "rebuilt": digest(sorted(again.items())), "live": digest(sorted(live.items())), "equal": not wrong, "differ": [list(k) for k in wrong[:10]]}


def _count(rebuilt: dict[tuple[str, int], Any], registry: Registry, model_id: str, part: pa.Table) -> None:
    package = package_of(registry, model_id)
    table = pa.table({"row": pa.array(np.arange(len(part))), **columns_of_maps(part)})
    minutes, group = np.unique(part.column("time").to_numpy() // MINUTE, return_inverse=True)
    score = drift_score(package.schema.target, outputs_from(package, part))
    counts = package.baseline.counts(base_of(package.schema, table), score, group.astype(np.int64), len(minutes))
    for minute, row in zip(minutes.tolist(), counts, strict=True):
        key = (model_id, minute * 60)
        rebuilt[key] = rebuilt[key] + row if key in rebuilt else row


def outcomes(log: EventLog, deployment: str) -> dict[str, Any]:
    """Outcomes joined again from predictions and actuals, and those that are kept."""
    figures = f"count() AS rows, toString(sum(toUInt256(sipHash64({OUTCOME})))) AS digest"
    latest = LATEST.replace(" AND association_id IN ({ids})", "").format(deployment=literal(deployment))
    again = log.rows(f"""SELECT {figures} FROM (
    SELECT p.event_id AS event_id, a.latest.2 AS actual_class, a.latest.1 AS actual_value, a.latest.3 AS actual_at, a.latest.4 AS actual_received_at, a.latest.5 AS actual_event_id
    FROM (SELECT event_id, association_id FROM predictions WHERE deployment = {literal(deployment)}) AS p
    INNER JOIN ({latest}) AS a ON p.association_id = a.association_id WHERE NOT a.latest.6)""")[0]
    live = log.rows(f"SELECT {figures} FROM outcomes WHERE deployment = {literal(deployment)}")[0]
    return {"rows": again["rows"], "rebuilt": again["digest"], "live": live["digest"], "live_rows": live["rows"], "equal": again == live}


def chain(log: EventLog) -> dict[str, Any]:
    """The hashes of all events chained again; `broken` is the first sequence that does not fit."""
    previous, count, broken = "", 0, None
    for row in log.rows(f"SELECT {COLUMNS} FROM events ORDER BY sequence"):
        previous = chained(previous, events.decode(row))
        count += 1
        if broken is None and (row["hash"] != previous or row["sequence"] != count):
            broken = row["sequence"]
    return {"rows": count, "rebuilt": previous[:16], "equal": broken is None, "broken": broken}
