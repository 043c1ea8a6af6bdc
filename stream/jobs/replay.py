"""A replay: stored requests of a window scored by another model, entered as role `replay`.

Its rows travel as any prediction does; their identity is the replay's id and the row's place, so a
replay that is done again changes nothing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from models.package import ModelPackage
from stream.association import literal
from stream.batches import MOST_ROWS, encode
from stream.broker import Producer
from stream.clickhouse import EventLog
from stream.rows import base_of, columns_of_maps, outputs_of
from stream.topics import PREDICTIONS, partition_of

QUERY = """SELECT association_id, request_id, toUnixTimestamp64Micro(occurred_at) AS at, toUnixTimestamp64Micro(recorded_at) AS recorded,
    features_num, features_cat, consumer
FROM predictions WHERE deployment = {deployment} AND role = 'champion'
    AND occurred_at >= fromUnixTimestamp64Micro({start}) AND occurred_at < fromUnixTimestamp64Micro({end})
ORDER BY recorded_at, event_id"""


async def replay(log: EventLog, producer: Producer, package: ModelPackage, deployment: str, *, replay_id: str, start: int, end: int, partitions: int) -> int:
    """Score and send; answers the number of rows."""
    import asyncio

    sql = QUERY.format(deployment=literal(deployment), start=start, end=end)
    found = await asyncio.to_thread(log.arrow, sql)
    partition = partition_of(deployment, partitions)
    source = f"replay-{replay_id}/{partition}"
    for number, at in enumerate(range(0, found.num_rows, MOST_ROWS)):
        part = found.slice(at, MOST_ROWS).combine_chunks()
        message = await asyncio.to_thread(scored_message, part, package, deployment, replay_id, source, number + 1)
        await producer.send(PREDICTIONS, [message], partition)
    return int(found.num_rows)


def scored_message(part: pa.Table, package: ModelPackage, deployment: str, replay_id: str, source: str, sequence: int) -> bytes:
    """One message of replayed rows."""
    rows = part.num_rows
    columns = columns_of_maps(part)
    table = pa.table({"row": pa.array(np.arange(rows)), **columns})
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
