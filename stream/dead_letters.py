"""Dead letters: what could not be handled is kept with its reason, and told as an event.

A letter goes to the topic; whoever writes the log puts it into the table `dead_letters`, from where it
can be sent again once its cause is mended.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from stream import events
from stream.batches import decode, encode
from stream.broker import BrokerUnavailable, Message, Producer
from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.errors import LogUnavailable, Malformed, QueryRejected, Refused
from stream.topics import ACTUALS, CONTROL, DEAD_LETTERS, JOINABLE, PREDICTIONS

log = logging.getLogger("champion.dead_letters")

MOST_BYTES = 64 << 10
MOST_REASON = 500
NAMED = 50

SCHEMA = pa.schema(
    [
        ("letter_id", pa.string()),
        ("topic", pa.string()),
        ("partition_id", pa.int32()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("size", pa.uint64()),
        ("payload", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True)
class Letter:
    """A message that could not be handled, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    value: bytes

    @property
    def letter_id(self) -> str:
        """The same for the same message."""
        content = hashlib.sha256(self.value).hexdigest()
        return hashlib.sha256(f"{self.topic}:{self.partition}:{self.offset}:{content}".encode()).hexdigest()[:32]

    def encode(self, now: int) -> bytes:
        """The letter as a message; the payload up to 64 KiB."""
        return orjson.dumps(
            {
                "letter_id": self.letter_id,
                "topic": self.topic,
                "partition_id": self.partition,
                "offset": self.offset,
                "reason": self.reason[:2000],
                "size": len(self.value),
                "payload": base64.b64encode(self.value[:MOST_BYTES]).decode(),
                "recorded_at": now,
            }
        )


class DeadLetters:
    """Puts messages aside; waits for a broker rather than lose one."""

    def __init__(self, producer: Producer, actor: str) -> None:
        """Send with `producer`, sign as `actor`."""
        self._producer, self._actor = producer, actor
        self.count = 0

    async def put(self, *letters: Letter) -> None:
        """Keep messages, and tell of them in one event."""
        if not letters:
            return
        self.count += len(letters)
        first, now = letters[0], now_us()
        log.warning("%d dead letters, the first from %s[%d] at %d: %s", len(letters), first.topic, first.partition, first.offset, first.reason)
        fact = events.DeadLettered(
            first.topic,
            first.partition,
            first.offset,
            first.reason[:MOST_REASON],
            len(first.value),
            len(letters),
            [letter.letter_id for letter in letters[:NAMED]],
        )
        event = events.Event(events.new_id(f"dead:{first.letter_id}:{len(letters)}"), now, self._actor, "", fact)
        while True:
            try:
                await self._producer.send(DEAD_LETTERS, [letter.encode(now) for letter in letters], 0)
                await self._producer.send(CONTROL, [event.encode()], 0)
            except BrokerUnavailable:
                await asyncio.sleep(0.5)
            else:
                return


async def keep(event_log: EventLog, messages: list[Message]) -> None:
    """Write letters into the log; waits for a log that is away."""
    rows = []
    for message in messages:
        try:
            found = orjson.loads(message.value)
            rows.append({name: found[name] for name in SCHEMA.names})
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("what came as a dead letter is none: %s", error)
    try:
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowException, TypeError, ValueError) as error:
        log.warning("letters that cannot be kept: %s", error)
        return
    while True:
        try:
            await asyncio.to_thread(event_log.insert, "dead_letters_log", table)
        except (LogUnavailable, QueryRejected) as error:
            log.warning("dead letters wait for the log: %s", error)
            await asyncio.sleep(1.0)
        else:
            return


async def send_again(producer: Producer, rows: list[dict[str, Any]]) -> None:
    """Send stored letters to where they came from; Refused where one cannot be.

    A batch gets a source of its own, for its old sequence was passed over; sent twice it counts once.
    """
    for row in rows:
        if row["topic"] not in {ACTUALS, PREDICTIONS, JOINABLE, CONTROL}:
            raise Refused("invalid", "not_replayable", f"letter {row['letter_id']} came from {row['topic']}, no topic")
        payload = base64.b64decode(row["payload"])
        if len(payload) < int(row["size"]):
            raise Refused("invalid", "not_whole", f"letter {row['letter_id']} had {row['size']} bytes, of which {len(payload)} were kept")
        partition = None if row["topic"] == ACTUALS else int(row["partition_id"])
        await producer.send(row["topic"], [renamed(payload, f"letter-{row['letter_id']}/{partition}")], partition)


def renamed(data: bytes, source: str) -> bytes:
    """A batch under another source; what is no batch stays as it is."""
    try:
        batch = decode(data)
    except Malformed:
        return data
    columns = dict(zip(batch.rows.schema.names, batch.rows.columns, strict=True))
    meta = {"version": batch.version, "model_id": batch.model_id, "source": source, "role": batch.role, "replay_id": batch.replay_id}
    return encode(batch.kind, batch.deployment, columns, **meta)
