"""Messages without gaps: the embedded broker may show a later record before an earlier one.

Of two producers that write to a partition at once, one record may become visible while the one before it is not: a consumer
that reads on at that moment never sees the earlier one, although it was acknowledged (one in five hundred with four
producers at full speed; docs/decisions/0012). Offsets tell: where one is left out, it is fetched and handed over in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from stream.broker import Message, between, committed, group_of
from stream.embedded.broker import is_embedded

log = logging.getLogger("champion.broker")

Place = tuple[str, int]  # topic, partition


class Gapless:
    """Fills what a consumer's batches leave out, place by place; one for each consumer."""

    def __init__(self, bootstrap: str, group: str = "") -> None:
        """`group` knows where a place is begun; without one every place is read from its first record."""
        self._bootstrap, self._group = bootstrap, group
        self._next: dict[Place, int] = {}

    def begin(self) -> None:
        """Places were given or taken: what comes next begins where the group has committed."""
        self._next = {}  # a batch that is being filled belongs to what was before

    async def whole(self, messages: Iterable[Message]) -> list[Message]:
        """The messages with those between that were left out; BrokerUnavailable where they cannot be asked for.

        What is handed over may be a repetition, as ever.
        """
        found, known = list(messages), self._next
        places = {(m.topic, m.partition) for m in found}
        expected = {place: known[place] for place in places if place in known}
        if unknown := places - expected.keys():
            expected |= await committed(self._bootstrap, self._group, unknown)
        out: list[Message] = []
        for message in found:
            place = (message.topic, message.partition)
            if message.offset > expected[place]:
                out.extend(await self._missed(place, expected[place], message.offset))
            expected[place] = message.offset + 1  # a lower one than expected begins again there
            out.append(message)
        known |= expected
        return out

    async def _missed(self, place: Place, first: int, end: int) -> list[Message]:
        """What lies between and nobody of the group has handled meanwhile."""
        if self._group:
            first = max(first, (await committed(self._bootstrap, self._group, {place}))[place])
        if first >= end:
            return []
        missed = await between(self._bootstrap, place, first, end)
        log.warning("%d of %d records of %s/%d before offset %d had been passed over", len(missed), end - first, *place, end)
        return missed


def filled(bootstrap: str, group: str, handle: Callable[[str, list[Message]], Awaitable[None]]) -> Callable[[str, list[Message]], Awaitable[None]]:
    """A handler for `consume` that is given what an embedded broker passed over too."""
    of_cluster: dict[str, Gapless] = {}

    async def whole(cluster: str, messages: list[Message]) -> None:
        if is_embedded(cluster):
            gapless = of_cluster.setdefault(cluster, Gapless(bootstrap, group_of(group, cluster)))
            messages = await gapless.whole(messages)
        await handle(cluster, messages)

    return whole
