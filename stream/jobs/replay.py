"""A replay: stored requests of a window scored by another model, entered as role `replay`.

Its rows travel as any prediction does, in the order in which they were recorded, and a message never
cuts between rows of one moment. So what the log holds of a replay is always its beginning: a replay that
was broken off goes on after the newest moment that is there, and one that is done again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa

from models.package import ModelPackage
from stream.association import literal
from stream.batches import MOST_ROWS, encode
from stream.broker import Producer
from stream.clickhouse import EventLog
from stream.rows import base_of, column, logged, outputs_of
from stream.topics import PREDICTIONS, partition_of

PAGE = 50_000
STORED = """predictions WHERE deployment = {deployment} AND role = 'champion'
    AND occurred_at >= fromUnixTimestamp64Micro({start}) AND occurred_at < fromUnixTimestamp64Micro({end})"""
ROWS = """SELECT association_id, request_id, toUnixTimestamp64Micro(occurred_at) AS at, toUnixTimestamp64Micro(recorded_at) AS recorded,
    features_num, features_cat, consumer, event_id
FROM {stored} AND recorded_at > fromUnixTimestamp64Micro({after})
ORDER BY recorded_at LIMIT {page} WITH TIES"""
REACHED = "SELECT count() AS rows, max(toUnixTimestamp64Micro(recorded_at)) AS after, max(sequence) AS sequence FROM predictions WHERE replay_id = {id:String}"


async def replay(
    log: EventLog, producer: Producer, package: ModelPackage, deployment: str, *, replay_id: str, start: int, end: int, partitions: int
) -> AsyncIterator[tuple[int, int]]:
    """Score and send; tells after each page how many rows of how many are sent."""
    stored = STORED.format(deployment=literal(deployment), start=start, end=end)
    total = int((await asyncio.to_thread(log.rows, f"SELECT count() AS n FROM {stored}"))[0]["n"])
    reached = (await asyncio.to_thread(log.rows, REACHED, {"id": replay_id}))[0]
    done, after, sequence = int(reached["rows"]), int(reached["after"]), int(reached["sequence"])
    partition = partition_of(deployment, partitions)
    source = f"replay-{replay_id}/{partition}"
    while True:
        page = await asyncio.to_thread(log.arrow, ROWS.format(stored=stored, after=after, page=PAGE))
        parts = parts_of(page.sort_by([("recorded", "ascending"), ("event_id", "ascending")]).combine_chunks())
        if page.num_rows >= PAGE and len(parts) > 1:
            parts.pop()  # cut by the page's end: where messages are cut must not depend on where a replay began
        for part in parts:
            sequence += 1
            message = await asyncio.to_thread(scored_message, part, package, deployment, replay_id, source, sequence)
            await producer.send(PREDICTIONS, [message], partition)
            done, after = done + part.num_rows, int(part.column("recorded")[-1].as_py())
        yield done, max(total, done)
        if page.num_rows < PAGE:
            return


def parts_of(page: pa.Table) -> list[pa.Table]:
    """A page in parts of some MOST_ROWS rows; the rows of one moment stay together."""
    moments = page.column("recorded").to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], moments[1:] != moments[:-1]])) if len(moments) else np.array([], dtype=int)
    parts, at = [], 0
    while at < len(moments):
        later = starts[starts > at]
        fitting = later[later <= at + MOST_ROWS]
        end = int(fitting[-1]) if len(fitting) else int(later[0]) if len(later) else len(moments)
        if len(moments) - at <= MOST_ROWS:
            end = len(moments)
        parts.append(page.slice(at, end - at).combine_chunks())
        at = end
    return parts


def scored_message(part: pa.Table, package: ModelPackage, deployment: str, replay_id: str, source: str, sequence: int) -> bytes:
    """One message of replayed rows."""
    rows = part.num_rows
    table = logged(part)
    columns = {name: column(table, name) for name in table.column_names}
    outputs = outputs_of(package.schema.target, package.plan.predict(base_of(package.schema, table)))
    columns |= {
        "sequence": pa.array(np.full(rows, sequence, dtype=np.int64)),
        "row": pa.array(np.arange(rows, dtype=np.int32)),
        "request_id": part.column("request_id").combine_chunks(),
        "association_id": part.column("association_id").combine_chunks(),
        "occurred_at": part.column("at").combine_chunks(),
        "recorded_at": part.column("recorded").combine_chunks(),
        "latency_us": pa.array(np.zeros(rows)),
        "consumer": part.column("consumer").combine_chunks(),
        "value": outputs["predicted_value"],
        "class": outputs["predicted_class"],
        "probabilities": outputs["probabilities"],
        "humility": pa.array([""] * rows, pa.string()),
    }
    return encode("predictions", deployment, columns, model_id=package.digest, source=source, role="replay", replay_id=replay_id)
