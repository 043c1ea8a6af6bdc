"""Dead letters: what could not be handled is kept with its reason, and told as an event."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging

import orjson

from stream import events
from stream.broker import BrokerUnavailable, Producer
from stream.clock import now_us
from stream.topics import CONTROL, DEAD_LETTERS

log = logging.getLogger("champion.dead_letters")

MOST_BYTES = 64 << 10
SAMPLE = 500


class DeadLetters:
    """Puts messages aside; waits for a broker rather than lose one."""

    def __init__(self, producer: Producer, actor: str) -> None:
        """Send with `producer`, sign as `actor`."""
        self._producer, self._actor = producer, actor
        self.count = 0

    async def put(self, topic: str, partition: int, offset: int, reason: str, value: bytes) -> None:
        """Keep one message: payload up to 64 KiB, and an event with its first characters."""
        self.count += 1
        log.warning("dead letter from %s[%d] at %d: %s", topic, partition, offset, reason)
        letter = orjson.dumps(
            {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "reason": reason,
                "size": len(value),
                "payload": base64.b64encode(value[:MOST_BYTES]).decode(),
            }
        )
        fact = events.DeadLettered(topic, partition, offset, reason[:500], len(value), value[:SAMPLE].decode(errors="replace"))
        identity = hashlib.sha256(value).hexdigest()[:16]
        event = events.Event(events.new_id(f"dead:{topic}:{partition}:{offset}:{identity}"), now_us(), self._actor, "", fact)
        while True:
            try:
                await self._producer.send(DEAD_LETTERS, [letter], 0)
                await self._producer.send(CONTROL, [event.encode()], 0)
            except BrokerUnavailable:
                await asyncio.sleep(0.5)
            else:
                return
