"""Heartbeats: each part tells the log that it lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa

from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.errors import LogUnavailable, QueryRejected

EVERY, SOON = 2.0, 0.2
SCHEMA = pa.schema([("part", pa.string()), ("instance", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("detail", pa.string())])


async def heartbeats(event_log: EventLog, part: str, instance: str, detail: Callable[[], dict[str, Any]]) -> None:
    """Tell for ever; while the log is away, or has no tables yet, try again soon."""
    while True:
        told = await asyncio.to_thread(beat, event_log, part, instance, detail())
        await asyncio.sleep(EVERY if told else SOON)


def beat(event_log: EventLog, part: str, instance: str, detail: dict[str, Any]) -> bool:
    """Write a heartbeat; a log that is away is no reason to die."""
    row = {"part": part, "instance": instance, "at": now_us(), "detail": orjson.dumps(detail).decode()}
    try:
        event_log.insert("heartbeats", pa.Table.from_pylist([row], schema=SCHEMA))
    except (LogUnavailable, QueryRejected):
        return False
    return True
