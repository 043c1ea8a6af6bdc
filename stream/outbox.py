"""The outbox of a gateway process: records go to its journal, a publisher beside it brings them to the broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from pathlib import Path

import orjson

from stream.journal import Journal, Record
from stream.topics import partition_of

log = logging.getLogger("champion.outbox")

CALM = 30.0
MOST_BACKOFF = 10.0


class Outbox:
    """Journals records now; they are published soon, and nothing is forgotten until the log confirms it."""

    def __init__(self, root: Path, *, partitions: int, most: int, fsync: bool) -> None:
        """Make this process's journal under `root`."""
        root.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(root, most=most, fsync=fsync)
        self._partitions = partitions
        self._confirmed: dict[int, int] = {}
        self.sent_rows = 0
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self.draining = False

    def record(self, deployment: str, record: Record, now: int) -> tuple[str, int]:
        """Journal a record; answers its source and sequence. JournalFull where it cannot be kept."""
        partition = partition_of(deployment, self._partitions)
        return f"{self.journal.id}/{partition}", self.journal.append(partition, record, now)

    @property
    def waiting(self) -> int:
        """Records that the log has not confirmed."""
        return sum(last - self._confirmed.get(p, 0) for p, last in self.journal.sequences.items())

    async def run(self) -> None:
        """Keep a publisher running for ever; what it says trims the journal. Cancel to leave it alone with what is left."""
        loop = asyncio.get_running_loop()
        delay = 0.2
        while not self.draining:
            begun = loop.time()
            try:
                code = await self._publish()
            except OSError as error:  # no memory, no process: requests go on into the journal
                code = str(error)
            delay = 0.2 if loop.time() - begun > CALM else min(delay * 2, MOST_BACKOFF)
            if not self.draining:
                self.restarts += 1
                log.warning("the publisher ended with code %s; another is started in %.1f s", code, delay)
            await asyncio.sleep(delay)

    async def _publish(self) -> int | str:
        """A publisher from its start to its end; answers its exit code."""
        sent = self.sent_rows
        # the publisher holds the journal's lock too: nobody else adopts it while it is being read
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stream.publisher", str(self.journal.folder.resolve())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self.journal.lock,),
        )
        assert process.stdout is not None  # noqa: S101 - asked for
        async for line in process.stdout:
            word = orjson.loads(line)
            self._confirmed = {int(source.split("/")[1]): n for source, n in word["confirmed"].items()}
            self.sent_rows = sent + word["sent_rows"]
            for path in self.journal.released(self._confirmed):
                await asyncio.to_thread(path.unlink, missing_ok=True)  # 32 MiB take 4.5 ms, as long as fifty requests
        return await process.wait()

    async def drain(self, seconds: float) -> None:
        """Let the publisher send what is left, at most so long, and end; the rest is adopted by the next process."""
        self.draining = True
        process = self._process
        if process is None or process.returncode is not None or process.stdin is None:
            return
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
