"""A training set from the log: stored requests joined with the actuals known by a cut-off.

The same cut-off, query and log give the same rows; query, row count and digest are kept, and the
matrix as Parquet in the artifacts.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from models.package import ModelPackage
from models.registry import Artifacts
from models.table import flat, read_table
from stream.association import literal
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.erasure import ASSOCIATION
from stream.errors import StreamError
from stream.queries import outcomes_as_of
from stream.rows import of_map

EVENT_TIME = "champion_event_time"

COLUMNS = "association_id, occurred_at, features_num, features_cat, actual_value, actual_class"
POSITION = """SELECT source, max(sequence) AS s FROM (
    SELECT source, sequence FROM predictions_log WHERE {known} UNION ALL SELECT source, sequence FROM actuals_log WHERE {known})
GROUP BY source ORDER BY source"""


def build(
    log: EventLog, artifacts: Artifacts, package: ModelPackage, deployment: str, *, cut_off: int, start: int, original: str = "", options: dict[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Make the set, store it as Parquet; answers its artifact name and its record."""
    known = outcomes_as_of(deployment, cut_off, f"role = 'champion' AND association_id != '' AND occurred_at >= fromUnixTimestamp64Micro({start})")
    query = f"SELECT {COLUMNS}\nFROM {known}\nORDER BY occurred_at, event_id"
    position = log.rows(POSITION.format(known=f"deployment = {literal(deployment)} AND recorded_at <= fromUnixTimestamp64Micro({cut_off})"))
    timestamp = (options or {}).get("timestamp", "")
    data, rows = assemble(log, artifacts, package, query, original, timestamp)
    digest = hashlib.sha256(data).hexdigest()
    name = f"training-sets/{digest}.parquet"
    artifacts.write(name, data)
    record = {
        "file": name,
        "digest": digest,
        "rows": sum(rows.values()),
        "rows_by_source": rows,
        "cut_off": iso(cut_off),
        "position": {row["source"]: int(row["s"]) for row in position},
        "query": query,
        "original": original,
        "model_id": package.digest,
        "timestamp": timestamp,
    }
    return name, record


def assemble(log: EventLog, artifacts: Artifacts, package: ModelPackage, query: str, original: str, timestamp: str) -> tuple[bytes, dict[str, int]]:
    """The set as Parquet, and how many rows each source gave."""
    found = log.arrow(query)
    if not found.num_rows:
        raise StreamError("no stored request has an actual yet: there is nothing to train on")
    table = with_columns(found, package)
    rows = {"production": table.num_rows}
    if original:
        first = aligned(flat(read_table(artifacts.read(original)).arrow), table, package, timestamp)
        rows["original"] = first.num_rows
        table = pa.concat_tables([first, table], promote_options="permissive")
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue(), rows


def rebuild(log: EventLog, artifacts: Artifacts, package: ModelPackage, record: dict[str, Any]) -> dict[str, Any]:
    """Make a set again by its record and compare it, byte for byte, with what was trained on."""
    data, rows = assemble(log, artifacts, package, record["query"], record["original"], record["timestamp"])
    marker = f"{record['file']}.erased.json"
    erased = int(json.loads(artifacts.read(marker))["rows_erased"]) if artifacts.exists(marker) else 0
    digest = hashlib.sha256(data).hexdigest()
    kept = artifacts.read(record["file"])
    equal = digest == record["digest"]
    if erased:  # then the rows that remain must be the same
        equal = bool(pyarrow.parquet.read_table(io.BytesIO(kept)).equals(pyarrow.parquet.read_table(io.BytesIO(data))))
    return {"recorded": record["digest"], "rebuilt": digest, "rows": sum(rows.values()), "recorded_rows": record["rows"], "rows_erased": erased, "equal": equal}


def with_columns(found: pa.Table, package: ModelPackage) -> pa.Table:
    """Maps as columns under the names the champion was trained with, and the target."""
    schema = package.schema
    names = [f.name for f in schema.features] + list(schema.unused)
    columns: dict[str, pa.Array] = {EVENT_TIME: found.column("occurred_at").combine_chunks(), ASSOCIATION: found.column("association_id").combine_chunks()}
    numbers, texts = found.column("features_num").combine_chunks(), found.column("features_cat").combine_chunks()
    for name in names:
        number, text = of_map(numbers, name, pa.float64()), of_map(texts, name, pa.string())
        if text.null_count < len(text):
            columns[name] = text if number.null_count == len(number) else pc.coalesce(text, pc.cast(number, pa.string()))
        elif number.null_count < len(number):
            columns[name] = number
    target = schema.target
    actual = "actual_value" if target.task == "regression" else "actual_class"
    columns[target.name] = found.column(actual).combine_chunks()
    return pa.table(columns)


def aligned(original: pa.Table, table: pa.Table, package: ModelPackage, timestamp: str) -> pa.Table:
    """The original training data in the columns of the production set."""
    columns = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        source = timestamp if name == EVENT_TIME else name
        if source and source in original.column_names:
            column = original.column(source)
            if pa.types.is_boolean(column.type) and pa.types.is_string(kind):
                column = pc.if_else(column, "true", "false")
            columns[name] = pc.cast(column, kind, safe=False)
        else:
            columns[name] = pa.nulls(original.num_rows, kind)
    found = pa.table(columns)
    return found.filter(pc.is_valid(found.column(package.schema.target.name)))
