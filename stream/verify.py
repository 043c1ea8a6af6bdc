"""Proof: every maintained number rebuilt from an empty state out of the log, beside the live one.

Drift counts and arrivals are counted again from the stored rows, outcomes are joined again from predictions and
actuals, detectors and intervals read the recorded days again, the events' hashes are chained again. Equal means equal:
counts exactly, outcomes row for row, alarms bit for bit.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict
from typing import Any

import orjson

from models.registry import Registry
from stream.association import LATEST, literal
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.cohorts import read_together
from stream.concepts import Detectors
from stream.control import COLUMNS, chained, stored_bytes
from stream.events import CohortMatured
from stream.projections.arrivals import MINUTE, SIZE, arrivals_again
from stream.recount import recount

INTERVALS, ALWAYS = "intervals", ("", "")
OUTCOME = "event_id, actual_class, ifNull(actual_value, nan), actual_at, actual_received_at, actual_event_id"


def verify(log: EventLog, registry: Registry, deployment: str, since: int = 0) -> dict[str, Any]:
    """What was rebuilt and what is live, with digests; `equal` says whether all agree.

    `since` (microseconds) is where rows begin that no retention has taken: older minutes are left out.
    """
    parts = {"drift": drift(log, registry, deployment, since), "arrivals": arrivals(log, deployment, since), "outcomes": outcomes(log, deployment), "alarms": alarms(log, registry, deployment, since), "events": chain(log)}
    return {"deployment": deployment, "parts": parts, "equal": all(p["equal"] for p in parts.values())}


def digest(value: Any) -> str:
    """A short SHA-256 of a canonical text."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def drift(log: EventLog, registry: Registry, deployment: str, since: int = 0) -> dict[str, Any]:
    """Counts of every baseline and minute, from the rows and from the fold."""
    first = -(-since // MINUTE) * 60
    rebuilt, rows = recount(log, registry, deployment, f"occurred_at >= fromUnixTimestamp64Micro({first * 1_000_000})")
    live = {
        (row["baseline_id"], row["at"] // 60): row["counts"] + row["sums"]
        for row in log.rows(f"SELECT baseline_id, toUnixTimestamp(minute) AS at, sumForEach(counts) AS counts, sumForEach(sums) AS sums FROM drift_counts WHERE deployment = {literal(deployment)} AND minute >= {first} GROUP BY ALL")
        if any(row["counts"])
    }
    return {"rows": rows, **compared(live, {key: counts.tolist() for key, counts in rebuilt.items()})}


def arrivals(log: EventLog, deployment: str, since: int = 0) -> dict[str, Any]:
    """Requests, rows and latencies of every minute of arrival, by the engine out of the rows and from the fold; and who asked."""
    first = -(-since // MINUTE) * 60
    known = f"deployment = {literal(deployment)}"
    again = {("", minute): bucket.tolist() for minute, bucket in arrivals_again(log, deployment, f"recorded_at >= fromUnixTimestamp64Micro({first * 1_000_000})").items()}
    live = {
        ("", row["at"] // 60): row["counts"] + [0] * (SIZE - len(row["counts"])) + [row["all_rows"], row["latency"], row["requests"]]
        for row in log.rows(f"SELECT toUnixTimestamp(minute) AS at, sumForEach(latency_counts) AS counts, sum(rows) AS all_rows, sum(toInt64(round(latency_us_sum * 10))) AS latency, sum(requests) AS requests FROM arrivals WHERE {known} AND minute >= {first} GROUP BY at")
        if row["all_rows"]
    }
    who = f"SELECT DISTINCT toUnixTimestamp(toStartOfMinute(recorded_at)) AS at, consumer FROM predictions WHERE {known} AND role = 'champion' AND recorded_at >= toDateTime({first})"
    for found, sql in ((again, who), (live, f"SELECT toUnixTimestamp(minute) AS at, consumer FROM consumers WHERE {known} AND minute >= {first}")):
        found.update({(row["consumer"] or "-", row["at"] // 60): [1] for row in log.rows(sql)})
    return {"rows": sum(bucket[SIZE] for (consumer, _), bucket in again.items() if not consumer), **compared(live, again)}


def compared(live: dict[tuple[str, int], list[int]], again: dict[tuple[str, int], list[int]]) -> dict[str, Any]:
    """Counts that are kept beside those made again."""
    wrong = sorted(key for key in set(live) | set(again) if live.get(key) != again.get(key))
    return {"buckets": len(again), "rebuilt": digest(sorted(again.items())), "live": digest(sorted(live.items())), "equal": not wrong, "differ": [list(k) for k in wrong[:10]]}


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
    """Alarms raised again by new detectors that read the recorded days in their order, and intervals adapted again, beside what was told.

    Of what was asked for, nothing may have been told that it does not say; while it is asked for, nothing may be kept back.
    Where rows are gone (retention, erasure) there is nothing to read again, and it is said. The days of the newest look are left out:
    what is to be said of them may still be under way.
    """
    types = ("cohort_matured", "concept_drift_detected", "change_detected", "intervals_adapted", "deployment_configured", "data_erased")
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in types}
    for row in log.rows(f"SELECT type, payload, toUnixTimestamp64Micro(occurred_at) AS at FROM events WHERE deployment = {literal(deployment)} AND type IN {types} ORDER BY sequence"):
        told[row["type"]].append({**orjson.loads(row["payload"]), "said_at": int(row["at"])})
    if since or told["data_erased"]:
        return {"rows": 0, "equal": True, "left_out": "rows that detectors have read are gone: by retention or erasure"}
    cohorts = [CohortMatured(**plain(fact)) for fact in told["cohort_matured"]]
    newest = max((cohort.cut for cohort in cohorts), default=0)
    settled = [cohort for cohort in cohorts if cohort.cut < newest]
    asked = asked_since(told["deployment_configured"])
    known = asked.keys() | {asked_by(fact) for name in ("change_detected", "intervals_adapted") for fact in told[name]}
    kinds, steps = [{"kind": kind, "on": on} for kind, on in sorted(known) if kind != INTERVALS], sorted(float(step) for kind, step in known if kind == INTERVALS)
    detectors, again = Detectors(log, registry, deployment, kinds, steps), []
    while detectors.read < len(settled):
        again += [asdict(fact) for _, fact in detectors.feed(read_together(settled[detectors.read :]))]
    last = iso(settled[-1].end) if settled else ""
    live = [plain(fact) for name in ("concept_drift_detected", "change_detected", "intervals_adapted") for fact in told[name] if fact["until"] <= last]
    must = [fact for fact in again if asked_by(fact) == ALWAYS or asked.get(asked_by(fact), newest) < newest]
    raised, said, due = (Counter(map(orjson.dumps, facts)) for facts in (again, live, must))
    differ = [*(said - raised).elements(), *(due - said).elements()]
    return {
        "rows": sum(cohort.matched for cohort in settled),
        "rebuilt": digest(sorted((due | (raised & said)).elements())),
        "live": digest(sorted(said.elements())),
        "equal": not differ,
        "alarms": len(live),
        "differ": [orjson.loads(fact) for fact in differ[:10]],
    }


def asked_by(fact: dict[str, Any]) -> tuple[str, str]:
    """Who says a fact: the kind of a detector and what it is on, or the step of adapted intervals."""
    return (INTERVALS, str(fact["step"])) if "step" in fact else (fact["detector"], fact["on"]) if "detector" in fact else ALWAYS


def asked_since(configured: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """The detectors and adapted intervals that are asked for (`asked_by`), and since when (microseconds)."""
    found: dict[tuple[str, str], int] = {}
    for fact in configured:
        settings = fact["settings"]
        if "detectors" in settings:
            wanted = [(one["kind"], one["on"]) for one in settings["detectors"] or []]
            found = {one: since for one, since in found.items() if one[0] == INTERVALS} | {one: found.get(one, fact["said_at"]) for one in wanted}
        if "adaptive_intervals" in settings:
            now = (INTERVALS, str(settings["adaptive_intervals"]))
            since = found.get(now, fact["said_at"])
            found = {one: at for one, at in found.items() if one[0] != INTERVALS} | ({now: since} if settings["adaptive_intervals"] else {})
    return found


def plain(fact: dict[str, Any]) -> dict[str, Any]:
    """A fact without when it was said."""
    return {name: value for name, value in fact.items() if name != "said_at"}


def chain(log: EventLog) -> dict[str, Any]:
    """The hashes of all events chained again; `broken` is the first sequence that does not fit."""
    previous, count, broken = "", 0, None
    for row in log.rows(f"SELECT {COLUMNS} FROM events ORDER BY sequence"):
        previous = chained(previous, stored_bytes(row))
        count += 1
        if broken is None and (row["hash"] != previous or row["sequence"] != count):
            broken = row["sequence"]
    return {"rows": count, "rebuilt": previous[:16], "equal": broken is None, "broken": broken}
