"""From the journal to the broker: reads behind a gateway, sends, and tells it what the log has confirmed.

A process of its own beside each gateway process (`python -m stream.publisher JOURNAL`, begun by `stream.outbox`), so that
making messages costs requests nothing. Its input ends with the gateway: it sends what is left and ends too. Each second it
writes a line of JSON to its output: the confirmed sequences by source, and how many rows it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stream import journal as journals
from stream.batches import actual_batches, erasure_batches, prediction_batches, refusal_batches, rows_in, skipped
from stream.broker import BrokerUnavailable, Producer
from stream.clickhouse import EventLog
from stream.dead_letters import DeadLetters, Letter
from stream.errors import LogUnavailable, QueryRejected
from stream.journal import Reader, Record
from stream.settings import Settings, read_settings
from stream.topics import JOINABLE, PREDICTIONS

log = logging.getLogger("champion.publisher")

LINGER = 0.03
FULL = 1000  # rows of a round after which the next one follows at once
STALLED = 20.0
DRAIN = 5.0
ROWS = ("p", "a")

Encoder = Callable[[Iterable[Record], str], Iterator[bytes]]
ENCODERS: dict[str, tuple[str, Encoder]] = {
    "p": (PREDICTIONS, prediction_batches),
    "a": (JOINABLE, actual_batches),
    "x": (JOINABLE, refusal_batches),
    "e": (JOINABLE, erasure_batches),
}


class Publisher:
    """Publishes one live journal and those of processes that are gone; what the log has not confirmed is sent again when in doubt."""

    def __init__(self, folder: Path, producer: Producer, log_: EventLog, say: Callable[[dict[str, Any]], None]) -> None:
        """Follow the journal in `folder`; `say` is told once a second what is confirmed."""
        self._folder, self._producer, self._log, self._say = folder, producer, log_, say
        self._readers: dict[Path, Reader] = {}  # of journals of which the log has said how much it has
        self._adopted: dict[Path, int] = {}
        self._confirmed: dict[str, int] = {}
        self._read: dict[str, int] = {}  # the last sequence sent, by source
        self._progressed = 0.0
        self._doubt = False
        self._left = False
        self._sent_rows = 0
        self._letters = DeadLetters(producer, f"journal-{folder.name}")

    async def run(self) -> None:
        """Publish until the gateway is gone and all that it left is sent."""
        confirming = asyncio.create_task(self._confirm())
        publishing = asyncio.create_task(self._publish())
        await asyncio.wait([confirming, publishing], return_when=asyncio.FIRST_COMPLETED)
        confirming.cancel()
        publishing.cancel()
        for task in await asyncio.gather(publishing, confirming, return_exceptions=True):
            if isinstance(task, Exception):
                raise task

    def leave(self) -> None:
        """The gateway is gone: end when all is sent."""
        self._left = True

    async def _publish(self) -> None:
        delay, cluster = LINGER, ""
        while True:
            last = self._left
            try:
                await self._producer.check()
                if self._doubt or self._producer.cluster != cluster:  # another broker: what the old one held may be gone
                    self._begin_again()
                cluster = self._producer.cluster
                delay = 0.0 if await self._round() >= FULL else LINGER
            except BrokerUnavailable as error:
                log.debug("not published: %s", error)
                self._doubt, last = True, False
                delay = min(max(delay, 0.1) * 2, 1.0)
            if last and delay:
                return
            await asyncio.sleep(delay)

    def _begin_again(self) -> None:
        """Send again all that the log has not confirmed."""
        self._doubt = False
        self._progressed = asyncio.get_running_loop().time()
        for reader in self._readers.values():
            reader.rewind()

    async def _round(self) -> int:
        """Send the next records of each journal; answers how many rows they had."""
        rows = 0
        for reader in list(self._readers.values()):
            name = reader.folder.name
            fresh = [record for record in reader.take() if record["s"] > self._confirmed.get(f"{name}/{record['p']}", 0)]
            rows += await self._send(fresh, name)
            self._read |= {f"{name}/{record['p']}": record["s"] for record in fresh}
        return rows

    async def _send(self, records: list[Record], journal: str) -> int:
        """Send records of one journal in their order, by kind and partition; answers how many rows they had."""
        rows = 0
        groups: dict[tuple[str, int], list[Record]] = {}
        for record in records:
            groups.setdefault((record["k"], record["p"]), []).append(record)
        for (kind, partition), group in groups.items():
            topic, encoder = ENCODERS[kind]
            try:
                messages = list(encoder(group, journal))
            except Exception:
                log.exception("records that cannot be encoded")
                messages = await self._one_by_one(group, encoder, journal)
            await self._producer.send(topic, messages, partition)
            rows += sum(rows_in(r) if r["k"] in ROWS else 1 for r in group)
        self._sent_rows += rows
        return rows

    async def _one_by_one(self, group: list[Record], encoder: Encoder, journal: str) -> list[bytes]:
        """Encode record by record; one that cannot be is put aside, and its sequence passed on as skipped."""
        messages: list[bytes] = []
        for record in group:
            try:
                messages.extend(encoder([record], journal))
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                reason = f"cannot be encoded: {type(error).__name__}: {error}"
                await self._letters.put(Letter(f"journal {journal}", record["p"], record["s"], reason, json.dumps(record, default=str).encode()))
                messages.append(skipped(record, journal))
        return messages

    async def _confirm(self) -> None:
        """Each second: learn what the log has, adopt and delete orphans, notice that nothing moves, tell."""
        loop = asyncio.get_running_loop()
        self._progressed = loop.time()
        while True:
            with contextlib.suppress(OSError):
                self._adopt()
            try:
                names = [folder.name for folder in (self._folder, *self._adopted)]
                found = await asyncio.to_thread(
                    self._log.rows,
                    "SELECT source, sequence FROM log_progress WHERE splitByChar('/', source)[1] IN {names:Array(String)}",
                    {"names": names},
                )
                confirmed = {row["source"]: int(row["sequence"]) for row in found}
                if confirmed != self._confirmed:
                    self._confirmed, self._progressed = confirmed, loop.time()
                await self._trim()
                for folder in (self._folder, *self._adopted):
                    self._readers.setdefault(folder, Reader(folder))
            except (LogUnavailable, QueryRejected) as error:
                log.debug("no word from the log: %s", error)
                self._progressed = loop.time()
            if all(last <= self._confirmed.get(source, 0) for source, last in self._read.items()):
                self._progressed = loop.time()
            elif loop.time() - self._progressed > STALLED:
                self._doubt = True
            self._say({"confirmed": {s: n for s, n in self._confirmed.items() if s.startswith(self._folder.name)}, "sent_rows": self._sent_rows})
            await asyncio.sleep(1.0)

    async def _trim(self) -> None:
        """Delete adopted journals that the log has whole."""
        for folder, handle in list(self._adopted.items()):
            after = {int(s.split("/")[1]): n for s, n in self._confirmed.items() if s.startswith(folder.name + "/")}
            if await asyncio.to_thread(journals.trim_folder, folder, after):
                os.close(handle)
                del self._adopted[folder]
                if (reader := self._readers.pop(folder, None)) is not None:
                    reader.close()
                self._read = {s: n for s, n in self._read.items() if not s.startswith(folder.name + "/")}

    def _adopt(self) -> None:
        """Take over the journals of processes that are gone."""
        for folder, handle in journals.orphans(self._folder.parent):
            self._adopted[folder] = handle


async def publish(folder: Path, settings: Settings) -> None:
    """Publish a journal until standard input ends."""
    producer = Producer(settings.bootstrap, administer=settings.administered_partitions, hours=settings.topic_retention_hours)
    publisher = Publisher(folder, producer, EventLog(settings.eventlog_url), say)
    running = asyncio.create_task(publisher.run())
    gateway = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(gateway), sys.stdin)
    await asyncio.wait([running, asyncio.create_task(gateway.read())], return_when=asyncio.FIRST_COMPLETED)
    publisher.leave()
    try:
        await asyncio.wait_for(running, DRAIN)
    except TimeoutError:
        log.info("what is not sent is left to the next process")
    finally:
        await producer.stop()


def say(word: dict[str, Any]) -> None:
    """A line to the gateway; nothing where it is gone, which the end of standard input tells."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(word).encode() + b"\n")


def main() -> None:
    """The process. An interrupt is the gateway's to act on: it closes our input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    asyncio.run(publish(Path(sys.argv[1]), read_settings()))


if __name__ == "__main__":
    main()
