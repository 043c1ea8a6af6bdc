"""`champion up`: everything embedded, supervised, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import urllib3

from stream.embedded import broker
from stream.embedded.renewal import Renewal
from stream.embedded.supervisor import Part, Supervisor
from stream.secret import secret_of
from stream.settings import Settings

READY_SECONDS = 60.0


def writer_key(folder: Path) -> str:
    """The key of the embedded event log's writer; made at the first use."""
    return secret_of(folder, "eventlog")


def supervisor_of(settings: Settings) -> Supervisor:
    """The parts that these settings ask for."""
    me = [sys.executable, "-m", "gateway"]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    parts, ports = [], {"gateway": settings.port}
    workers = tuple("worker" if k == 0 else f"worker-{k}" for k in range(settings.worker_processes))
    if settings.embedded_broker:
        ports["broker"] = settings.broker_port
        port = settings.broker_port
        parts.append(Part("broker", lambda: broker.command(port), {"RUST_LOG": "warn"}, restarts_too=workers, good=lambda pid: broker.first(port, pid), renewed=Renewal(settings)))
    if settings.embedded_eventlog:
        ports["eventlog"] = settings.eventlog_port
        parts.append(Part("eventlog", lambda: [*me, "eventlog"]))
    parts.extend(Part(name, lambda: [*me, "worker"], threads) for name in workers)
    for number in range(settings.gateway_processes):
        name = "gateway" if number == 0 else f"gateway-{number}"
        parts.append(Part(name, lambda n=number: [*me, "gateway", "--number", str(n)], threads))  # type: ignore[misc]
    parts.append(Part("trainer", lambda: [*me, "trainer"]))
    return Supervisor(settings.data_dir.resolve(), parts, ports)


async def up(settings: Settings, say: Callable[[str], None], ready: asyncio.Event | None = None, stop: asyncio.Event | None = None) -> None:
    """Start, tell each part's address when it is ready, run until SIGTERM, SIGINT or `stop`."""
    writer_key(settings.data_dir)
    supervisor = supervisor_of(settings)
    supervisor.claim()
    stop = stop or asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    begun = time.monotonic()
    await supervisor.start()
    try:
        await tell_when_ready(settings, say, begun, stop)
        if ready is not None:
            ready.set()
        await stop.wait()
    finally:
        say("stopping …")
        await supervisor.stop()


async def tell_when_ready(settings: Settings, say: Callable[[str], None], begun: float, stop: asyncio.Event) -> None:
    """One line a part, as each becomes ready."""
    told: set[str] = set()
    url = f"http://{settings.host}:{settings.port}/health/ready"
    pool = urllib3.PoolManager(retries=False, timeout=2.0)
    while not stop.is_set() and time.monotonic() - begun < READY_SECONDS:
        await asyncio.sleep(0.1)
        try:
            answer = await asyncio.to_thread(pool.request, "GET", url)
            parts = orjson.loads(answer.data)["parts"]
        except (urllib3.exceptions.HTTPError, orjson.JSONDecodeError, KeyError):
            continue
        for name, part in parts.items():
            if part["ready"] and name not in told:
                told.add(name)
                say(f"{name:<9} ready after {time.monotonic() - begun:4.1f} s   {part['address']}")
        if answer.status == 200:  # noqa: PLR2004
            say(f"champion is up: http://{settings.host}:{settings.port}")
            return
    if not stop.is_set():
        say(f"not everything is ready after {READY_SECONDS:.0f} s: see {settings.data_dir}/logs and {url}")
