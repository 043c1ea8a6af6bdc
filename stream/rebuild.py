"""A fold whose snapshot is lost or damaged, made again from the log: it costs time, never truth."""

from __future__ import annotations

from models.registry import Registry
from models.types import Ints
from stream.association import join, literal
from stream.clickhouse import EventLog
from stream.position import Ranges
from stream.projections.arrivals import ARRIVALS, arrivals_again
from stream.projections.drift import DriftFold
from stream.recount import recount

# Runs of consecutive sequences: within a run, the sequence and its place differ by a constant.
RUNS = """SELECT source, min(sequence) AS first, max(sequence) AS last
FROM (SELECT source, sequence, sequence - row_number() OVER (PARTITION BY source ORDER BY sequence) AS run
    FROM (SELECT DISTINCT source, sequence FROM ({rows}) WHERE endsWith(source, {own})))
GROUP BY source, run"""
ROWS = " UNION ALL ".join(f"SELECT source, sequence FROM {table}" for table in ("predictions_log", "actuals_log", "refusals_log"))
CONFIRMED = "SELECT source, sequence FROM log_progress_log FINAL WHERE endsWith(source, {own}) AND position(source, '@') = 0"
UNJOINED = """SELECT DISTINCT deployment, association_id
FROM (SELECT deployment, association_id, source, sequence FROM predictions_log UNION ALL SELECT deployment, association_id, source, sequence FROM actuals_log) AS r
LEFT JOIN ({confirmed}) AS c ON r.source = c.source
WHERE association_id != '' AND endsWith(r.source, {own}) AND r.sequence > c.sequence"""


def rebuild(fold: DriftFold, log: EventLog, registry: Registry) -> None:
    """Sequences seen, counts by minute and unfinished joins of one partition, from the rows themselves."""
    own = literal(f"/{fold.partition}")
    ranges: dict[str, Ranges] = {}
    for row in log.rows(RUNS.format(rows=ROWS, own=own)):
        ranges.setdefault(row["source"], Ranges()).add(int(row["first"]), int(row["last"]))
    for row in log.rows(CONFIRMED.format(own=own)):
        ranges.setdefault(row["source"], Ranges()).add(1, int(row["sequence"]))  # records without rows, too
    sql = f"SELECT DISTINCT deployment FROM predictions_log WHERE endsWith(source, {own})"
    counts: dict[tuple[str, str, int], Ints] = {}
    for row in log.rows(sql):
        found, _ = recount(log, registry, row["deployment"], f"endsWith(source, {own})")
        counts |= {(row["deployment"], ARRIVALS, minute): bucket for minute, bucket in arrivals_again(log, row["deployment"], f"endsWith(source, {own})").items()}
        counts |= {(row["deployment"], model_id, minute): bins for (model_id, minute), bins in found.items()}
    waiting: dict[str, set[str]] = {}
    for row in log.rows(UNJOINED.format(confirmed=CONFIRMED.format(own=own), own=own)):
        waiting.setdefault(row["deployment"], set()).add(row["association_id"])
    for deployment, ids in waiting.items():
        join(log, deployment, ids)
    fold.restart(ranges, counts)
