"""How long rows stay in the tables."""

from __future__ import annotations

from stream.clickhouse import EventLog

# What each table's age is taken from. Events are few, and the audit trail: they stay.
TIMES = {
    "predictions_log": "toDateTime(recorded_at)",
    "association_index": "toDateTime(recorded_at)",
    "actuals_log": "toDateTime(recorded_at)",
    "outcomes_log": "toDateTime(recorded_at)",
    "explanations_log": "toDateTime(recorded_at)",
    "consumers_log": "minute",
    "refusals_log": "toDateTime(recorded_at)",
    "dead_letters_log": "toDateTime(recorded_at)",
}


def retain(log: EventLog, days: int) -> None:
    """Set the tables' time to live; 0 days: for ever. Nothing is done where it is set so already."""
    found = {row["name"]: row["create_table_query"] for row in log.rows("SELECT name, create_table_query FROM system.tables WHERE database = 'champion'")}
    for table, time in TIMES.items():
        wanted = f"TTL {time} + toIntervalDay({days})"
        if days and wanted not in found[table]:
            log.command(f"ALTER TABLE {table} MODIFY {wanted}")
        elif not days and " TTL " in found[table]:
            log.command(f"ALTER TABLE {table} REMOVE TTL")
