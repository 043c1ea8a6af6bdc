"""One number of a deployment by its name, over a trailing window, with the SELECT that gives it.

`drift.psi` (the greatest, or of `feature`), `drift.failing` (inputs that fail), `quality.failing` (inputs with too many missing, out-of-range or unseen values), `accuracy.METRIC`,
`accuracy.loss` (how much worse than the baseline, as a share), `estimated.METRIC` and `estimated.loss` (the same before the actuals), `accuracy.match_rate`, `accuracy.coverage` (of values: the share inside their 90 % intervals), `health.error_rate`,
`health.p99_ms`, `health.requests`, `humility.rate`, `disagreement.mean` and `disagreement.rate` (how far, and how often in the class, a challenger differs on the rows
that it shadows: the routed one's in a guard, else the greatest of all), `custom.NAME` (a metric of one's own), `silence.predictions` and `silence.actuals` (seconds
since the last one was received), `drift.multivariate` (the AUC of the newest drift check that ended in the window), `concept.worse` and `concept.changes` (alarms of the champion's errors growing, and of the detectors that were asked for). Windows end at the newest event, of accuracy at the newest with an outcome or, while
that window's outcomes still come, at the newest that had its time; silences at the wall clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from models.errors import DataError
from models.metrics import METRICS
from models.registry import Registry
from stream.association import literal
from stream.batches import ROUTE_FAILED
from stream.clickhouse import EventLog
from stream.clock import iso, parse_time
from stream.custom import NAME, newest_value
from stream.disagreement import totals
from stream.health import health_answer
from stream.monitoring import accuracy_answer, drift_answer, quality_answer
from stream.projections.catalog import Catalog
from stream.queries import Window, had_their_time

PLAIN = frozenset({"drift.psi", "drift.failing", "quality.failing", "accuracy.loss", "accuracy.match_rate", "accuracy.coverage", "health.error_rate", "health.p99_ms", "health.requests", "humility.rate", "disagreement.mean", "disagreement.rate", "silence.predictions", "silence.actuals", "estimated.loss", "concept.worse", "concept.changes", "drift.multivariate"})
SPAN = re.compile(r"(\d+)([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Measured:
    """A number (None: unknown), the window it is of, and its SELECT."""

    value: float | None
    window: dict[str, Any]
    sql: str


def known(measure: str) -> bool:
    """Whether there is such a number.

    >>> known("accuracy.log_loss"), known("accuracy.luck")
    (True, False)
    """
    family, _, metric = measure.partition(".")
    return measure in PLAIN or (family in {"accuracy", "estimated"} and metric in METRICS) or (family == "custom" and NAME.fullmatch(metric) is not None)


def seconds_of(span: Any) -> int:
    """Seconds of a span such as 15m or 7d; DataError otherwise.

    >>> seconds_of("2h")
    7200
    """
    found = SPAN.fullmatch(str(span))
    if found is None or not int(found[1]):
        raise DataError("wrong_span", f"{span!r} is no span: write 30s, 15m, 6h or 7d")
    return int(found[1]) * SECONDS[found[2]]


def measured(log: EventLog, registry: Registry, catalog: Catalog, deployment: str, rule: dict[str, Any], now: int, until: int | None = None) -> Measured:
    """The number that a rule asks for, as of now (microseconds); `until` ends its window at an older event time."""
    measure = str(rule["measure"])
    if measure.startswith("silence."):
        return silence(log, deployment, measure[8:], now)
    end = until if until is not None else newest(log, deployment, matched=measure.startswith("accuracy.") and measure != "accuracy.match_rate")
    if end is None:
        return Measured(None, {}, "")
    start = end - seconds_of(rule.get("window", "1d")) * 1_000_000
    window = Window(deployment, start, end + 1, 86_400, str(rule.get("model_id", "")))
    told = {"from": iso(start), "to": iso(end)}
    if measure == "drift.multivariate":
        return told_apart(catalog, deployment, start, told)
    if measure.startswith("drift."):
        return drifted(log, registry, catalog, rule, replace(window, start=start // 60_000_000 * 60_000_000), told)
    if measure.startswith("quality."):
        found = quality_answer(log, registry, replace(window, start=start // 60_000_000 * 60_000_000), window.model_id or catalog.deployment(deployment).now.champion)
        known_inputs = [i for i in found["inputs"] if i["rows"] >= int(rule.get("least_rows", 100))]
        return Measured(float(sum(i["status"] == "failing" for i in known_inputs)) if known_inputs else None, told, found["sql"])
    if measure.startswith("concept."):
        return alarmed(catalog, deployment, measure[8:], start, told)
    if measure.startswith("health."):
        return healthy(log, rule, replace(window, start=now - seconds_of(rule.get("window", "1d")) * 1_000_000, end=None), now)
    if measure.startswith("custom."):
        value, sql, rows = newest_value(log, catalog.deployment(deployment).settings, window, measure[7:])
        return Measured(value if rows >= int(rule.get("least_rows", 1)) else None, told, sql)
    if measure == "humility.rate":
        sql = f"SELECT countIf(humility != '') AS hits, count() AS rows FROM predictions WHERE {window.where()} AND role = 'champion'"
        row = log.rows(sql)[0]
        enough = int(row["rows"]) >= int(rule.get("least_rows", 1))
        return Measured(int(row["hits"]) / int(row["rows"]) if enough else None, told, sql)
    if measure.startswith("disagreement."):
        return disagreement(log, catalog, rule, window, told)
    if measure.startswith("estimated."):
        return estimate(log, registry, catalog, rule, window, told)
    found = accuracy_answer(log, registry, catalog, window)
    totals = found["totals"]
    if totals["rows"] < int(rule.get("least_rows", 100)):
        return Measured(None, told, found["sql"])
    if measure == "accuracy.match_rate":
        return Measured(totals["match_rate"], told, found["sql"])
    if totals["matched"] < int(rule.get("least_rows", 100)) or not totals["mature"]:
        ripe = had_their_time(log, deployment) if until is None and not totals["mature"] else 0
        return measured(log, registry, catalog, deployment, rule, now, ripe) if ripe else Measured(None, told, found["sql"])
    if measure == "accuracy.coverage":
        return Measured((totals["coverage"] or {}).get("0.9"), told, found["sql"])
    if measure == "accuracy.loss":
        entry = totals["metrics"][found["metric"]]
        return Measured(loss(found["metric"], entry["value"], entry["baseline"]), told, found["sql"])
    return Measured((totals["metrics"].get(measure[9:]) or {}).get("value"), told, found["sql"])


def loss(metric: str, value: float | None, baseline: float | None) -> float | None:
    """How much worse than the baseline, as a share of it; below 0 where it is better.

    >>> loss("accuracy", 0.8, 1.0), loss("rmse", None, 1.0)
    (0.19999999999999996, None)
    """
    if value is None or not baseline:
        return None
    return (baseline - value) * (1 if METRICS[metric].higher_is_better else -1) / abs(baseline)


def estimate(log: EventLog, registry: Registry, catalog: Catalog, rule: dict[str, Any], window: Window, told: dict[str, Any]) -> Measured:
    """A metric before the actuals; unknown where no method estimates it."""
    found = accuracy_answer(log, registry, catalog, window, whole_story=True)
    guess = found["estimated"]
    if guess is None or guess["rows"] < int(rule.get("least_rows", 100)):
        return Measured(None, told, found["sql"])
    name = str(rule["measure"])[10:]
    if name != "loss":
        return Measured(guess["metrics"].get(name), told, guess["sql"])
    return Measured(loss(found["metric"], guess["metrics"].get(found["metric"]), found["totals"]["metrics"][found["metric"]]["baseline"]), told, guess["sql"])


def disagreement(log: EventLog, catalog: Catalog, rule: dict[str, Any], window: Window, told: dict[str, Any]) -> Measured:
    """How far, or how often, a challenger differs from who answers; of several the one that differs most."""
    shadows = [window.model_id] if window.model_id else [model_id for model_id, _ in catalog.deployment(window.deployment).now.challengers]
    best = Measured(None, told, "")
    for model_id in shadows:
        found, sql = totals(log, window, model_id)
        value = found[str(rule["measure"])[13:]]
        if found["rows"] >= int(rule.get("least_rows", 100)) and value is not None and (best.value is None or value > best.value):
            best = Measured(value, told, sql)
    return best


def told_apart(catalog: Catalog, deployment: str, start: int, told: dict[str, Any]) -> Measured:
    """The AUC of the newest drift check."""
    ended = [job.result for job in catalog.drift_checks(deployment) if job.state == "finished" and parse_time(job.result["end"]) > start]
    best = max(ended, key=lambda result: str(result["end"]), default=None)
    return Measured(best["auc"] if best else None, told, str(best["sql"]) if best else "")


def alarmed(catalog: Catalog, deployment: str, what: str, start: int, told: dict[str, Any]) -> Measured:
    """How many alarms of detectors a window has seen."""
    watch = catalog.watch
    facts = [f for f in watch.concepts.get(deployment, []) if f.direction == "worse"] if what == "worse" else watch.changes.get(deployment, [])
    kind = "concept_drift_detected" if what == "worse" else "change_detected"
    sql = f"SELECT * FROM events WHERE deployment = {literal(deployment)} AND type = '{kind}' ORDER BY sequence"
    return Measured(float(sum(parse_time(fact.until) > start for fact in facts)), told, sql)


def newest(log: EventLog, deployment: str, *, matched: bool) -> int | None:
    """The time of the newest event."""
    table = "outcomes_log" if matched else "predictions_log"
    row = log.rows(f"SELECT toUnixTimestamp64Micro(max(occurred_at)) AS t, count() AS n FROM {table} WHERE deployment = {literal(deployment)} AND role = 'champion'")[0]
    return int(row["t"]) if int(row["n"]) else None


def silence(log: EventLog, deployment: str, what: str, now: int) -> Measured:
    """Seconds since anything was received; unknown while nothing ever was."""
    sql = f"SELECT toUnixTimestamp64Micro(max(recorded_at)) AS t, count() AS n FROM {what}_log WHERE deployment = {literal(deployment)}"
    row = log.rows(sql)[0]
    return Measured(max(0.0, (now - int(row["t"])) / 1e6) if int(row["n"]) else None, {"to": iso(now)}, sql)


def drifted(log: EventLog, registry: Registry, catalog: Catalog, rule: dict[str, Any], window: Window, told: dict[str, Any]) -> Measured:
    """Greatest PSI, or how many inputs fail."""
    found = drift_answer(log, registry, replace(window, model_id=""), window.model_id or catalog.deployment(window.deployment).now.champion)
    totals = found["totals"]
    if totals["rows"] < int(rule.get("least_rows", 100)):
        return Measured(None, told, found["sql"])
    variables = [*totals["features"], totals["prediction"]]
    if rule["measure"] == "drift.failing":
        return Measured(float(sum(v["status"] == "failing" for v in variables)), told, found["sql"])
    wanted = [v["psi"] for v in variables if rule.get("feature") in {None, v["name"]} and v["psi"] is not None]
    return Measured(max(wanted, default=None), told, found["sql"])


def failing(log: EventLog, rule: dict[str, Any], window: Window, now: int) -> Measured:
    """Of the requests that were routed to a model the share in which it failed, so that the champion answered."""
    received = window.where(times="recorded_at")
    refused = replace(window, model_id="").where(times="recorded_at")
    sql = f"""SELECT (SELECT uniqExact(request_id) FROM refusals WHERE {refused} AND code = {literal(f"{ROUTE_FAILED}:{window.model_id}")}) AS failed,
    (SELECT uniqExact(request_id) FROM predictions WHERE {received} AND role = 'champion') AS answered"""
    row = log.rows(sql)[0]
    requests = int(row["failed"]) + int(row["answered"])
    return Measured(int(row["failed"]) / requests if requests >= max(1, int(rule.get("least_rows", 1))) else None, {"from": iso(window.start or 0), "to": iso(now)}, sql)


def healthy(log: EventLog, rule: dict[str, Any], window: Window, now: int) -> Measured:
    """Service health by arrival time."""
    if window.model_id and rule["measure"] == "health.error_rate":
        return failing(log, rule, window, now)
    found = health_answer(log, window)
    totals = found["totals"]
    told = {"from": iso(window.start or 0), "to": iso(now)}
    requests = totals["requests"] + totals["user_errors"] + totals["server_errors"]
    if rule["measure"] == "health.requests":
        return Measured(float(requests), told, found["sql"]["requests"])
    if rule["measure"] == "health.p99_ms":
        p99 = totals["latency_us"]["p99"]
        return Measured(p99 / 1000 if p99 is not None else None, told, found["sql"]["requests"])
    return Measured(totals["user_error_rate"] + totals["server_error_rate"] if requests else None, told, found["sql"]["errors"])
