"""The teller: whoever waits for an alert is told it, once, or given up after some attempts.

What is due is in the catalog; only the attempts of this process are kept here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from models.registry import Artifacts
from stream.broker import BrokerUnavailable
from stream.clock import now_us
from stream.control import Follower
from stream.events import Fact, NotificationEnded
from stream.notifications import ATTEMPTS, FIRST_WAIT, MOST_WAIT, Undelivered, deliver, digest_due, secrets_of

log = logging.getLogger("champion.steward")

MOST_AT_ONCE = 8
Say = Callable[[Fact, str, str], Awaitable[bool]]  # a fact, its deployment and its key; whether it holds


class Teller:
    """Sends messages to channels, and says so."""

    def __init__(self, follower: Follower, artifacts: Artifacts, say: Say) -> None:
        """The folded catalog says who waits; the channels' secrets lie beside the models."""
        self._follower, self._artifacts, self._say = follower, artifacts, say
        self._tries: dict[tuple[str, str], tuple[int, float]] = {}

    async def tell(self) -> None:
        """Everyone who waits for a message and whose time has come: one message an alert, or one a digest."""
        watch, now = self._follower.catalog.watch, asyncio.get_running_loop().time()
        due: list[list[tuple[str, str]]] = []
        for name, channel in list(watch.channels.items()):
            keys = [key for key in list(watch.pending) if key[1] == name]
            rested = [key for key in keys if self._tries.get(key, (0, 0.0))[1] <= now]  # one that is tried again later holds up no other
            if not channel.options.get("digest"):
                due.extend([key] for key in rested)
            elif keys and keys[0] in rested and digest_due(channel, [watch.pending[key].occurred_at for key in keys], watch.told_at.get(name, 0), now_us()):
                due.append(keys)
        await asyncio.gather(*(self._tell_one(keys) for keys in due[:MOST_AT_ONCE]))

    async def _tell_one(self, keys: list[tuple[str, str]]) -> None:
        """One message to one channel; each of its alerts is said to be told, or given up after some attempts."""
        watch = self._follower.catalog.watch
        events, channel = [watch.pending[key] for key in keys if key in watch.pending], watch.channels.get(keys[0][1])
        if not events or channel is None:
            return
        attempts = self._tries.get(keys[0], (0, 0.0))[0] + 1
        reason = ""
        try:
            secrets = await asyncio.to_thread(secrets_of, self._artifacts, channel.name)
            await deliver(channel, secrets, events)
        except Undelivered as error:
            reason = str(error)
            log.info("%s was not told (%d): %s", channel.name, attempts, reason)
        if reason and attempts < ATTEMPTS:
            self._tries[keys[0]] = (attempts, asyncio.get_running_loop().time() + min(FIRST_WAIT * 2**attempts, MOST_WAIT))
            return
        for event in events:
            key = (event.event_id, channel.name)
            try:
                await self._say(NotificationEnded(*key, attempts, reason), event.deployment, ":".join(key))
            except BrokerUnavailable:
                self._tries[key] = (attempts - 1, 0.0)  # told, but not written down: it may be told twice, by one key
                return
            self._tries.pop(key, None)
