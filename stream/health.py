"""Service health: requests, rows, errors, latency and who asked, by arrival time.

From the rows, with exact quantiles, for any window, segment and time; or from what the worker maintains, where requests, rows and
consumers are the same numbers and a quantile is at most 2 % off: a month of ten million rows is answered at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from stream.clickhouse import EventLog
from stream.clock import iso
from stream.projections.arrivals import FIRST, MINUTE, quantiles
from stream.queries import Window

LEVELS = (0.5, 0.9, 0.95, 0.99)
NAMES = ("p50", "p90", "p95", "p99")
FAILING, WARNING = 0.01, 0.05  # shares of requests that fail by our fault, or by the client's
NOTHING: dict[str, Any] = {"requests": 0, "rows": 0, "latency_us": None, "consumers": 0}


def health_answer(log: EventLog, window: Window, *, sketched: bool = False) -> dict[str, Any]:
    """The answer, totals and buckets; `sketched`: from the maintained minutes, where they have what is asked for."""
    sketched = sketched and window.folded and not window.model_id and not (window.start or 0) % MINUTE and not (window.end or 0) % MINUTE
    found, total, busiest, sql = (from_minutes if sketched else from_rows)(log, window)
    plain = replace(window, model_id="", segment="")  # a refused request has no inputs
    refused = f"""SELECT {plain.bucketed("recorded_at")} AS at, countIf(status >= 400 AND status < 500) AS user_errors, countIf(status >= 500) AS server_errors
FROM refusals WHERE {plain.where(times="recorded_at")} GROUP BY at ORDER BY at"""
    errors = {row["at"]: row for row in log.rows(refused)}
    buckets = []
    for at in sorted(found.keys() | errors.keys()):
        row = found.get(at, NOTHING)
        buckets.append({"at": iso(at), **_answered(row), **_errors(errors.get(at), row["requests"])})
    every = {name: sum(row[name] for row in errors.values()) for name in ("user_errors", "server_errors")}
    peak = {"at": iso(busiest["at"] * 1_000_000), "requests_per_minute": busiest["requests"]} if busiest else None
    totals = {**_answered(total), **_errors(every, total["requests"]), "peak": peak}
    return {"buckets": buckets, "totals": totals, "status": status_of(totals), "sketched": sketched, "sql": {**sql, "errors": refused}}


def status_of(totals: dict[str, Any]) -> str:
    """Failing, warning or passing by the shares of refused requests."""
    if not totals["requests"] + totals["user_errors"] + totals["server_errors"]:
        return "unknown"
    if totals["server_error_rate"] >= FAILING:
        return "failing"
    return "warning" if totals["server_error_rate"] > 0 or totals["user_error_rate"] >= WARNING else "passing"


Answer = tuple[dict[int, dict[str, Any]], dict[str, Any], dict[str, Any] | None, dict[str, str]]


def from_rows(log: EventLog, window: Window) -> Answer:
    """Buckets, total, busiest minute and SELECTs of the rows. A request counts where its first row lies; of a model or a segment, where any of its rows does."""
    where = f"{window.where(times='recorded_at')} AND role = 'champion'"
    figures = "arrayMap(x -> round(x, 1), quantilesExact(0.5, 0.9, 0.95, 0.99)(latency)) AS latency_us, uniqExact(consumer) AS consumers"
    if window.model_id or window.segment:
        requests = f"SELECT {window.bucketed('recorded_at')} AS at, request_id, recorded_at, count() AS rows, any(latency_us) AS latency, any(consumer) AS consumer\n    FROM predictions WHERE {where} GROUP BY at, request_id, recorded_at"
        sql = f"SELECT at, grouping(at) AS whole, count() AS requests, sum(rows) AS rows, {figures}\nFROM ({requests})\nGROUP BY GROUPING SETS ((at), ()) ORDER BY at"
        of_minute = "uniqExact(request_id, recorded_at)"
    else:
        sql = f"SELECT {window.bucketed('recorded_at')} AS at, grouping(at) AS whole, countIf({FIRST}) AS requests, count() AS rows, {figures.replace(')(latency)', f')(if({FIRST}, latency_us, NULL))')}\nFROM predictions WHERE {where}\nGROUP BY GROUPING SETS ((at), ()) ORDER BY at"
        of_minute = f"countIf({FIRST})"
    found = log.rows(sql)  # not WITH TOTALS: chDB 26.9 garbles its JSON where there are no rows
    peak = f"SELECT toUnixTimestamp(toStartOfMinute(recorded_at)) AS at, {of_minute} AS requests FROM predictions WHERE {where} GROUP BY at ORDER BY requests DESC, at LIMIT 1"
    busiest = next(iter(log.rows(peak)), None)
    total = next((row for row in found if row["whole"]), NOTHING)
    return {row["at"]: row for row in found if not row["whole"]}, total, busiest, {"requests": sql, "peak": peak}


def from_minutes(log: EventLog, window: Window) -> Answer:
    """The same of the maintained minutes."""
    at = window.minutes_bucketed()
    sql = f"SELECT {at} AS at, sum(requests) AS requests, sum(rows) AS rows, sumForEach(latency_counts) AS latency_counts\nFROM arrivals WHERE {window.minutes()} GROUP BY at HAVING rows > 0 ORDER BY at"
    who = f"SELECT {at} AS at, grouping(at) AS whole, uniqExact(consumer) AS consumers FROM consumers WHERE {window.minutes()}\nGROUP BY GROUPING SETS ((at), ()) ORDER BY at"
    peak = f"SELECT toUnixTimestamp(minute) AS at, sum(arrivals.requests) AS requests FROM arrivals WHERE {window.minutes()} GROUP BY at HAVING requests > 0 ORDER BY requests DESC, at LIMIT 1"
    asked = log.rows(who)
    consumers = {row["at"]: row["consumers"] for row in asked if not row["whole"]}
    buckets: dict[int, dict[str, Any]] = {}
    counts = np.zeros(0, dtype=np.int64)
    for row in log.rows(sql):
        own = np.array(row["latency_counts"], dtype=np.int64)
        counts = own + np.pad(counts, (0, len(own) - len(counts))) if len(own) >= len(counts) else counts + np.pad(own, (0, len(counts) - len(own)))
        buckets[row["at"] * 1_000_000] = {**row, "latency_us": quantiles(own, LEVELS), "consumers": consumers.get(row["at"], 0)}
    total = {
        "requests": sum(row["requests"] for row in buckets.values()),
        "rows": sum(row["rows"] for row in buckets.values()),
        "latency_us": quantiles(counts, LEVELS),
        "consumers": next((row["consumers"] for row in asked if row["whole"]), 0),
    }
    return buckets, total, next(iter(log.rows(peak)), None), {"requests": sql, "consumers": who, "peak": peak}


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    quantile = row["latency_us"] or [None] * len(NAMES)
    return {"requests": row["requests"], "rows": row["rows"], "consumers": row["consumers"], "latency_us": {n: (v if row["requests"] else None) for n, v in zip(NAMES, quantile, strict=True)}}


def _errors(row: dict[str, Any] | None, answered: int) -> dict[str, Any]:
    user, server = (row["user_errors"], row["server_errors"]) if row else (0, 0)
    whole = max(answered + user + server, 1)
    return {"user_errors": user, "server_errors": server, "user_error_rate": user / whole, "server_error_rate": server / whole}
