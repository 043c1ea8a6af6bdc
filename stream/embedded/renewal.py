"""When the embedded broker, which keeps every record in memory and forgets none, makes room for a fresh one.

Past its bound, at a moment when all that outside producers sent it is in the log, and the workers are not behind. What gateways
sent is in their journals until the log has it, and is sent again: where much waits, a fresh broker would only be filled with
it again. Where outside producers leave no such moment, the broker stays until it holds twice its bound; an acknowledgement
of it was never more than the word of a process's memory.
"""

from __future__ import annotations

import asyncio
import logging
import time

import psutil

from stream.broker import BrokerUnavailable, cluster_at, committed, group_of, waiting_since
from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.errors import LogUnavailable, QueryRejected
from stream.settings import Settings
from stream.topics import ACTUALS, DEAD_LETTERS, JOINABLE, LETTERS, PREDICTIONS, WORKERS

log = logging.getLogger("champion.supervisor")

BEHIND = 10.0  # seconds
LEAST_AGE = 30.0  # seconds: until then it is filled with what the one before it had not brought to the log


class Renewal:
    """Says whether a broker's time has come."""

    def __init__(self, settings: Settings, least_age: float = LEAST_AGE) -> None:
        """The broker and the log that these settings name; a younger broker stays."""
        self._least_age = least_age
        self._bootstrap, self._most, self._partitions = settings.bootstrap, settings.broker_memory, settings.partitions
        self._log = EventLog(settings.eventlog_url, timeout=10)

    async def __call__(self, pid: int) -> str:
        """Why the broker of this process id is to be replaced now; "" where it is to stay."""
        try:
            process = psutil.Process(pid)
            held, age = process.memory_info().rss, time.time() - process.create_time()
        except psutil.NoSuchProcess:
            return ""
        if held < self._most or age < self._least_age:
            return ""
        try:
            cluster = await cluster_at(self._bootstrap)
            if await self._behind(cluster):
                return ""
            if not await self._in_log(cluster):
                if held < 2 * self._most:
                    return ""
                log.warning("the broker holds twice its bound, and outside producers leave it no quiet moment")
        except (BrokerUnavailable, LogUnavailable, QueryRejected):
            return ""
        return f"replaced when it held {held >> 20} MiB"

    async def _behind(self, cluster: str) -> bool:
        """Whether something that gateways sent has waited for the workers for a while."""
        places = {(topic, partition) for topic in (PREDICTIONS, JOINABLE) for partition in range(self._partitions)}
        oldest = await waiting_since(self._bootstrap, await committed(self._bootstrap, group_of(WORKERS, cluster), places))
        return oldest is not None and now_us() / 1e6 - oldest / 1e3 > BEHIND

    async def _in_log(self, cluster: str) -> bool:
        """Whether the log has all actuals and letters that the broker has."""
        rows = await asyncio.to_thread(self._log.rows, "SELECT source, sequence FROM log_progress WHERE startsWith(source, {of:String})", {"of": f"{cluster}:{ACTUALS}:"})
        reached = {(ACTUALS, int(row["source"].rsplit(":", 1)[1])): int(row["sequence"]) for row in rows} or {(ACTUALS, 0): 0}
        reached |= await committed(self._bootstrap, group_of(LETTERS, cluster), {(DEAD_LETTERS, 0)})
        return await waiting_since(self._bootstrap, reached) is None
