"""What travels to the worker: one deployment's rows of a moment as an Arrow IPC stream.

A prediction batch has a row a scored row: its journal coordinates, ids, times, the answer, and the
logged features as columns named `n:` (numbers) and `c:` (texts). An actual batch has a row an
actual. What holds for the whole batch is in the schema's metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from stream.errors import Malformed

VERSION = "1"
MOST_ROWS = 5000
CHAMPION, BATCH = "champion", "batch"  # roles of what was asked: watched, or only recorded
ACTED_ON = 4
SUFFIXES = [f"-{k}" for k in range(1000)]
ROUTE_FAILED = "route_failed"  # code of a refusal, before the model: the request was answered, by the champion in its place
WRONG = pa.map_(pa.string(), pa.uint32())  # rows that a value of the wrong type spoilt, by input


@dataclass(frozen=True)
class Batch:
    """A decoded message: its kind, what holds for all rows, and the rows."""

    kind: str
    deployment: str
    version: int
    model_id: str
    source: str
    role: str
    replay_id: str
    rows: pa.RecordBatch

    @property
    def sequences(self) -> Any:
        """The journal sequence of each row."""
        return self.rows.column("sequence").to_numpy()


def decode(data: bytes) -> Batch:
    """Read a message; Malformed where it is none of ours."""
    try:
        with pa.ipc.open_stream(data) as reader:
            rows = reader.read_next_batch()
            meta = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
        if meta["format"] != VERSION:
            raise Malformed(f"batch format {meta['format']} is not known here")
        return Batch(
            meta["kind"], meta["deployment"], int(meta["version"]), meta["model_id"], meta["source"], meta["role"], meta["replay_id"], rows
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, StopIteration) as error:
        raise Malformed(f"not a batch: {error}") from error


def encode(kind: str, deployment: str, columns: dict[str, pa.Array], **meta: Any) -> bytes:
    """Write a message."""
    head = {"format": VERSION, "kind": kind, "deployment": deployment, "version": "0", "model_id": "", "source": "", "role": CHAMPION, "replay_id": ""}
    head |= {name: str(value) for name, value in meta.items()}
    rows = pa.RecordBatch.from_pydict(columns)
    rows = rows.replace_schema_metadata(head)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    return bytes(sink.getvalue().to_pybytes())


def prediction_batches(records: Iterable[dict[str, Any]], journal: str) -> Iterator[bytes]:
    """Journal records of kind "p" and one partition as messages, one a deployment version and model."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["d"], record["v"], record["m"], record["p"], record.get("role", CHAMPION)), []).append(record)
    for (deployment, version, model, partition, role), group in groups.items():
        for chunk in chunked(group):
            yield encode(
                "predictions",
                deployment,
                prediction_columns(chunk),
                version=version,
                model_id=model,
                source=f"{journal}/{partition}",
                role=role,
            )


def rows_in(record: dict[str, Any]) -> int:
    """How many rows a record of predictions or actuals holds, as rows or as columns."""
    return len(record["rows"] if "rows" in record else record["y"])


def own_ids(request_id: str, first: int, count: int) -> list[str]:
    """The association ids of rows that came with none: the request's id and the number of the row in it.

    >>> own_ids("r", 2, 2)
    ['r-2', 'r-3']
    """
    if first + count <= len(SUFFIXES):
        return [request_id + suffix for suffix in SUFFIXES[first : first + count]]
    return [f"{request_id}-{k}" for k in range(first, first + count)]


def chunked(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Records in groups of bounded size."""
    group: list[dict[str, Any]] = []
    rows = 0
    for record in records:
        size = rows_in(record)
        if group and rows + size > MOST_ROWS:
            yield group
            group, rows = [], 0
        group.append(record)
        rows += size
    if group:
        yield group


def prediction_columns(records: list[dict[str, Any]]) -> dict[str, pa.Array]:
    """The columns of a prediction batch from journal records."""
    counts = [rows_in(r) for r in records]
    columns: dict[str, pa.Array] = {
        "sequence": pa.array(np.repeat([r["s"] for r in records], counts).astype(np.int64)),
        "row": pa.array(np.concatenate([np.arange(r.get("r0", 0), r.get("r0", 0) + n) for r, n in zip(records, counts, strict=True)]).astype(np.int32)),
        "request_id": repeated([r["id"] for r in records], counts),
        "association_id": pa.array([a for r, n in zip(records, counts, strict=True) for a in (r["a"] if r["a"] is not None else own_ids(r["id"], r.get("r0", 0), n))], pa.string()),
        "occurred_at": pa.array([t for r, n in zip(records, counts, strict=True) for t in (r["ts"] or [r["t"]] * n)], pa.int64()),
        "recorded_at": pa.array(np.repeat([r["t"] for r in records], counts).astype(np.int64)),
        "latency_us": pa.array(np.repeat([r["lat"] for r in records], counts).astype(np.float64)),
        "consumer": repeated([r.get("c", "") for r in records], counts),
        "value": pa.array([v for r in records for v in r["y"]], pa.float64()),
        "class": pa.array([c for r in records for c in r["k1"]], pa.string()),
        "probabilities": lists([p for r in records for p in r["q"]]),
        "humility": pa.array([h for r, n in zip(records, counts, strict=True) for h in (r.get("h") or [""] * n)], pa.string()),
    }
    return columns | feature_columns(values_by_name(records))


def repeated(values: list[str], counts: list[int]) -> pa.Array:
    """Texts, each as often as its count, as a dictionary column."""
    indices = np.repeat(np.arange(len(values), dtype=np.int32), counts)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(values, pa.string()))


def lists(values: list[list[float]]) -> pa.Array:
    """Short lists of numbers as a list column."""
    offsets = np.concatenate([[0], np.cumsum(list(map(len, values)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.array(list(chain.from_iterable(values)), dtype=np.float64)))


def values_by_name(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The logged values of records, whether they hold rows or columns; None where a row lacks a name."""
    first = records[0].get("cols")
    if first is not None and all("cols" in r and r["cols"].keys() == first.keys() for r in records):
        return {name: list(chain.from_iterable(r["cols"][name] for r in records)) for name in first}
    rows = [row for r in records for row in (r["rows"] if "rows" in r else [dict(zip(r["cols"], values, strict=True)) for values in zip(*r["cols"].values(), strict=True)])]
    names = list(rows[0]) if rows else []
    if any(len(row) != len(names) or row.keys() != rows[0].keys() for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def feature_columns(found: dict[str, list[Any]]) -> dict[str, pa.Array]:
    """Logged values as `n:` and `c:` columns; a name with numbers and texts gets both."""
    columns: dict[str, pa.Array] = {}
    for name, values in found.items():
        kinds = set(map(type, values))
        kinds.discard(type(None))
        if kinds <= {float, int}:
            if kinds:
                columns["n:" + name] = pa.array(np.array(values, dtype=np.float64), from_pandas=True)
        elif kinds == {str}:
            columns["c:" + name] = pa.array(values, pa.string()).dictionary_encode()
        else:
            numbers = [float(v) if isinstance(v, bool | int | float) else None for v in values]
            texts = [v if isinstance(v, str) else None for v in values]
            columns["n:" + name] = pa.array(numbers, pa.float64())
            if any(t is not None for t in texts):
                columns["c:" + name] = pa.array(texts, pa.string()).dictionary_encode()
    return columns


def actual_batches(records: Iterable[dict[str, Any]], journal: str) -> Iterator[bytes]:
    """Journal records of kind "a" and one partition as messages, one a deployment."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["d"], record["p"]), []).append(record)
    for (deployment, partition), group in groups.items():
        for chunk in chunked(group):
            yield encode("actuals", deployment, actual_columns(chunk), source=f"{journal}/{partition}")


def actual_columns(records: list[dict[str, Any]]) -> dict[str, pa.Array]:
    """The columns of an actual batch; a row is [association id, actual, timestamp or None, id, acted on]."""
    counts = [len(r["rows"]) for r in records]
    rows = [row for r in records for row in r["rows"]]
    return {
        "sequence": pa.array(np.repeat([r["s"] for r in records], counts).astype(np.int64)),
        "recorded_at": pa.array(np.repeat([r["t"] for r in records], counts).astype(np.int64)),
        **fact_columns(rows),
    }


def fact_columns(rows: Sequence[Sequence[Any]]) -> dict[str, pa.Array]:
    """What actuals say, as columns; rows of before 0.2 lack the last value."""
    return {
        "association_id": pa.array([row[0] for row in rows], pa.string()),
        "actual": pa.array([row[1] for row in rows], pa.string()),
        "timestamp": pa.array([row[2] for row in rows], pa.int64()),
        "id": pa.array([row[3] for row in rows], pa.string()),
        "acted_on": pa.array([len(row) > ACTED_ON and row[ACTED_ON] for row in rows], pa.bool_()),
    }


def skipped(record: dict[str, Any], journal: str) -> bytes:
    """A message that stands for a record which was put aside: its sequence, so that progress has no gap."""
    return mark(f"{journal}/{record['p']}", record["s"], record["d"])


def mark(source: str, sequence: int, deployment: str = "") -> bytes:
    """A message without rows that says how far a source has come."""
    return encode("skipped", deployment, {"sequence": pa.array([sequence], pa.int64())}, source=source)


def erasure_batches(records: Iterable[dict[str, Any]], journal: str) -> Iterator[bytes]:
    """Journal records of kind "e" (requests to erase) as messages, one a record."""
    for record in records:
        columns = {
            "sequence": pa.array([record["s"]], pa.int64()),
            "recorded_at": pa.array([record["t"]], pa.int64()),
            "erasure_id": pa.array([record["id"]], pa.string()),
            "association_id": pa.array([record["a"]], pa.string()),
            "rows": pa.array([record["n"]], pa.int64()),
        }
        yield encode("erasures", record["d"], columns, source=f"{journal}/{record['p']}")


def refusal_batches(records: Iterable[dict[str, Any]], journal: str) -> Iterator[bytes]:
    """Journal records of kind "x" (requests without an answer) and one partition as messages."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["d"], record["p"]), []).append(record)
    for (deployment, partition), group in groups.items():
        columns = {
            "sequence": pa.array([r["s"] for r in group], pa.int64()),
            "recorded_at": pa.array([r["t"] for r in group], pa.int64()),
            "request_id": pa.array([r["id"] for r in group], pa.string()),
            "status": pa.array([r["status"] for r in group], pa.int32()),
            "code": pa.array([r["code"] for r in group], pa.string()),
            "latency_us": pa.array([r["lat"] for r in group], pa.float64()),
            "consumer": pa.array([r.get("c", "") for r in group], pa.string()),
            "wrong": pa.array([list(r.get("w", {}).items()) for r in group], WRONG),
        }
        yield encode("refusals", deployment, columns, source=f"{journal}/{partition}")
