"""Heartbeats: each part tells the log that it lives."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pyarrow as pa

from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.errors import LogUnavailable, QueryRejected

EVERY = 2.0
SCHEMA = pa.schema([("part", pa.string()), ("instance", pa.string()), ("at", pa.timestamp("us", tz="UTC")), ("detail", pa.string())])


def beat(event_log: EventLog, part: str, instance: str, detail: dict[str, Any]) -> None:
    """Write a heartbeat; a log that is away is no reason to die."""
    with contextlib.suppress(LogUnavailable, QueryRejected):
        row = {"part": part, "instance": instance, "at": now_us(), "detail": orjson.dumps(detail).decode()}
        event_log.insert("heartbeats", pa.Table.from_pylist([row], schema=SCHEMA))
