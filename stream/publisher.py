"""From the journal to the broker: groups what was journalled, sends it, trims behind the log's word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stream import journal as journals
from stream.batches import actual_batches, erasure_batches, prediction_batches, refusal_batches, rows_in, skipped
from stream.broker import BrokerUnavailable, Producer
from stream.clickhouse import EventLog
from stream.dead_letters import DeadLetters, Letter
from stream.errors import LogUnavailable, QueryRejected
from stream.journal import Journal, Record
from stream.topics import JOINABLE, PREDICTIONS, partition_of

log = logging.getLogger("champion.publisher")

LINGER = 0.03
MOST_PENDING = 100_000
STALLED = 20.0
SLICE_BYTES = 8 << 20
SLICE = 1000  # rows made into messages at a time: some two milliseconds of the loop
A_RECORD = 4  # a record of one row costs as much as five rows of a large one
ROWS = ("p", "a")

Encoder = Callable[[Iterable[Record], str], Iterator[bytes]]
ENCODERS: dict[str, tuple[str, Encoder]] = {
    "p": (PREDICTIONS, prediction_batches),
    "a": (JOINABLE, actual_batches),
    "x": (JOINABLE, refusal_batches),
    "e": (JOINABLE, erasure_batches),
}


def weight(record: Record) -> int:
    """How many rows a record holds; what is no prediction and no actual counts as one."""
    return max(1, rows_in(record)) if record["k"] in ROWS else 1


def drained(pending: deque[Record]) -> Iterator[Record]:
    """Records from the left while there are any."""
    while pending:
        yield pending.popleft()


def slice_of(records: Iterator[Record]) -> list[Record]:
    """The next records of some stream, bounded in work and bytes."""
    group, work, size = [], 0, 0
    while work < SLICE and size < SLICE_BYTES and (record := next(records, None)) is not None:
        group.append(record)
        work, size = work + A_RECORD + weight(record), size + record.get("z", 0)
    return group


class Publisher:
    """Journals records now and publishes them soon; nothing is forgotten until the log confirms it."""

    def __init__(self, root: Path, producer: Producer, log_: EventLog, *, partitions: int, most: int, fsync: bool) -> None:
        """Make this process's journal under `root`."""
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._producer, self._log, self._partitions = root, producer, log_, partitions
        self.journal = Journal(root, most=most, fsync=fsync)
        self._pending: deque[Record] = deque()
        self._rows = 0
        self._behind = False
        self._wake = asyncio.Event()
        self._cluster = ""
        self._confirmed: dict[str, int] = {}
        self._progressed = 0.0
        self._adopted: dict[Path, int] = {}
        self.sent_rows = 0
        self._letters = DeadLetters(producer, f"journal-{self.journal.id}")

    def record(self, deployment: str, record: Record, now: int) -> tuple[str, int]:
        """Journal a record; answers its source and sequence. JournalFull where it cannot be kept."""
        partition = partition_of(deployment, self._partitions)
        sequence = self.journal.append(partition, record, now)
        if self._rows < MOST_PENDING:
            self._pending.append(record)
            self._rows += weight(record)
        else:
            self._behind = True
        self._wake.set()
        return f"{self.journal.id}/{partition}", sequence

    @property
    def waiting(self) -> int:
        """Records that the log has not confirmed."""
        return sum(last - self._confirmed.get(f"{self.journal.id}/{p}", 0) for p, last in self.journal.sequences.items())

    async def run(self) -> None:
        """Publish for ever; cancel to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            group.create_task(self._confirm())

    async def _publish(self) -> None:
        delay = 0.1
        while True:
            await self._wake.wait()
            await asyncio.sleep(LINGER)
            self._wake.clear()
            try:
                await self._producer.check()
                if self._cluster and self._producer.cluster != self._cluster:
                    self._behind = True  # another broker: what the old one held may be gone
                self._cluster = self._producer.cluster
                if self._behind:
                    await self._catch_up()
                else:
                    await self._send_pending()
                delay = 0.1
            except BrokerUnavailable as error:
                log.debug("not published: %s", error)
                self._behind = True
                self._wake.set()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)

    async def _send_pending(self) -> None:
        while self._pending:
            group = slice_of(drained(self._pending))
            self._rows -= sum(map(weight, group))
            await self._send(group, self.journal.id)
            await asyncio.sleep(0)  # requests go in between

    async def _send(self, records: list[Record], journal: str) -> None:
        """Send records of one journal in their order, by kind and partition."""
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
            self.sent_rows += sum(rows_in(r) for r in group if r["k"] in ROWS)

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

    async def _catch_up(self) -> None:
        """Send again all that the log has not confirmed, from the files."""
        self._behind, self._rows = False, 0
        self._pending.clear()
        self._progressed = asyncio.get_running_loop().time()
        await self._resend(self.journal.folder)
        for folder in list(self._adopted):
            await self._resend(folder)

    async def _resend(self, folder: Path) -> None:
        after = {p: self._confirmed.get(f"{folder.name}/{p}", 0) for p in range(self._partitions)}
        records = journals.read(folder, after)
        while group := await asyncio.to_thread(slice_of, records):
            await self._send(group, folder.name)

    async def _confirm(self) -> None:
        """Each second: learn what the log has, trim, adopt orphans, notice that nothing moves."""
        loop = asyncio.get_running_loop()
        self._progressed = loop.time()
        while True:
            with contextlib.suppress(OSError):
                self._adopt()
            try:
                names = [self.journal.id, *(folder.name for folder in self._adopted)]
                found = await asyncio.to_thread(
                    self._log.rows,
                    "SELECT source, sequence FROM log_progress WHERE splitByChar('/', source)[1] IN {names:Array(String)}",
                    {"names": names},
                )
                confirmed = {row["source"]: int(row["sequence"]) for row in found}
                if confirmed != self._confirmed:
                    self._confirmed, self._progressed = confirmed, loop.time()
                await self._trim()
            except (LogUnavailable, QueryRejected) as error:
                log.debug("no word from the log: %s", error)
                self._progressed = loop.time()
            if not self.waiting and not self._adopted:
                self._progressed = loop.time()
            elif loop.time() - self._progressed > STALLED:
                self._behind = True
                self._wake.set()
            await asyncio.sleep(1.0)

    async def _trim(self) -> None:
        prefix = self.journal.id + "/"
        self.journal.trim({int(s.removeprefix(prefix)): n for s, n in self._confirmed.items() if s.startswith(prefix)})
        for folder, handle in list(self._adopted.items()):
            after = {p: self._confirmed.get(f"{folder.name}/{p}", 0) for p in range(self._partitions)}
            if await asyncio.to_thread(journals.trim_folder, folder, after):
                journals.remove(folder)
                os.close(handle)
                del self._adopted[folder]

    def _adopt(self) -> None:
        """Take over the journals of processes that are gone."""
        for folder, handle in journals.orphans(self._root):
            if folder != self.journal.folder and folder not in self._adopted:
                self._adopted[folder] = handle
                self._behind = True
                self._wake.set()

    async def drain(self, seconds: float) -> None:
        """Wait until all is sent, at most so long; what is left is adopted by the next process."""
        end = asyncio.get_running_loop().time() + seconds
        while (self._pending or self._behind) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - bounded, at the end of a process
            await asyncio.sleep(0.02)
