"""Control: proposals go to a one-partition topic, everyone folds them alike, the log keeps the accepted.

A follower holds the folded catalog. It begins with the events it kept on disk and those of the log,
then follows the topic; so a gateway starts with broker and log down.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from stream import events
from stream.broker import BrokerUnavailable, CaughtUp, Producer, follow
from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.errors import LogUnavailable, Malformed, QueryRejected, Refused
from stream.events import Event, Fact
from stream.gapless import Gapless
from stream.projections.catalog import Catalog
from stream.topics import CONTROL

log = logging.getLogger("champion.control")

COLUMNS = "sequence, event_id, type, version, toUnixTimestamp64Micro(occurred_at) AS occurred_at, actor, deployment, payload, hash"
REFUSED = "SELECT event_id FROM refused_events"
REFUSED_BEFORE = Refused("conflict", "refused_before", "this command was refused before")
WAIT = 15.0


class Follower:
    """The catalog as of now, and a way to propose events and learn what became of them."""

    def __init__(self, bootstrap: str, producer: Producer, log_: EventLog, cache: Path | None = None) -> None:
        """Keep a copy of the accepted events at `cache`, if given."""
        self._bootstrap, self._producer, self._log, self._cache = bootstrap, producer, log_, cache
        self.catalog = Catalog()
        self._seen: dict[str, Refused | None] = {}
        self._kept: list[Event] = []
        self._futures: dict[str, asyncio.Future[None]] = {}
        self._changed = asyncio.Condition()
        self.caught_up = asyncio.Event()
        self.taken = 0
        self.listeners: list[Any] = []

    async def run(self) -> None:
        """Follow for ever; cancel to stop."""
        self._load_cache()
        await self._load_log()
        while True:
            with contextlib.suppress(BrokerUnavailable):
                await self._follow()

    async def _follow(self) -> None:
        """From the topic's beginning; BrokerUnavailable where a gap cannot be filled."""
        gapless = Gapless(self._bootstrap)
        async for found in follow(self._bootstrap, CONTROL):
            if isinstance(found, CaughtUp):
                await self._load_log()
                await self._offer_unlogged()
                self.caught_up.set()
                continue
            self.taken += len(found)
            for message in await gapless.whole(found):
                with contextlib.suppress(Malformed):
                    self._take(events.decode(message.value))
            async with self._changed:
                self._changed.notify_all()

    def _take(self, event: Event, *, keep: bool = True) -> None:
        if event.event_id in self._seen:
            return
        refusal: Refused | None = None
        try:
            self.catalog.apply(event)
        except Refused as error:
            refusal = error
        self._seen[event.event_id] = refusal
        if keep:
            self._keep(event.encode() if refusal is None else orjson.dumps({"refused": event.event_id}))
        if refusal is None:
            self._kept.append(event)
            for listener in self.listeners:
                listener(event)
        future = self._futures.pop(event.event_id, None)
        if future is not None and not future.done():
            if refusal is None:
                future.set_result(None)
            else:
                future.set_exception(refusal)

    def _keep(self, line: bytes) -> None:
        if self._cache is not None:
            with contextlib.suppress(OSError), self._cache.open("ab") as out:
                out.write(line + b"\n")

    def _load_cache(self) -> None:
        if self._cache is None:
            return
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        if self._cache.exists():
            for line in self._cache.read_bytes().splitlines():
                if line.startswith(b'{"refused":'):
                    with contextlib.suppress(orjson.JSONDecodeError):
                        self._seen.setdefault(orjson.loads(line)["refused"], REFUSED_BEFORE)
                    continue
                with contextlib.suppress(Malformed):
                    self._take(events.decode(line), keep=False)

    async def _load_log(self) -> None:
        try:
            refused = await asyncio.to_thread(self._log.rows, REFUSED)
            rows = await asyncio.to_thread(self._log.rows, f"SELECT {COLUMNS} FROM events ORDER BY sequence")
        except (LogUnavailable, QueryRejected):
            return
        for row in refused:
            self._seen.setdefault(row["event_id"], REFUSED_BEFORE)
        for row in rows:
            with contextlib.suppress(Malformed):
                self._take(events.decode(row))

    async def _offer_unlogged(self) -> None:
        """Propose again what we accepted and neither log nor broker has (a broker that forgot)."""
        if self._cache is None:
            return
        try:
            rows = await asyncio.to_thread(self._log.rows, "SELECT event_id FROM events")
        except (LogUnavailable, QueryRejected):
            return
        have = {row["event_id"] for row in rows}
        missing = [event.encode() for event in self._kept if event.event_id not in have]
        if missing:
            with contextlib.suppress(BrokerUnavailable):
                await self._producer.send(CONTROL, missing, 0)

    async def propose(self, fact: Fact, *, actor: str, deployment: str = "", key: str = "") -> Event:
        """Send a proposal and wait until this process has folded it.

        Raises Refused where the fold refuses it, BrokerUnavailable without a broker.
        """
        event = Event(events.new_id(f"{fact.TYPE}:{deployment}:{key}" if key else ""), now_us(), actor, deployment, fact)
        if event.event_id in self._seen:
            refusal = self._seen[event.event_id]
            if refusal is not None:
                raise refusal
            return event
        future = self._futures.setdefault(event.event_id, asyncio.get_running_loop().create_future())
        try:
            await self._producer.send(CONTROL, [event.encode()], 0)
            await asyncio.wait_for(asyncio.shield(future), WAIT)
        except TimeoutError as error:
            raise BrokerUnavailable("the broker took the command but did not hand it back in time") from error
        finally:
            self._futures.pop(event.event_id, None)
        return event

    async def propose_all(self, facts: list[tuple[Fact, str]], *, actor: str, deployment: str = "") -> int:
        """Send proposals, each with its key, together and in their order; answers how many hold before the first that does not.

        Raises BrokerUnavailable without a broker.
        """
        events_ = [Event(events.new_id(f"{fact.TYPE}:{deployment}:{key}"), now_us(), actor, deployment, fact) for fact, key in facts]
        futures = [self._futures.setdefault(event.event_id, asyncio.get_running_loop().create_future()) for event in events_ if event.event_id not in self._seen]
        try:
            await self._producer.send(CONTROL, [event.encode() for event in events_ if event.event_id not in self._seen], 0)
            await asyncio.wait_for(asyncio.gather(*map(asyncio.shield, futures), return_exceptions=True), WAIT)
        except TimeoutError as error:
            raise BrokerUnavailable("the broker took the commands but did not hand them back in time") from error
        finally:
            for event in events_:
                self._futures.pop(event.event_id, None)
        held = [self._seen.get(event.event_id) is None for event in events_]
        return held.index(False) if False in held else len(held)

    async def logged(self, event: Event, seconds: float = WAIT) -> int:
        """Wait until the log has an event; answers its sequence, LogUnavailable when time is over."""
        end = asyncio.get_running_loop().time() + seconds
        delay = 0.02
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(LogUnavailable, QueryRejected):
                rows = await asyncio.to_thread(
                    self._log.rows, "SELECT sequence FROM events_log WHERE event_id = {id:String} LIMIT 1", {"id": event.event_id}
                )
                if rows:
                    return int(rows[0]["sequence"])
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 0.3)
        raise LogUnavailable("the command was accepted, but the log does not have it yet")

    async def wait_for(self, condition: Any, seconds: float) -> bool:
        """Wait until the catalog fulfils a condition, at most so long."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: condition(self.catalog))
        except TimeoutError:
            return bool(condition(self.catalog))
        return True


def catalog_as_of(event_log: EventLog, at: int) -> Catalog:
    """The catalog as it was at a time (microseconds), folded from the log."""
    catalog = Catalog()
    sql = f"SELECT {COLUMNS} FROM (SELECT * FROM events WHERE occurred_at <= fromUnixTimestamp64Micro({at})) ORDER BY sequence"
    for row in event_log.rows(sql):
        with contextlib.suppress(Refused, Malformed):
            catalog.apply(events.decode(row))
    return catalog


REFUSED_SCHEMA = pa.schema([("event_id", pa.string()), ("reason", pa.string())])
EVENTS_SCHEMA = pa.schema(
    [
        ("sequence", pa.uint64()),
        ("event_id", pa.string()),
        ("type", pa.string()),
        ("version", pa.uint16()),
        ("occurred_at", pa.timestamp("us", tz="UTC")),
        ("actor", pa.string()),
        ("deployment", pa.string()),
        ("payload", pa.string()),
        ("hash", pa.string()),
    ]
)


class Recorder:
    """The owner of the control partition: appends accepted events to the log, chained by hash."""

    def __init__(self, log_: EventLog) -> None:
        """Nothing is read before the first event."""
        self._log = log_
        self._catalog: Catalog | None = None
        self._ids: set[str] = set()
        self._sequence, self._hash = 0, ""

    def reset(self) -> None:
        """Forget; the next event reads the log again (after a change of assignment)."""
        self._catalog = None

    def _load(self) -> Catalog:
        catalog = Catalog()
        self._ids = {row["event_id"] for row in self._log.rows(REFUSED)}
        self._sequence, self._hash = 0, ""
        for row in self._log.rows(f"SELECT {COLUMNS} FROM events ORDER BY sequence"):
            event = events.decode(row)
            with contextlib.suppress(Refused):
                catalog.apply(event)
            self._ids.add(event.event_id)
            self._sequence, self._hash = int(row["sequence"]), row["hash"]
        self._catalog = catalog
        return catalog

    def record(self, proposals: list[Event]) -> int:
        """Append what the fold accepts; answers how many. Safe to repeat.

        Refusals are written first, so a log that holds an event holds all refusals before it.
        """
        catalog = self._catalog or self._load()
        rows, refused = [], []
        for event in proposals:
            if event.event_id in self._ids:
                continue
            self._ids.add(event.event_id)
            try:
                catalog.apply(event)
            except Refused as error:
                log.info("refused %s: %s", event.type, error)
                refused.append({"event_id": event.event_id, "reason": str(error)})
                continue
            self._sequence += 1
            self._hash = chained(self._hash, event.encode())
            rows.append(
                {
                    "sequence": self._sequence,
                    "event_id": event.event_id,
                    "type": event.type,
                    "version": event.fact.VERSION,
                    "occurred_at": event.occurred_at,
                    "actor": event.actor,
                    "deployment": event.deployment,
                    "payload": orjson.dumps(event.payload, option=orjson.OPT_SERIALIZE_NUMPY).decode(),
                    "hash": self._hash,
                }
            )
        if rows or refused:
            try:
                self._log.insert("refused_events", pa.Table.from_pylist(refused, schema=REFUSED_SCHEMA))
                self._log.insert("events_log", pa.Table.from_pylist(rows, schema=EVENTS_SCHEMA))
            except (LogUnavailable, QueryRejected):
                self.reset()
                raise
        return len(rows)


def chained(previous: str, event: bytes) -> str:
    """The hash of an event in the chain: SHA-256 of the one before and the event's bytes."""
    return hashlib.sha256(previous.encode() + event).hexdigest()


def stored_bytes(row: dict[str, Any]) -> bytes:
    """An event's bytes as they were when it was recorded, out of its row: whatever fields its type has got since."""
    names = ("event_id", "type", "version", "occurred_at", "actor", "deployment")
    return orjson.dumps({**{name: row[name] for name in names}, "payload": orjson.loads(row["payload"])})
