"""The join of predictions and actuals: outcomes recomputed for the association ids that were touched.

Both sides are in the log before it is asked, so an actual may come before its prediction, long after,
twice, corrected or retracted: the outcome of an id is a function of what the log holds, and doing it
again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from stream.clickhouse import EventLog

CHUNK = 20_000
SETTINGS = {"max_query_size": 1 << 26, "max_threads": 2, "max_ast_elements": 1_000_000, "max_expanded_ast_elements": 1_000_000, "optimize_on_insert": 0}

# A version that only grows: with each new actual of an id, and with an earlier receipt of a known one.
# It is a function of the set of actuals alone, so whoever has seen more writes the higher one.
RANK = "bitShiftLeft(toUInt256(1), 255) + toUInt256(sum(toUInt128(earliest)))"

COLUMNS = (
    "deployment, deployment_version, association_id, request_id, occurred_at, recorded_at, model_id, role, replay_id, "
    "features_num, features_cat, predicted_value, predicted_class, probabilities, latency_us, consumer, humility, event_id"
)

LATEST = f"""SELECT association_id, argMax(
        (actual_value, actual_class, occurred_at, recorded_at, event_id, retracted),
        (occurred_at, recorded_at, event_id)) AS latest, {RANK} AS rank
    FROM actuals_log FINAL
    WHERE deployment = {{deployment}} AND association_id IN ({{ids}})
    GROUP BY association_id"""

JOIN = (
    f"INSERT INTO outcomes_log ({COLUMNS}, actual_value, actual_class, actual_at, actual_received_at, actual_event_id, retracted, rank)\n"
    f"SELECT {', '.join('p.' + c.strip() for c in COLUMNS.split(','))},\n"
    "    a.latest.1, a.latest.2, a.latest.3, a.latest.4, a.latest.5, a.latest.6, a.rank"
    f"""
FROM (SELECT {COLUMNS} FROM predictions_log FINAL
    WHERE deployment = {{deployment}} AND (deployment, recorded_at, event_id) IN (
        SELECT deployment, recorded_at, event_id FROM association_index
        WHERE deployment = {{deployment}} AND association_id IN ({{ids}}))) AS p
INNER JOIN ({LATEST}) AS a ON p.association_id = a.association_id"""
)


def literal(text: str) -> str:
    """A string literal of ClickHouse."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def has_actuals(log: EventLog, deployment: str) -> bool:
    """Whether a deployment has any actual: many never have one, and then nobody need look for pairs."""
    return bool(log.rows(f"SELECT 1 AS one FROM actuals_log WHERE deployment = {literal(deployment)} LIMIT 1"))


def with_actuals(log: EventLog, deployment: str, ids: Iterable[str]) -> set[str]:
    """Which of these ids have an actual."""
    found: set[str] = set()
    for chunk in chunks(ids):
        sql = f"SELECT DISTINCT association_id FROM actuals_log WHERE deployment = {literal(deployment)} AND association_id IN ({listed(chunk)})"
        found |= set(log.arrow(sql, settings=SETTINGS).column("association_id").to_pylist())
    return found


def join(log: EventLog, deployment: str, ids: Iterable[str]) -> None:
    """Write the outcomes of these ids as the log now has them."""
    for chunk in chunks(ids):
        log.command(JOIN.format(deployment=literal(deployment), ids=listed(chunk)), SETTINGS)


def listed(ids: list[str]) -> str:
    """Ids as the inside of IN (…): one literal that the engine takes apart, which is twice as fast to read as a thousand."""
    return f"SELECT arrayJoin(JSONExtract({literal(orjson.dumps(ids).decode())}, 'Array(String)'))"


def chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    """Sorted ids in bounded groups."""
    ordered = sorted(ids)
    for at in range(0, len(ordered), CHUNK):
        yield ordered[at : at + CHUNK]
