"""A training set from the log: stored requests joined with the actuals known by a cut-off.

The same cut-off, query and log give the same rows; query, row count and digest are kept, and the
matrix as Parquet in the artifacts.
"""

from __future__ import annotations

import hashlib
import io
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
from stream.errors import StreamError
from stream.rows import of_map

EVENT_TIME = "champion_event_time"

QUERY = """SELECT p.occurred_at AS occurred_at, p.features_num AS features_num, p.features_cat AS features_cat,
    a.latest.1 AS actual_value, a.latest.2 AS actual_class
FROM (SELECT * FROM predictions WHERE deployment = {deployment} AND role = 'champion' AND association_id != ''
    AND recorded_at <= fromUnixTimestamp64Micro({cut_off}) AND occurred_at >= fromUnixTimestamp64Micro({start})) AS p
INNER JOIN (SELECT association_id, argMax((actual_value, actual_class, retracted), (occurred_at, recorded_at, event_id)) AS latest
    FROM actuals WHERE deployment = {deployment} AND recorded_at <= fromUnixTimestamp64Micro({cut_off}) GROUP BY association_id) AS a
ON p.association_id = a.association_id
WHERE NOT a.latest.3
ORDER BY p.occurred_at, p.event_id"""


def build(
    log: EventLog, artifacts: Artifacts, package: ModelPackage, deployment: str, *, cut_off: int, start: int, original: str = "", options: dict[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Make the set, store it as Parquet; answers its artifact name and its record."""
    query = QUERY.format(deployment=literal(deployment), cut_off=cut_off, start=start)
    position = log.rows(f"SELECT source, max(sequence) AS s FROM (SELECT source, sequence FROM predictions_log WHERE deployment = {literal(deployment)} AND recorded_at <= fromUnixTimestamp64Micro({cut_off}) UNION ALL SELECT source, sequence FROM actuals_log WHERE deployment = {literal(deployment)} AND recorded_at <= fromUnixTimestamp64Micro({cut_off})) GROUP BY source ORDER BY source")
    found = log.arrow(query)
    if not found.num_rows:
        raise StreamError("no stored request has an actual yet: there is nothing to train on")
    table = with_columns(found, package)
    rows = {"production": table.num_rows}
    if original:
        first = aligned(flat(read_table(artifacts.read(original)).arrow), table, package, (options or {}).get("timestamp"))
        rows["original"] = first.num_rows
        table = pa.concat_tables([first, table], promote_options="permissive")
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"training-sets/{digest}.parquet"
    artifacts.write(name, data)
    record = {
        "file": name,
        "digest": digest,
        "rows": table.num_rows,
        "rows_by_source": rows,
        "cut_off": iso(cut_off),
        "position": {row["source"]: int(row["s"]) for row in position},
        "query": query,
        "original": original,
    }
    return name, record


def with_columns(found: pa.Table, package: ModelPackage) -> pa.Table:
    """Maps as columns under the names the champion was trained with, and the target."""
    schema = package.schema
    names = [f.name for f in schema.features] + list(schema.unused)
    columns: dict[str, pa.Array] = {EVENT_TIME: found.column("occurred_at").combine_chunks()}
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


def aligned(original: pa.Table, table: pa.Table, package: ModelPackage, timestamp: str | None) -> pa.Table:
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
