"""Batches as rows of the log's tables, and as columns that models read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.metrics import decide_at
from models.schema import Schema, Target
from models.types import Floats
from stream.batches import WRONG, Batch

TIME = pa.timestamp("us", tz="UTC")


def merge(batches: list[Batch]) -> pa.Table:
    """The rows of several batches of one deployment version, model and role, with their source."""
    tables = []
    for batch in batches:
        table = pa.Table.from_batches([batch.rows]).replace_schema_metadata(None)
        for index, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                table = table.set_column(index, field.name, pc.cast(table.column(index), pa.string()))
        tables.append(table.append_column("source", pa.array([batch.source] * len(table), pa.string())))
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    chunked = table.column(name)
    return chunked.chunk(0) if chunked.num_chunks == 1 else pa.concat_arrays(chunked.chunks)


def features_of(table: pa.Table) -> dict[str, pa.Array]:
    """The logged features by name; where a name has numbers and texts, the numbers."""
    found: dict[str, pa.Array] = {}
    for name in table.column_names:
        if name.startswith("c:"):
            found[name[2:]] = column(table, name)
    for name in table.column_names:
        if name.startswith("n:"):
            found[name[2:]] = column(table, name)
    return found


def base_of(schema: Schema, table: pa.Table) -> Floats:
    """The base matrix of a schema; a category that came as a number is read as its text."""
    found = features_of(table)
    wanted = {f.name: f for f in schema.features}
    for name, feature in wanted.items():
        if feature.kind == "categorical" and "c:" + name in table.column_names:
            found[name] = column(table, "c:" + name)
    known = {name: array for name, array in found.items() if name in wanted}
    if not known:
        return np.full((len(table), len(wanted)), np.nan)
    return schema.encode_columns(known)


def number_map(table: pa.Table) -> pa.Array:
    """All `n:` columns as a map a row; missing values are left out."""
    names = [n for n in table.column_names if n.startswith("n:")]
    if not names:
        return empty_map(len(table), pa.float64())
    values = np.column_stack([column(table, n).to_numpy(zero_copy_only=False) for n in names])
    return _map([n[2:] for n in names], ~np.isnan(values), pa.array(values[~np.isnan(values)]))


def text_map(table: pa.Table) -> pa.Array:
    """All `c:` columns as a map a row; missing values are left out."""
    names = [n for n in table.column_names if n.startswith("c:")]
    if not names:
        return empty_map(len(table), pa.string())
    columns = [column(table, n) for n in names]
    valid = np.column_stack([c.is_valid().to_numpy(zero_copy_only=False) for c in columns])
    # column k's value of row r stands at k * n + r of all columns laid end to end
    place = (np.arange(len(names)) * len(table))[None, :] + np.arange(len(table))[:, None]
    return _map([n[2:] for n in names], valid, pa.concat_arrays(columns).take(pa.array(place[valid])))


def _map(names: list[str], valid: Any, values: pa.Array) -> pa.Array:
    keys = np.broadcast_to(np.arange(len(names), dtype=np.int32), valid.shape)[valid]
    offsets = np.concatenate([[0], np.cumsum(valid.sum(axis=1))]).astype(np.int32)
    return pa.MapArray.from_arrays(pa.array(offsets), pa.DictionaryArray.from_arrays(pa.array(keys), pa.array(names, pa.string())), values)


def empty_map(rows: int, kind: pa.DataType) -> pa.Array:
    """A map column without entries."""
    return _map([], np.zeros((rows, 0), dtype=bool), pa.array([], kind))


def spread(maps: pa.ChunkedArray, kind: pa.DataType) -> dict[str, pa.ChunkedArray]:
    """A map column as a column a key, null where a row lacks it."""
    parts = [(len(part), of_one_chunk(part, kind)) for part in maps.chunks if len(part)]
    names = dict.fromkeys(name for _, found in parts for name in found)
    return {name: pa.chunked_array([found[name] if name in found else pa.nulls(rows, kind) for rows, found in parts], kind) for name in names}


def of_one_chunk(maps: pa.MapArray, kind: pa.DataType) -> dict[str, pa.Array]:
    """The same of one array.

    Rows of one deployment nearly always have the same keys in the same order: then a column is every k-th item.
    """
    offsets = maps.offsets.to_numpy()  # of a slice they point into all keys and items
    keys, items = maps.keys.slice(offsets[0], offsets[-1] - offsets[0]), maps.items.slice(offsets[0], offsets[-1] - offsets[0])
    if not len(keys):
        return {}
    coded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
    names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    items, rows = pc.cast(items, kind), len(maps)
    width = len(codes) // rows
    if (np.diff(offsets) == width).all() and (codes.reshape(rows, width) == codes[:width]).all():
        if pa.types.is_floating(kind) and not items.null_count:
            table = np.ascontiguousarray(items.to_numpy().reshape(rows, width).T)
            return {names[code]: pa.array(table[k]) for k, code in enumerate(codes[:width].tolist())}
        return {names[code]: items.take(pa.array(np.arange(k, len(codes), width))) for k, code in enumerate(codes[:width].tolist())}
    row_of = np.repeat(np.arange(rows), np.diff(offsets))
    found = {}
    for code in np.unique(codes).tolist():
        at = np.nonzero(codes == code)[0]
        place = np.full(rows, -1, dtype=np.int64)
        place[row_of[at]] = at
        found[names[code]] = items.take(pa.array(place, mask=place < 0))
    return found


def columns_of_maps(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """The log's two maps as `n:` and `c:` columns again."""
    columns: dict[str, pa.ChunkedArray] = {}
    for prefix, name, kind in (("n:", "features_num", pa.float64()), ("c:", "features_cat", pa.string())):
        columns |= {prefix + key: values for key, values in spread(table.column(name), kind).items()}
    return columns


def logged(table: pa.Table) -> pa.Table:
    """Rows of the log as `base_of` reads them: numbered, their maps as columns."""
    return pa.table({"row": pa.array(np.arange(len(table))), **columns_of_maps(table)})


def event_ids(table: pa.Table) -> pa.Array:
    """journal.partition.sequence.row: the identity of each prediction."""
    sources = pc.replace_substring(column(table, "source"), "/", ".")
    return pc.binary_join_element_wise(sources, pc.cast(column(table, "sequence"), pa.string()), pc.cast(column(table, "row"), pa.string()), ".")


def outputs_of(target: Target, output: Floats, threshold: float | None = None) -> dict[str, pa.Array]:
    """A model's outputs as the log's columns: value, class, probabilities."""
    if target.task == "regression":
        empty = pa.array([[]] * len(output), pa.list_(pa.float64()))
        return {"predicted_value": pa.array(output[:, 0]), "predicted_class": pa.array([""] * len(output)), "probabilities": empty}
    names = np.array(target.classes, dtype=object)
    chosen = decide_at(output, threshold)
    value = output[:, 1] if target.task == "binary" else output[np.arange(len(output)), chosen]
    offsets = pa.array(np.arange(len(output) + 1, dtype=np.int32) * output.shape[1])
    return {
        "predicted_value": pa.array(value),
        "predicted_class": pa.array(names[chosen].tolist(), pa.string()),
        "probabilities": pa.ListArray.from_arrays(offsets, pa.array(output.ravel())),
    }


def shared_columns(batch: Batch, table: pa.Table) -> dict[str, Any]:
    """The log's columns that champion and challengers have in common."""
    rows = len(table)
    return {
        "deployment": pa.array([batch.deployment] * rows, pa.string()),
        "deployment_version": pa.array(np.full(rows, batch.version, dtype=np.uint32)),
        "association_id": pc.fill_null(column(table, "association_id"), ""),
        "request_id": column(table, "request_id"),
        "occurred_at": pc.cast(column(table, "occurred_at"), TIME),
        "recorded_at": pc.cast(column(table, "recorded_at"), TIME),
        "replay_id": pa.array([batch.replay_id] * rows, pa.string()),
        "features_num": number_map(table),
        "features_cat": text_map(table),
        "consumer": column(table, "consumer"),
        "humility": column(table, "humility"),
        "source": column(table, "source"),
        "sequence": pc.cast(column(table, "sequence"), pa.uint64()),
    }


def actual_rows(batch: Batch) -> pa.Table:
    """An actual batch as rows of `actuals_log`."""
    from models.types import label_text

    rows = batch.rows
    texts = rows.column("actual").to_pylist()
    recorded = rows.column("recorded_at")
    return pa.table(
        {
            "deployment": pa.array([batch.deployment] * rows.num_rows, pa.string()),
            "association_id": rows.column("association_id"),
            "actual": pa.array([t or "" for t in texts], pa.string()),
            "actual_value": pa.array([number_or_none(t) for t in texts], pa.float64()),
            "actual_class": pa.array(["" if t is None else label_text(t) for t in texts], pa.string()),
            "retracted": pa.array([t is None for t in texts], pa.bool_()),
            "occurred_at": pc.cast(pc.coalesce(rows.column("timestamp"), recorded), TIME),
            "recorded_at": pc.cast(recorded, TIME),
            "event_id": rows.column("id"),
            "source": pa.array([batch.source] * rows.num_rows, pa.string()),
            "sequence": pc.cast(rows.column("sequence"), pa.uint64()),
            "acted_on": rows.column("acted_on") if "acted_on" in rows.schema.names else pa.array([False] * rows.num_rows),
        }
    )


def number_or_none(text: str | None) -> float | None:
    """A finite number, or None; true and false are 1 and 0."""
    if text in {"true", "false"}:
        return 1.0 if text == "true" else 0.0
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and np.isfinite(number) else None


def refusal_rows(batch: Batch) -> pa.Table:
    """A refusal batch as rows of `refusals_log`."""
    rows = batch.rows
    return pa.table(
        {
            "deployment": pa.array([batch.deployment] * rows.num_rows, pa.string()),
            "recorded_at": pc.cast(rows.column("recorded_at"), TIME),
            "request_id": rows.column("request_id"),
            "status": pc.cast(rows.column("status"), pa.uint16()),
            "code": rows.column("code"),
            "latency_us": rows.column("latency_us"),
            "consumer": rows.column("consumer"),
            "source": pa.array([batch.source] * rows.num_rows, pa.string()),
            "sequence": pc.cast(rows.column("sequence"), pa.uint64()),
            "wrong": rows.column("wrong") if "wrong" in rows.schema.names else pa.array([[]] * rows.num_rows, WRONG),
        }
    )
