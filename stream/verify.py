"""Proof: every maintained number rebuilt from an empty state out of the log, beside the live one.

Drift counts are counted again from the stored rows, outcomes are joined again from predictions and
actuals, detectors read the recorded days again, the events' hashes are chained again. Equal means equal:
counts exactly, outcomes row for row, alarms bit for bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import orjson

from models.registry import Registry
from stream.association import LATEST, literal
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.concepts import Detectors, read_together
from stream.control import COLUMNS, chained, stored_bytes
from stream.events import CohortMatured
from stream.recount import MINUTE, recount

OUTCOME = "event_id, actual_class, ifNull(actual_value, nan), actual_at, actual_received_at, actual_event_id"


def verify(log: EventLog, registry: Registry, deployment: str, since: int = 0) -> dict[str, Any]:
    """What was rebuilt and what is live, with digests; `equal` says whether all agree.

    `since` (microseconds) is where rows begin that no retention has taken: older minutes are left out.
    """
    parts = {"drift": drift(log, registry, deployment, since), "outcomes": outcomes(log, deployment), "alarms": alarms(log, registry, deployment, since), "events": chain(log)}
    return {"deployment": deployment, "parts": parts, "equal": all(p["equal"] for p in parts.values())}


def digest(value: Any) -> str:
    """A short SHA-256 of a canonical text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def drift(log: EventLog, registry: Registry, deployment: str, since: int = 0) -> dict[str, Any]:
    """Counts of every baseline and minute, from the rows and from the fold."""
    first = -(-since // MINUTE) * 60
    rebuilt, rows = recount(log, registry, deployment, f"occurred_at >= fromUnixTimestamp64Micro({first * 1_000_000})")
    live = {
        (row["baseline_id"], row["at"] // 60): row["counts"]
        for row in log.rows(f"SELECT baseline_id, toUnixTimestamp(minute) AS at, sumForEach(counts) AS counts FROM drift_counts WHERE deployment = {literal(deployment)} AND minute >= {first} GROUP BY ALL")
        if any(row["counts"])
    }
    again = {key: counts.tolist() for key, counts in rebuilt.items()}
    wrong = sorted(key for key in set(live) | set(again) if live.get(key) != again.get(key))
    return {"rows": rows, "buckets": len(again), "rebuilt": digest(sorted(again.items())), "live": digest(sorted(live.items())), "equal": not wrong, "differ": [list(k) for k in wrong[:10]]}


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


def alarms(log: EventLog, registry: Registry, deployment: str, since: int = 0) -> dict[str, Any]:
    """Concept alarms raised again by a new detector that reads the recorded days in their order, beside those that were told.

    Where rows are gone (retention, erasure) there is nothing to read again, and it is said. The days of the newest look are left out:
    what is to be said of them may still be under way.
    """
    told = log.rows(f"SELECT type, payload FROM events WHERE deployment = {literal(deployment)} AND type IN ('cohort_matured', 'concept_drift_detected', 'data_erased') ORDER BY sequence")
    cohorts = [CohortMatured(**orjson.loads(row["payload"])) for row in told if row["type"] == "cohort_matured"]
    newest = max((cohort.cut for cohort in cohorts), default=0)
    settled = [cohort for cohort in cohorts if cohort.cut < newest]
    if since or any(row["type"] == "data_erased" for row in told):
        return {"rows": 0, "equal": True, "left_out": "rows that detectors have read are gone: by retention or erasure"}
    detectors, again = Detectors(log, registry, deployment, []), []
    while detectors.read < len(settled):
        again += [asdict(fact) for _, fact in detectors.feed(read_together(settled[detectors.read :]))]
    last = iso(settled[-1].end) if settled else ""
    live = [fact for row in told if row["type"] == "concept_drift_detected" and (fact := orjson.loads(row["payload"]))["until"] <= last]
    read = sum(cohort.matched for cohort in settled)
    return {"rows": read, "rebuilt": digest(sorted(map(orjson.dumps, again))), "live": digest(sorted(map(orjson.dumps, live))), "equal": sorted(map(orjson.dumps, again)) == sorted(map(orjson.dumps, live)), "alarms": len(again)}


def chain(log: EventLog) -> dict[str, Any]:
    """The hashes of all events chained again; `broken` is the first sequence that does not fit."""
    previous, count, broken = "", 0, None
    for row in log.rows(f"SELECT {COLUMNS} FROM events ORDER BY sequence"):
        previous = chained(previous, stored_bytes(row))
        count += 1
        if broken is None and (row["hash"] != previous or row["sequence"] != count):
            broken = row["sequence"]
    return {"rows": count, "rebuilt": previous[:16], "equal": broken is None, "broken": broken}
