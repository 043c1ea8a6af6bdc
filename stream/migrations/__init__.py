"""The event log's tables as versioned statements that fit chDB and a ClickHouse server alike."""

from __future__ import annotations

import re
from pathlib import Path

TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)")
ALTER = re.compile(r"ALTER TABLE (\w+)")
ENGINE = re.compile(r"ENGINE = ReplacingMergeTree(?:\((\w+)\))?")
SINGLE = frozenset({"events_log", "refused_events", "drift_log", "log_progress_log", "heartbeats", "dead_letters_log"})


def migrations() -> list[tuple[int, list[str]]]:
    """Each version with its statements, in order."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.sql")):
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("--")]
        found.append((int(path.name[:4]), [s.strip() for s in "\n".join(lines).split(";") if s.strip()]))
    return found


def on_cluster(cluster: str) -> list[str]:
    """The same tables for a cluster of shards and replicas.

    Rows are sharded by deployment, so a join never leaves its shard; what is small and asked for as a
    whole (events, positions, counts) lies on every replica. Inserts and views go through Distributed
    tables under the names of the contract.
    """
    out = [f"CREATE DATABASE IF NOT EXISTS champion ON CLUSTER '{cluster}'"]
    for _, statements in migrations():
        for statement in statements:
            table, alter = TABLE.match(statement), ALTER.match(statement)
            if alter is not None:
                names = [alter[1]] if alter[1] in SINGLE else [alter[1] + "_local", alter[1]]
                out.extend(ALTER.sub(f"ALTER TABLE champion.{name} ON CLUSTER '{cluster}'", statement, count=1) for name in names)
                continue
            if statement.startswith("INSERT"):
                continue  # fills a new table from rows of before: a cluster's tables are made empty
            if table is None:
                out.append(clustered_view(statement, cluster))
                continue
            name = table[1]
            if name in SINGLE:
                out.append(replicated(statement, name, name, cluster, "all"))
            else:
                out.append(replicated(statement, name, name + "_local", cluster, "{shard}"))
                out.append(f"CREATE TABLE IF NOT EXISTS champion.{name} ON CLUSTER '{cluster}' AS champion.{name}_local\nENGINE = Distributed('{cluster}', champion, {name}_local, sipHash64(deployment))")
    return out


def replicated(statement: str, name: str, local: str, cluster: str, shard: str) -> str:
    """A table with replicas."""
    statement = TABLE.sub(f"CREATE TABLE IF NOT EXISTS champion.{local} ON CLUSTER '{cluster}'", statement, count=1)

    def engine(found: re.Match[str]) -> str:
        version = f", {found[1]}" if found[1] else ""
        return f"ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/champion/{name}', '{{replica}}'{version})"

    return ENGINE.sub(engine, statement)


def clustered_view(statement: str, cluster: str) -> str:
    """A view on every node; what is fed by rows is fed where they lie."""
    statement = re.sub(r"^(CREATE (?:OR REPLACE )?(?:MATERIALIZED )?VIEW (?:IF NOT EXISTS )?)(\w+)", rf"\1champion.\2 ON CLUSTER '{cluster}'", statement)
    if "MATERIALIZED" in statement:
        return re.sub(r"\bTO (\w+) AS", r"TO champion.\1_local AS", statement).replace("FROM predictions_log", "FROM champion.predictions_log_local")
    return re.sub(r"\bFROM (\w+_log)\b", r"FROM champion.\1", statement)
