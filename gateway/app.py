"""The composition root of a gateway process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from functools import partial

from aiohttp import web

from gateway import keys
from gateway.admission import Admission
from gateway.auth import KeyStore, guard
from gateway.errors import errors
from gateway.express import Connection
from gateway.routes import add_routes
from gateway.serving import Serving
from gateway.telemetry import Telemetry
from gateway.traces import Traces
from models.registry import Artifacts, Registry
from stream.broker import Producer
from stream.clickhouse import EventLog
from stream.control import Follower
from stream.outbox import Outbox
from stream.secret import checkpoint_key
from stream.settings import Settings

MOST_BODY = 512 << 20
DRAIN = 5.0
MOST_FILES = 65_536  # connections, where the system lets us: its own bound is often 1,024


def create_app(settings: Settings, *, number: int = 0) -> web.Application:
    """A gateway's application; `number` tells the processes of one gateway apart."""
    app = web.Application(client_max_size=MOST_BODY)
    store = KeyStore(settings.data_dir / "keys.json")
    app.middlewares.extend([errors, guard(store)])  # type: ignore[list-item]
    producer = Producer(settings.bootstrap, administer=settings.administered_partitions, hours=settings.topic_retention_hours)
    event_log = EventLog(settings.eventlog_url)
    artifacts = Artifacts(settings.artifacts)
    registry = Registry(artifacts, checkpoint_key(settings))
    telemetry = Telemetry()
    follower = Follower(settings.bootstrap, producer, event_log, settings.data_dir / "gateway" / f"events-{number}.jsonl")
    app[keys.SETTINGS] = settings
    app[keys.KEYS] = store
    app[keys.PRODUCER] = producer
    app[keys.EVENT_LOG] = event_log
    app[keys.ARTIFACTS] = artifacts
    app[keys.REGISTRY] = registry
    app[keys.TELEMETRY] = telemetry
    app[keys.ADMISSION] = admission = Admission(settings.most_under_way, settings.deadline_ms)
    telemetry.gauges |= {"bytes_under_way": lambda: admission.under_way, "requests_turned_away": lambda: admission.refused}
    app[keys.FOLLOWER] = follower
    app[keys.TRACES] = Traces(settings.traces_url) if settings.traces_url else None
    app.cleanup_ctx.append(background)
    add_routes(app)
    return app


async def background(app: web.Application) -> AsyncIterator[None]:
    """The tasks beside the requests: control, the publisher, loading models."""
    settings = app[keys.SETTINGS]
    outbox = Outbox(
        settings.data_dir / "journal",
        partitions=settings.partitions,
        most=settings.journal_max,
        fsync=settings.durability == "fsync",
    )
    telemetry = app[keys.TELEMETRY]
    serving = Serving(app[keys.FOLLOWER], app[keys.REGISTRY], outbox, telemetry, on_full=settings.on_journal_full)
    app[keys.OUTBOX] = outbox
    app[keys.SERVING] = serving
    telemetry.gauges |= {
        "journal_bytes": lambda: outbox.journal.bytes,
        "journal_waiting_records": lambda: outbox.waiting,
        "journal_failures": lambda: outbox.journal.failures,
        "dead_letters": lambda: app[keys.FOLLOWER].catalog.dead_letters,
        "published_rows": lambda: outbox.sent_rows,
        "publisher_restarts": lambda: outbox.restarts,
        "broker_connected": lambda: float(app[keys.PRODUCER].connected),
        "deployments_not_loaded": lambda: len(serving.missing),
    }
    tasks = [asyncio.create_task(part()) for part in (app[keys.FOLLOWER].run, outbox.run, serving.run)]
    for task in tasks:
        task.add_done_callback(stop_if_failed)
    yield
    await outbox.drain(DRAIN)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(OSError):
        outbox.journal.close()
    await app[keys.PRODUCER].stop()
    if (traces := app[keys.TRACES]) is not None:
        await asyncio.wait([asyncio.create_task(asyncio.to_thread(traces.close))], timeout=DRAIN)


def stop_if_failed(task: asyncio.Task[None]) -> None:
    """A background task that ends by itself takes the process with it: the supervisor starts a whole one."""
    if not task.cancelled() and task.exception() is not None:
        asyncio.get_running_loop().call_exception_handler({"message": "a background task failed", "exception": task.exception()})
        os.kill(os.getpid(), signal.SIGTERM)


async def serve(settings: Settings, *, number: int = 0) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    app = create_app(settings, number=number)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN)
    await runner.setup()
    sock = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if settings.gateway_processes > 1:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((settings.host, settings.port))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)), hard))
    loop = asyncio.get_running_loop()
    assert runner.server is not None  # noqa: S101 - setup made it
    factory = partial(Connection, app, runner.server, loop, access_log=None, keepalive_timeout=75)
    server = await loop.create_server(factory, sock=sock, backlog=1024)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)  # requests make few cycles; a full collection is a pause for all of them
    await stop.wait()
    server.close()
    await runner.cleanup()
