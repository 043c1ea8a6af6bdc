"""Batch predictions: a file of any size through a deployment, in constant memory, to be gone on with where it was broken off.

Rows go as ordinary requests, so they are journalled, monitored and joined like any others. Each piece of the
input leaves a part beside the output; a run that is started again does only the pieces that have none (a piece
whose answer was on its way is asked for again, under the same request and association ids).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from gateway.client import Client, Refusal
from models.errors import DataError
from stream.clickhouse import fill_table, parquet_of
from stream.errors import LogUnavailable, QueryRejected

ROWS = 5000
TRIES = 8
BLOCK = 16 << 20
PASSES = frozenset({0, 429, 502, 503, 504})  # what may answer when it is asked again
SUFFIXES = (".csv", ".parquet", ".arrow")


def pieces(file: Path, rows: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of a CSV, Parquet or Arrow file in pieces; of a CSV all values are texts, as a CSV request has them."""
    for batch in regrouped(batches_of(file), rows):
        yield [{k: plain(v) for k, v in row.items() if v is not None} for row in batch.to_pylist()]


def batches_of(file: Path) -> Iterator[pa.RecordBatch]:
    """A file's record batches as they come."""
    if file.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(file) as found:
            yield from found.iter_batches(ROWS)
    elif file.suffix == ".arrow":
        with pa.memory_map(str(file)) as source, pyarrow.ipc.open_file(source) as found:
            yield from (found.get_batch(k) for k in range(found.num_record_batches))
    elif file.suffix == ".csv":
        lines = pyarrow.csv.ParseOptions(newlines_in_values=True)
        with pyarrow.csv.open_csv(file, parse_options=lines) as found:
            names = found.schema.names
        texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True)
        with pyarrow.csv.open_csv(file, pyarrow.csv.ReadOptions(block_size=BLOCK), parse_options=lines, convert_options=texts) as found:
            yield from found
    else:
        raise DataError("unknown_format", f"{file.name}: the name ends in {', '.join(SUFFIXES)}")


def regrouped(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Batches of any size as tables of so many rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count >= rows:
            whole = pa.Table.from_batches(held)
            full = count // rows * rows
            yield from (whole.slice(at, rows) for at in range(0, full, rows))
            held, count = whole.slice(full).to_batches(), count - full
    if count:
        yield pa.Table.from_batches(held)


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return value if isinstance(value, bool | int | float | str) else str(value)


def score(api: Client, deployment: str, file: Path, output: Path, rows: int = ROWS, told: Any = None, *, monitored: bool = True) -> dict[str, int]:
    """Predict a file into another; answers rows and errors. Whatever was done before by the same call is kept.

    Rows that are not `monitored` are recorded and can be looked up, and count nowhere else.
    """
    if output.suffix not in SUFFIXES:
        raise DataError("unknown_format", f"{output.name}: the name ends in {', '.join(SUFFIXES)}")
    schema = schema_of(api, deployment)
    run = run_of(deployment, file, rows, monitored=monitored)
    folder = output.with_name(output.name + f".parts-{run}")
    folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, piece in enumerate(pieces(file, rows)):
        part = folder / f"{number:08d}.arrow"
        if not part.exists():
            table = pa.Table.from_pylist(answered(api, deployment, piece, f"batch-{run}-{number}", done, monitored=monitored), schema=schema)
            draft = part.with_suffix(".draft")
            with pyarrow.ipc.new_file(draft, schema) as sink:
                sink.write_table(table)
            draft.replace(part)
        done += len(piece)
        if told is not None:
            told(done)
    found = gather(sorted(folder.glob("*.arrow")), output, schema)
    shutil.rmtree(folder)
    return found


def run_of(deployment: str, file: Path, rows: int = ROWS, *, monitored: bool = True) -> str:
    """What names a run: the same file in the same state, through the same deployment, is the same run."""
    return hashlib.sha256(f"{deployment}:{monitored}:{file.resolve()}:{file.stat().st_size}:{file.stat().st_mtime_ns}:{rows}".encode()).hexdigest()[:16]


def into_table(url: str, table: str, file: Path, run: str) -> dict[str, int]:
    """The rows of a scored file into a table of a ClickHouse, `batch` being the run; those of it that are there already stay."""
    parts = (pa.Table.from_batches([rows]) for rows in batches_of(file))
    counts = {"rows": 0}

    def counted() -> Iterator[pa.Table]:
        for part in parts:
            counts["rows"] += len(part)
            yield part

    try:
        fill_table(url, table, run, counted())
    except (LogUnavailable, QueryRejected) as error:
        raise DataError("unwritable_table", f"the table {table}: {error}") from error
    return counts


def asked_of(source: str, query: str, output: Path) -> Path:
    """The rows of a ClickHouse query as a Parquet file beside the output; one that is there already is gone on with."""
    name = hashlib.sha256(f"{source}:{query}".encode()).hexdigest()[:16]
    file = output.with_name(f"{output.name}.query-{name}.parquet")
    if not file.exists():
        draft = file.with_suffix(".draft")
        try:
            parquet_of(source, query, draft)
        except (LogUnavailable, QueryRejected) as error:
            draft.unlink(missing_ok=True)
            raise DataError("unreadable_source", str(error)) from error
        draft.replace(file)
    return file


def schema_of(api: Client, deployment: str) -> pa.Schema:
    """The columns of the output: the row's number, its id, the prediction, each class's probability, what was wrong or noted."""
    target = api.get(f"/v1/models/{api.get(f'/v1/deployments/{deployment}')['champion']['model_id']}")["target"]
    kind = pa.float64() if target["task"] == "regression" else pa.string()
    shares = [(f"p_{name}", pa.float64()) for name in target["classes"]]
    return pa.schema([("row", pa.int64()), ("association_id", pa.string()), ("prediction", kind), *shares, ("model_id", pa.string()), ("warnings", pa.string()), ("error", pa.string())])


def answered(api: Client, deployment: str, piece: list[dict[str, Any]], request_id: str, first: int, *, monitored: bool = True) -> list[dict[str, Any]]:
    """One piece's answers; a row that cannot be scored has its error, and so has each where none can."""
    for attempt in itertools.count(1):
        try:
            answer = api.call("POST", f"/v1/deployments/{deployment}/predictions{'' if monitored else '?monitored=false'}", {"rows": piece}, headers={"X-Request-ID": request_id, "Idempotency-Key": request_id})
        except Refusal as error:
            if error.status in PASSES and attempt < TRIES:
                time.sleep(min(0.25 * 2**attempt, 10.0))
                continue
            if error.status != 422:  # noqa: PLR2004
                raise
            reasons = {d.get("row"): d.get("error") for d in error.details if isinstance(d, dict)}
            return [{"row": first + k, "error": reasons.get(k) or str(error)} for k in range(len(piece))]
        return [one_row(answer, found, first) for found in answer["predictions"]]
    raise AssertionError  # not reached: the loop ends by return or raise


def one_row(answer: dict[str, Any], found: dict[str, Any], first: int) -> dict[str, Any]:
    """A row of the output."""
    return {
        "row": first + found["row"],
        "association_id": found["association_id"],
        "prediction": found.get("prediction"),
        **{f"p_{name}": share for name, share in (found.get("probabilities") or {}).items()},
        "model_id": found.get("model_id") or answer["model_id"],
        "warnings": "; ".join(found.get("warnings", ())) or None,
        "error": found.get("error"),
    }


def gather(parts: list[Path], output: Path, schema: pa.Schema) -> dict[str, int]:
    """The parts as one file, in their order."""
    counts = {"rows": 0, "errors": 0}
    draft = output.with_name(output.name + ".draft")
    writer: Any = pyarrow.csv.CSVWriter(draft, schema) if output.suffix == ".csv" else pyarrow.parquet.ParquetWriter(draft, schema) if output.suffix == ".parquet" else pyarrow.ipc.new_file(draft, schema)
    with writer:
        for part in parts:
            with pyarrow.ipc.open_file(part) as found:
                table = found.read_all()
            writer.write_table(table)
            counts["rows"] += len(table)
            counts["errors"] += len(table) - table.column("error").null_count
    draft.replace(output)
    return counts
