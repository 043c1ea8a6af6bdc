"""The questions that portal, API and worker ask the log, each as one SELECT that anyone can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.metrics import METRICS, OF_DECISIONS, decisions, score_all
from models.payoff import Payoff, values_of
from models.types import Floats, Ints, TaskType
from stream.association import literal
from stream.clickhouse import DICTIONARIES, EventLog
from stream.clock import iso

SERVED = "position(humility, ':error') = 0"  # a rule may have refused to serve a row
SHADOWED = "substring(event_id, 1, length(event_id) - 13)"  # a challenger's event id is the champion's, a dot, and twelve characters of its own
ROW_ID = f"if(role = 'challenger', {SHADOWED}, event_id)"
RECEIVED = "toUnixTimestamp64Micro(recorded_at) AS received"
RIPE = 0.95  # the share of outcomes that a window waits for
BUCKETS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "6h": 21_600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}


@dataclass(frozen=True)
class Window:
    """What a question is about: a deployment, event times in microseconds, a bucket in seconds.

    `as_of` asks as it was known then (microseconds of record time); `segment` is a condition of SQL.
    """

    deployment: str
    start: int | None = None
    end: int | None = None
    bucket: int = 3600
    model_id: str = ""
    as_of: int | None = None
    segment: str = ""

    @property
    def folded(self) -> bool:
        """Whether the maintained counts answer it; otherwise the rows do."""
        return self.as_of is None and not self.segment

    def where(self, *, times: str = "occurred_at") -> str:
        """The WHERE of the question."""
        parts = [f"deployment = {literal(self.deployment)}"]
        if self.start is not None:
            parts.append(f"{times} >= fromUnixTimestamp64Micro({self.start})")
        if self.end is not None:
            parts.append(f"{times} < fromUnixTimestamp64Micro({self.end})")
        if self.model_id:
            parts.append(f"model_id = {literal(self.model_id)}")
        if self.as_of is not None:
            parts.append(recorded_by(self.as_of))
        if self.segment:
            parts.append(self.segment)
        return " AND ".join(parts)

    def minutes(self) -> str:
        """The WHERE of a question to maintained minutes; a minute belongs to the window if it begins in it."""
        parts = [f"deployment = {literal(self.deployment)}"]
        if self.start is not None:
            parts.append(f"minute >= toDateTime({self.start // 1_000_000}, 'UTC')")
        if self.end is not None:
            parts.append(f"minute < toDateTime({-(-self.end // 1_000_000)}, 'UTC')")
        if self.model_id:
            parts.append(f"baseline_id = {literal(self.model_id)}")
        return " AND ".join(parts)

    def minutes_bucketed(self) -> str:
        """Seconds at which a minute's bucket begins."""
        return f"intDiv(toUnixTimestamp(minute), {self.bucket}) * {self.bucket}"

    def bucketed(self, times: str = "occurred_at") -> str:
        """Microseconds at which a row's bucket begins, in SQL."""
        return f"intDiv(toUnixTimestamp64Micro({times}), {self.bucket * 1_000_000}) * {self.bucket * 1_000_000}"

    def buckets_of(self, times: Ints) -> Ints:
        """Microseconds at which the buckets of event times (n,) begin."""
        return times - times % (self.bucket * 1_000_000)


def outcomes_as_of(deployment: str, as_of: int, where: str = "1") -> str:
    """Predictions with the latest actual that was received by a record time (microseconds), as a subquery."""
    return outcomes_known(deployment, recorded_by(as_of), where)


def recorded_by(as_of: int) -> str:
    """The condition that a row was received by a record time (microseconds)."""
    return f"recorded_at <= fromUnixTimestamp64Micro({as_of})"


def outcomes_known(deployment: str, known: str, where: str = "1") -> str:
    """Predictions with their latest actual, of the rows of either that meet a condition `known`, as a subquery."""
    known = f"deployment = {literal(deployment)} AND {known}"
    return f"""(SELECT p.*, a.latest.1 AS actual_value, a.latest.2 AS actual_class, a.latest.4 AS acted_on, a.latest.5 AS actual_at
    FROM (SELECT * FROM predictions WHERE {known} AND ({where})) AS p
    INNER JOIN (SELECT association_id, argMax((actual_value, actual_class, retracted, acted_on, occurred_at), (occurred_at, recorded_at, event_id)) AS latest
        FROM actuals WHERE {known} GROUP BY association_id) AS a
    ON p.association_id = a.association_id WHERE NOT a.latest.3)"""


def position_of(log: EventLog) -> dict[str, int]:
    """How far the log has come with each source: the sequence up to which it has everything."""
    return {row["source"]: int(row["sequence"]) for row in log.rows("SELECT source, sequence FROM log_progress ORDER BY source")}


def outcome_rows(log: EventLog, window: Window, task: TaskType, *, roles: str, ordered: bool = False, row_id: str = ROW_ID, more: str = "") -> tuple[str, Any]:
    """The matched rows of a window as Arrow, and their SELECT."""
    sql = outcomes_sql(window, task, roles=roles, ordered=ordered, row_id=row_id, more=more)
    return sql, log.arrow(sql, settings=DICTIONARIES)


def roles_of(window: Window) -> str:
    """Whose rows are as served: the champion's; of one model, whatever it was."""
    return "role IN ('champion', 'challenger')" if window.model_id else "role = 'champion'"


def outcomes_sql(window: Window, task: TaskType, *, roles: str, ordered: bool = False, row_id: str = ROW_ID, more: str = "") -> str:
    """The SELECT of a window's matched rows: time, model, what was said and what became true, as the task has it, and `more`; each column more costs as much as a metric.

    `ordered`: by time, and with the id that a champion's row and its challengers' have in common (`row_id`). Metrics need neither.
    """
    source = outcomes_as_of(window.deployment, window.as_of) if window.as_of is not None else "outcomes"
    shared = f"\n    {row_id} AS row_id," if ordered else ""
    outcome = "predicted_value, actual_value" if task == "regression" else "predicted_class, probabilities, actual_class"
    sql = f"""SELECT toUnixTimestamp64Micro(occurred_at) AS time, model_id,{shared} {outcome}{more and f", {more}"}
FROM {source} WHERE {window.where()} AND {roles} AND {SERVED}"""
    return sql + " ORDER BY occurred_at, event_id" if ordered else sql


def coded(column: Any) -> tuple[Any, list[Any]]:
    """A column of few texts as codes and the texts; what is missing has the last code, None."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    values = whole.dictionary.to_pylist()
    return whole.indices.fill_null(len(values)).to_numpy(zero_copy_only=False).astype(np.int64), [*values, None]


@dataclass(frozen=True)
class Scored:
    """Matched rows ready for metrics: class indices or values, outputs, models, times."""

    task: TaskType
    y: Any
    p: Floats
    models: Any
    unseen: int
    ids: Any
    times: Any
    chosen: Any = None
    labels: tuple[str, ...] = ()
    received: Any = None

    def metrics(self, rows: Any) -> dict[str, float]:
        """All metrics of some rows, decisions as they were served."""
        return score_all(self.task, self.y[rows], self.p[rows], None if self.chosen is None else self.chosen[rows])

    def metric(self, name: str, rows: Any) -> float:
        """One of them, for less."""
        if name in OF_DECISIONS and self.chosen is not None:
            return OF_DECISIONS[name](decisions(self.y[rows], self.chosen[rows], len(self.labels)))
        return METRICS[name].function(self.y[rows], self.p[rows])

    def worths(self, payoff: Payoff | None) -> Floats | None:
        """What each row's decision was worth; None where no payoff is set."""
        return None if not payoff or self.chosen is None else values_of(payoff, self.labels, self.y, self.chosen)


def scored(table: Any, task: TaskType, classes_of: Callable[[str], tuple[str, ...]], reference: tuple[str, ...]) -> Scored:
    """Turn `outcome_rows` into arrays; an actual of a class never trained has index -1.

    Each model's probabilities are put under its own classes; the reference's come first.
    """
    times = table.column("time").to_numpy()
    model_codes, names = coded(table.column("model_id"))
    models = np.array(names, dtype=object)[model_codes]
    ids = np.array(table.column("row_id").to_pylist() if "row_id" in table.column_names else [], dtype=object)
    if task == "regression":
        y = table.column("actual_value").to_numpy().astype(np.float64)
        p = table.column("predicted_value").to_numpy().astype(np.float64)
        good = np.isfinite(y)
        received = table.column("received").to_numpy()[good] if "received" in table.column_names else None
        return Scored(task, y[good], p[good], models[good], int((~good).sum()), ids[good] if len(ids) else ids, times[good], received=received)
    present = np.flatnonzero(np.bincount(model_codes)).tolist()
    found = {code: classes_of(str(names[code])) for code in present}
    labels = list(dict.fromkeys([*reference, *(label for classes in found.values() for label in classes)]))
    index = {label: k for k, label in enumerate(labels)}
    y = of_codes(coded(table.column("actual_class")), index, -1)
    lists = table.column("probabilities").combine_chunks()
    if len(present) == 1 and found[present[0]] == tuple(labels):
        p = np.asarray(pc.list_flatten(lists).to_numpy(zero_copy_only=False), dtype=np.float64).reshape(len(y), len(labels))
    else:
        p = np.zeros((len(y), len(labels)))
        for code, classes in found.items():
            rows = np.nonzero(model_codes == code)[0]
            flat = pc.list_flatten(lists.take(pa.array(rows))).to_numpy(zero_copy_only=False)
            p[np.ix_(rows, np.array([index[label] for label in classes]))] = np.asarray(flat, dtype=np.float64).reshape(-1, len(classes))
    return Scored(task, y, p, models, int((y < 0).sum()), ids, times, of_codes(coded(table.column("predicted_class")), index, 0), tuple(labels))


def of_codes(column: tuple[Any, list[Any]], index: dict[str, int], other: int) -> Ints:
    """The class index of each row of a coded column."""
    codes, values = column
    return np.asarray(np.array([index.get(v, other) for v in values], dtype=np.int64)[codes])


def metrics_by_bucket(rows: Scored, window: Window) -> list[dict[str, Any]]:
    """All metrics of each bucket."""
    at = window.buckets_of(rows.times)
    order = np.argsort(at, kind="stable")
    starts, first = np.unique(at[order], return_index=True)
    parts = np.split(order, first[1:]) if len(first) else []
    return [{"at": iso(int(at)), "rows": len(part), **_means(rows, part), "metrics": finite(rows.metrics(part))} for at, part in zip(starts, parts, strict=True)]


def _means(rows: Scored, part: Ints) -> dict[str, Any]:
    if rows.task == "multiclass" or not len(part):
        return {}
    if rows.task == "binary":
        return {"mean_predicted": float(rows.p[part, 1].mean()), "mean_actual": float((rows.y[part] == 1).mean())}
    return {"mean_predicted": float(rows.p[part].mean()), "mean_actual": float(rows.y[part].mean())}


def finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """Metrics as JSON: what is not defined is null."""
    return {name: float(value) if np.isfinite(value) else None for name, value in metrics.items()}


def count_sql(window: Window, *, roles: str) -> str:
    """The SELECT of a window's scored rows and the time of the last one."""
    return f"SELECT count() AS rows, toUnixTimestamp64Micro(max(occurred_at)) AS last FROM predictions WHERE {window.where()} AND {roles} AND {SERVED}"


def count_rows(log: EventLog, window: Window, *, roles: str) -> tuple[int, int]:
    """The scored rows of a window, and the time of the last one (microseconds)."""
    row = log.rows(count_sql(window, roles=roles))[0]
    return int(row["rows"]), int(row["last"])


def ripe_sql(deployment: str, as_of: int | None = None) -> str:
    """The SELECT of where the clock of a deployment's outcomes is, and of the delay within which 95 % of them become known (microseconds)."""
    source = "outcomes" if as_of is None else outcomes_as_of(deployment, as_of, "role = 'champion'")
    return f"""SELECT toUnixTimestamp64Micro(max(actual_at)) AS known, quantileExact(0.95)(dateDiff('microsecond', occurred_at, actual_at)) AS delay, count() AS n
FROM {source} WHERE deployment = {literal(deployment)} AND role = 'champion'"""


def had_their_time(log: EventLog, deployment: str, as_of: int | None = None) -> int:
    """Up to when a deployment's outcomes had their time: where the outcomes' own clock is, less the delay within which 95 % of them become known (microseconds); 0 while there are none."""
    row = log.rows(ripe_sql(deployment, as_of))[0]
    return int(row["known"]) - max(int(row["delay"]), 0) if int(row["n"]) else 0


def mature_until(log: EventLog, window: Window, matched: int, counted: tuple[int, int]) -> int | None:
    """Up to when a window's outcomes had their time (microseconds); None where all of it may be judged: 95 % of its rows have their outcome, or its last one (`count_rows`) had its time."""
    whole, last = counted
    if matched >= RIPE * whole:
        return None
    ripe = had_their_time(log, window.deployment, window.as_of)
    return None if last <= ripe else ripe


def delay_sql(window: Window, *, roles: str) -> str:
    """The SELECT of the seconds from a prediction to its outcome."""
    return f"""SELECT quantilesExact(0.5, 0.95)(dateDiff('second', occurred_at, actual_at)) AS known, quantilesExact(0.5, 0.95)(dateDiff('second', recorded_at, actual_received_at)) AS received, count() AS n
FROM outcomes WHERE {window.where()} AND {roles}"""


def label_delay(log: EventLog, window: Window, *, roles: str) -> dict[str, float | None]:
    """Seconds from a prediction to its outcome, by when it became known and by when it was received: median, 95 %."""
    row = log.rows(delay_sql(window, roles=roles))[0]
    names = ("known_p50", "known_p95", "received_p50", "received_p95")
    return dict(zip(names, [*row["known"], *row["received"]], strict=True)) if row["n"] else dict.fromkeys(names)


def accuracy_totals(log: EventLog, deployment: str) -> list[dict[str, Any]]:
    """A short summary a model for the `monitoring` topic: matched rows and additive metrics."""
    sql = """SELECT model_id, role, count() AS matched, avg(predicted_class = actual_class) AS accuracy,
    avg(abs(predicted_value - actual_value)) AS mae, max(actual_received_at) AS until
FROM outcomes WHERE deployment = {deployment:String} GROUP BY model_id, role ORDER BY model_id, role"""
    return log.rows(sql, {"deployment": deployment})


def drift_counts(log: EventLog, window: Window, baseline_id: str) -> tuple[str, list[dict[str, Any]]]:
    """Summed bin counts a bucket, and the SELECT."""
    sql = f"""SELECT {window.minutes_bucketed()} AS at, sumForEach(counts) AS counts
FROM drift_counts WHERE {window.minutes()} AND baseline_id = {literal(baseline_id)} GROUP BY at ORDER BY at"""
    return sql, log.rows(sql)


def predictions_over_time(log: EventLog, window: Window, unit_of: Callable[[str], float]) -> tuple[str, list[dict[str, Any]]]:
    """Champion rows and their mean predicted value a bucket, and the SELECT; from the maintained sums, or where they do not have them, from the rows.

    `unit_of` a model is what its predictions are added up in (`Baseline.unit`).
    """
    rows = f"SELECT {window.bucketed()} AS at, count() AS rows, avg(predicted_value) AS mean FROM predictions WHERE {window.where()} AND role = 'champion' GROUP BY at ORDER BY at"
    if not window.folded:
        return rows, log.rows(rows)
    sums = f"""SELECT {window.minutes_bucketed()} AS at, baseline_id AS model_id, sumForEach(sums) AS sums
FROM drift_counts WHERE {window.minutes()} GROUP BY at, model_id ORDER BY at, model_id"""
    buckets: dict[int, list[float]] = {}
    for row in log.rows(sums):
        count, units, beyond = row["sums"]
        if beyond:  # values past what a unit is made for
            return rows, log.rows(rows)
        bucket = buckets.setdefault(row["at"] * 1_000_000, [0, 0.0])
        bucket[0] += count
        bucket[1] += units * unit_of(row["model_id"])
    return sums, [{"at": at, "rows": count, "mean": total / count} for at, (count, total) in buckets.items() if count]
