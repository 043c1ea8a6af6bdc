"""A training set from the log: stored requests joined with the actuals known by a cut-off.

The same cut-off, query and log give the same rows; query, row count and digest are kept, and the
matrix as Parquet in the artifacts.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from models.errors import DataError
from models.package import ModelPackage
from models.registry import Artifacts
from models.table import flat, read_table
from stream.association import literal
from stream.clickhouse import DICTIONARIES, EventLog
from stream.clock import iso, parse_time
from stream.erasure import ASSOCIATION
from stream.errors import StreamError
from stream.queries import outcomes_as_of
from stream.rows import spread

EVENT_TIME = "champion_event_time"
WEIGHT = "champion_weight"
STRETCHES = 10
LEFT_OUT = {"acted_on": "NOT acted_on", "overridden": "position(humility, ':override') = 0", "referred": "position(humility, ':refer') = 0"}
SHARE_OF_SPAN = 10

COLUMNS = "association_id, occurred_at, features_num, features_cat, actual_value, actual_class"
POSITION = """SELECT source, max(sequence) AS s FROM (
    SELECT source, sequence FROM predictions_log WHERE {known} UNION ALL SELECT source, sequence FROM actuals_log WHERE {known})
GROUP BY source ORDER BY source"""


@dataclass(frozen=True)
class Choice:
    """Which stored rows are learnt from, and how much each counts.

    `half_life` (seconds) lets older rows count less; `rows` takes about so many, as many from each tenth of
    the time, drawn by the hash of their event ids; `exclude` leaves out rows that someone acted on, that a rule overrode or referred to a person.
    """

    half_life: int = 0
    rows: int = 0
    exclude: tuple[str, ...] = ()


def read_choice(data: dict[str, Any]) -> Choice:
    """A choice from plain data; DataError says what is wrong."""
    try:
        found = Choice(int(data.get("half_life") or 0), int(data.get("rows") or 0), tuple(data.get("exclude") or ()))
    except (TypeError, ValueError) as error:
        raise DataError("wrong_choice", f"half_life and rows are whole numbers: {error}") from error
    unknown = sorted(set(found.exclude) - set(LEFT_OUT))
    if unknown or found.half_life < 0 or found.rows < 0:
        raise DataError("wrong_choice", f"exclude takes {', '.join(LEFT_OUT)}; half_life and rows are at least 0")
    return found


def build(
    log: EventLog, artifacts: Artifacts, package: ModelPackage, deployment: str, *, cut_off: int, start: int, original: str = "", options: dict[str, Any] | None = None, choice: Choice | None = None
) -> tuple[str, dict[str, Any]]:
    """Make the set, store it as Parquet; answers its artifact name and its record."""
    options, choice = options or {}, choice or Choice()
    query, spans = query_of(log, deployment, cut_off, start, choice)
    position = log.rows(POSITION.format(known=f"deployment = {literal(deployment)} AND recorded_at <= fromUnixTimestamp64Micro({cut_off})"))
    record: dict[str, Any] = {
        "cut_off": iso(cut_off),
        "position": {row["source"]: int(row["s"]) for row in position},
        "query": query,
        "original": original,
        "model_id": package.digest,
        "timestamp": options.get("timestamp", ""),
        "weight": options.get("weight", ""),
        "choice": asdict(choice),
        **spans,
    }
    data, rows = assemble(log, artifacts, package, record)
    digest = hashlib.sha256(data).hexdigest()
    name = f"training-sets/{digest}.parquet"
    artifacts.write(name, data)
    return name, {**record, "file": name, "digest": digest, "rows": sum(rows.values()), "rows_by_source": rows}


def query_of(log: EventLog, deployment: str, cut_off: int, start: int, choice: Choice) -> tuple[str, dict[str, Any]]:
    """The SELECT of the rows, whose constants are written out, and what was measured to write it.

    Of several predictions with one association id the newest stands for all: they have one outcome.
    """
    parts = ["role = 'champion'", "association_id != ''", f"occurred_at >= fromUnixTimestamp64Micro({start})"]
    known = outcomes_as_of(deployment, cut_off, " AND ".join(parts))
    kept = " AND ".join([LEFT_OUT[word] for word in choice.exclude] or ["1"])
    newest = f"(SELECT * FROM {known} WHERE {kept} ORDER BY occurred_at DESC, event_id DESC LIMIT 1 BY association_id)"
    measured = log.rows(f"""SELECT toUnixTimestamp64Micro(min(occurred_at)) AS a, toUnixTimestamp64Micro(max(occurred_at)) AS b, count() AS n,
    quantileExact(0.95)(dateDiff('second', occurred_at, actual_at)) AS delay FROM {newest}""")[0]
    whole = int(log.rows(f"SELECT count() AS n FROM {known}")[0]["n"])
    first, last, count = int(measured["a"]), int(measured["b"]), int(measured["n"])
    if choice.rows and count:
        stretch = f"intDiv(toUnixTimestamp64Micro(occurred_at) - {first}, {(last - first) // STRETCHES + 1})"
        found = log.rows(f"SELECT {stretch} AS k, count() AS n FROM {newest} GROUP BY k")
        shares = {int(row["k"]): choice.rows / STRETCHES / int(row["n"]) for row in found}
        bounds = ", ".join(str(min(2**64 - 1, int(shares.get(k, 0.0) * 2**64))) for k in range(STRETCHES))
        newest = f"(SELECT * FROM {newest} WHERE sipHash64(event_id) <= arrayElement([{bounds}], {stretch} + 1))"
    # forward folds keep the label delay between training and validation, where there is time for that
    delay = min(max(0, int(measured["delay"] or 0)), (last - first) // 1_000_000 // SHARE_OF_SPAN) if count else 0
    spans = {"label_delay_seconds": delay, "left_out": whole - count, "newest": iso(last) if count else ""}
    return f"SELECT {COLUMNS}\nFROM {newest}\nORDER BY occurred_at, event_id", spans


def assemble(log: EventLog, artifacts: Artifacts, package: ModelPackage, record: dict[str, Any]) -> tuple[bytes, dict[str, int]]:
    """The set as Parquet, and how many rows each source gave."""
    found = log.arrow(record["query"], settings=DICTIONARIES)
    if not found.num_rows:
        raise StreamError("no stored request has an actual yet: there is nothing to train on")
    table = with_columns(found, package)
    rows = {"production": table.num_rows}
    own = record.get("weight", "")
    if own and own not in table.column_names and record["original"]:
        table = table.append_column(own, pa.nulls(table.num_rows, pa.float64()))  # the original may have what production does not log
    if record["original"]:
        first = aligned(flat(read_table(artifacts.read(record["original"])).arrow), table, package, record["timestamp"])
        rows["original"] = first.num_rows
        table = pa.concat_tables([first, table], promote_options="permissive")
    table = with_weights(table, record)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue(), rows


def with_weights(table: pa.Table, record: dict[str, Any]) -> pa.Table:
    """How much each row counts: by its own weight column, and by half for each half-life of its age.

    Rows without a time are as old as the oldest that has one; rows without a weight count once.
    """
    half_life, own = record.get("choice", {}).get("half_life", 0), record.get("weight", "")
    own = own if own in table.column_names else ""
    if not half_life and not own:
        return table
    weights = np.ones(len(table))
    if own:
        given = pc.cast(table.column(own), pa.float64()).to_numpy(zero_copy_only=False)
        weights = np.where(np.isnan(given), 1.0, given)
    if half_life:
        times = pc.cast(table.column(EVENT_TIME), pa.int64())
        times = times.fill_null(pc.min(times)).to_numpy()
        weights = weights * 0.5 ** ((parse_time(record["newest"]) - times) / (half_life * 1e6))
    return table.append_column(WEIGHT, pa.array(weights))


def rebuild(log: EventLog, artifacts: Artifacts, package: ModelPackage, record: dict[str, Any]) -> dict[str, Any]:
    """Make a set again by its record and compare it, byte for byte, with what was trained on."""
    data, rows = assemble(log, artifacts, package, record)
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
    columns = {EVENT_TIME: found.column("occurred_at"), ASSOCIATION: found.column("association_id")}
    numbers, texts = spread(found.column("features_num"), pa.float64()), spread(found.column("features_cat"), pa.string())
    for name in names:
        number, text = numbers.get(name), texts.get(name)
        if text is not None and text.null_count < len(text):
            columns[name] = text if number is None else pc.coalesce(text, pc.cast(number, pa.string()))
        elif number is not None and number.null_count < len(number):
            columns[name] = number
    target = schema.target
    actual = "actual_value" if target.task == "regression" else "actual_class"
    columns[target.name] = pc.cast(found.column(actual), pa.float64() if target.task == "regression" else pa.string())
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
