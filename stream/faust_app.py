"""The Faust app: which topics are read, how, and what is told when partitions come and go.

The only importer of faust.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver

from stream.settings import Settings
from stream.watchdog import Place

TAKE = 64
WITHIN = 0.03
FETCH_WAIT_MS = 25
LARGEST = 64 << 20
SESSION = 6


class _Thread(driver.AIOKafkaConsumerThread):
    """Faust hard-codes a fetch wait of 1.5 s, which a broker without push turns into latency."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        consumer._fetch_max_bytes = LARGEST  # noqa: SLF001
        return consumer


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):
    Consumer = _Consumer


def build(
    settings: Settings,
    group: str,
    handlers: dict[str, Callable[[list[Any]], Awaitable[None]]],
    assigned: Callable[[set[Place]], None],
    revoked: Callable[[], Awaitable[None]],
) -> faust.App:
    """An app of one agent a topic: it hands over what came, at most so much at a time, and acknowledges it after.

    `assigned` is told all places this member has after a rebalance; `revoked` is awaited before they are given up.
    """
    app = faust.App(
        group,
        broker="kafka://" + settings.bootstrap.replace(",", ";kafka://"),
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_rebalance_timeout=3,
        broker_session_timeout=SESSION,
        broker_heartbeat_interval=1,
        broker_request_timeout=10.0,
        broker_commit_interval=0.5,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=LARGEST,
        consumer_metadata_max_age_ms=3000,
        producer_max_request_size=LARGEST,
        stream_wait_empty=False,
        stream_buffer_maxsize=TAKE,
        web_enabled=False,
        worker_redirect_stdouts=False,
        logging_config=None,
        datadir=str(settings.data_dir.resolve() / "faust"),
    )
    app.transport = _Transport(app.conf.broker_consumer, app, loop=asyncio.get_running_loop())
    for topic, handle in handlers.items():
        _read(app, topic, handle)

    async def on_revoked(app: Any, was: Any, **_: Any) -> None:
        del app, was
        await revoked()

    async def on_assigned(app: Any, now: Any, **_: Any) -> None:
        del app
        assigned({(str(t.topic), int(t.partition)) for t in now})

    app.on_partitions_revoked.connect(on_revoked)  # type: ignore[arg-type]
    app.on_partitions_assigned.connect(on_assigned)  # type: ignore[arg-type]
    return app


def _read(app: faust.App, topic: str, handle: Callable[[list[Any]], Awaitable[None]]) -> None:
    async def agent(stream: Any) -> None:
        async for values in stream.take_events(TAKE, within=WITHIN):
            await handle(values)

    raw: dict[str, Any] = {"value_type": bytes, "key_type": bytes, "value_serializer": "raw", "key_serializer": "raw"}
    app.agent(app.topic(topic, **raw), name=f"champion.{topic}")(agent)
