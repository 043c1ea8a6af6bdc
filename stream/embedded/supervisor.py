"""Starts the embedded parts, restarts one that dies, stops them all in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger("champion.supervisor")

MOST_BACKOFF = 10.0
CALM = 30.0
TRIES = 20
LOOK_EVERY = 5.0
STOP_SECONDS = {"gateway": 12.0, "worker": 8.0, "eventlog": 10.0}


class AlreadyRunning(Exception):  # noqa: N818 - a state
    """Another `champion up` has this data folder, or something else has a port."""


@dataclass
class Part:
    """A process: its name, command, which parts must be restarted when it was, whether one that has begun may stay, and for how long."""

    name: str
    command: Callable[[], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    restarts_too: tuple[str, ...] = ()
    good: Callable[[int], bool] | None = None  # whether the process of this id may stay; asked at once, in a thread
    renewed: Callable[[int], Awaitable[str]] | None = None  # why the process of this id is to make room for a fresh one now; asked every few seconds
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    reason: str = ""
    renewal: str = ""


class Supervisor:
    """Runs parts until it is told to stop."""

    def __init__(self, folder: Path, parts: list[Part], ports: dict[str, int]) -> None:
        """Logs go to `folder/logs`, the state to `folder/run.json`."""
        self._folder, self._parts, self._ports = folder, parts, ports
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._lock = -1

    def claim(self) -> None:
        """Lock the data folder and check the ports; AlreadyRunning says what is in the way."""
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"champion is up already on {self._folder}") from error
        for name, port in self._ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise AlreadyRunning(f"port {port} (the {name}'s) is taken; choose another with CHAMPION_{'' if name == 'gateway' else name.upper() + '_'}PORT") from error

    async def start(self) -> None:
        """Start all parts at once; each waits for those it needs."""
        for part in self._parts:
            await self._launch(part)
        self._tasks = [asyncio.create_task(self._watch(part)) for part in self._parts]
        self._tasks += [asyncio.create_task(self._renew(part)) for part in self._parts if part.renewed is not None]

    async def _launch(self, part: Part) -> None:
        for _ in range(TRIES):
            process = await self._begin(part)
            if part.good is None or await asyncio.to_thread(part.good, process.pid):
                return
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if self._stopping.is_set():
                return
            log.warning("%s did not begin well; another is started", part.name)
        log.error("%s did not begin well in %d tries", part.name, TRIES)
        await self._begin(part)

    async def _begin(self, part: Part) -> asyncio.subprocess.Process:
        path = self._folder / "logs" / f"{part.name}.log"
        with path.open("ab") as out:
            part.process = await asyncio.create_subprocess_exec(
                *part.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **part.environment},
                start_new_session=True,
            )
        self._write()
        return part.process

    async def _renew(self, part: Part) -> None:
        """Replace a part whose time has come; starting it again is `_watch`'s affair."""
        while part.renewed is not None:
            await asyncio.sleep(LOOK_EVERY)
            process = part.process
            if process is None or process.returncode is not None or self._stopping.is_set():
                continue
            reason = await part.renewed(process.pid)
            if reason and process.returncode is None:
                part.renewal = reason
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _watch(self, part: Part) -> None:
        delay, begun = 0.2, time.monotonic()
        while True:
            code = await part.process.wait() if part.process else 0
            if self._stopping.is_set():
                return
            part.restarts += 1
            part.reason, part.renewal = part.renewal or f"ended with code {code}", ""
            if time.monotonic() - begun > CALM:
                delay = 0.2
            log.warning("%s %s; starting it again in %.1f s", part.name, part.reason, delay)
            self._write()
            await asyncio.sleep(delay)
            delay, begun = min(delay * 2, MOST_BACKOFF), time.monotonic()
            if self._stopping.is_set():
                return
            await self._launch(part)
            for other in self._parts:
                if other.name in part.restarts_too and other.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        other.process.terminate()

    def _write(self) -> None:
        state: dict[str, Any] = {
            p.name: {"pid": p.process.pid if p.process else None, "restarts": p.restarts, "reason": p.reason} for p in self._parts
        }
        temporary = self._folder / "run.json.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self._folder / "run.json")

    async def stop(self) -> None:
        """Stop in reverse order, each in its time; then kill what is left of its group."""
        self._stopping.set()
        for part in reversed(self._parts):
            process = part.process
            if process is None or process.returncode is not None:
                continue
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS.get(part.name, 5.0))
            except TimeoutError:
                log.warning("%s did not stop in time: killed", part.name)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(FileNotFoundError):
            (self._folder / "run.json").unlink()
        os.close(self._lock)
