"""The worker: what its consumers hand it goes through the engine, and is acknowledged when the log has it.

What takes time runs in a thread, so that heartbeats go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from models.registry import Artifacts, Registry
from stream import events
from stream.broker import BrokerUnavailable, Message, Producer, consume, ends, group_of
from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.control import Follower, Recorder
from stream.courier import Courier
from stream.dead_letters import DeadLetters, Letter, keep
from stream.embedded.broker import is_embedded
from stream.engine import Engine, Raw, Report, split
from stream.erasure import event_id as erasure_event_id
from stream.errors import LogUnavailable, Malformed, NotYet, QueryRejected, Superseded
from stream.events import ChallengerRemoved, Event, new_id
from stream.faust_app import SESSION, build
from stream.gapless import Gapless, filled
from stream.heartbeats import heartbeats
from stream.monitoring import results
from stream.retention import retain
from stream.secret import checkpoint_key
from stream.settings import Settings
from stream.steward import Steward
from stream.topics import ACTUALS, CONTROL, COURIERS, DEAD_LETTERS, JOINABLE, LETTERS, MONITORING, PREDICTIONS, WORKERS
from stream.watchdog import Place, Watchdog, finishes

log = logging.getLogger("champion.worker")

MOST_BYTES = 8 << 20
TELL_EVERY = 5.0
WATCH_EVERY = 10.0
PATIENCE = 300
SLEPT = SESSION - 1.0  # a process that stood still for so long may have lost its partitions
DRAIN = 2.0
START = 30.0


def portions(raws: list[Raw]) -> Iterator[list[Raw]]:
    """Messages in their order, so many together as a cycle may hold: what a cycle makes of them takes a hundred times their bytes.

    >>> message = Raw("t", 0, 0, bytes(MOST_BYTES // 2))
    >>> [len(some) for some in portions([message] * 5)]
    [2, 2, 1]
    """
    some: list[Raw] = []
    size = 0
    for raw in raws:
        if some and size + len(raw.value) > MOST_BYTES:
            yield some
            some, size = [], 0
        some.append(raw)
        size += len(raw.value)
    if some:
        yield some


class Worker:
    """One worker process: engine, control recorder, courier, heartbeats."""

    def __init__(self, settings: Settings, writer_key: str) -> None:
        """Wire the parts; nothing is opened yet."""
        self._settings = settings
        self.name = f"worker-{socket.gethostname()}-{os.getpid()}"
        self._producer = Producer(settings.bootstrap, administer=settings.administered_partitions, hours=settings.topic_retention_hours)
        self._log = EventLog(settings.eventlog_url, writer_key=writer_key)
        self._letters = DeadLetters(self._producer, self.name)
        self._follower = Follower(settings.bootstrap, self._producer, self._log)
        self._recorder = Recorder(self._log)
        self._registry = Registry(Artifacts(settings.artifacts), checkpoint_key(settings))
        self._engine = Engine(self._log, self._registry, self._follower, settings.partitions)
        self._courier = Courier(self._producer, self._letters, settings.partitions)
        self._steward = Steward(EventLog(settings.eventlog_url, writer_key=writer_key), self._registry, self._follower)
        self._inbox: asyncio.Queue[tuple[list[Raw], asyncio.Future[None]]] = asyncio.Queue()
        self._stale = False
        self._report: dict[str, Any] = {"cycles": 0, "rows": 0, "busy_seconds": 0.0, "seconds": {}}
        self._touched: set[str] = set()
        self._watchdog = Watchdog()
        self._assigned: set[Place] = set()
        self._busy = False
        self._held: list[Place] = []
        self._cluster, self._asked = "", 0
        self._gapless = Gapless(settings.bootstrap)
        self._pulse = time.monotonic()
        self._engine.holds = lambda: time.monotonic() - self._pulse < SLEPT

    async def pulse(self) -> None:
        """Notice that this process stood still: then others may have its partitions, and it must not write."""
        self._pulse = time.monotonic()  # the start may have waited for broker and log: that is no standing still
        while True:
            await asyncio.sleep(0.25)
            now = time.monotonic()
            if now - self._pulse > SLEPT:
                self._leave(f"it stood still for {now - self._pulse:.1f} s")
            self._pulse = now

    @staticmethod
    def _leave(reason: str) -> None:
        """End at once; the supervisor starts another, which begins with what the log has."""
        log.error("this worker ends: %s", reason)
        logging.shutdown()
        os._exit(1)

    async def submit(self, values: list[Any]) -> None:
        """Hand messages to the next cycle and wait until the log has them."""
        raws = [Raw(m.topic, m.partition, m.offset, m.value) for m in await self._whole(values)]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._inbox.put((raws, done))
        await done
        self._note(values)

    async def _whole(self, values: list[Any]) -> list[Message]:
        """What came, with what the embedded broker passed over."""
        found = [Message(v.message.topic, v.message.partition, v.message.offset, 0, v.value or b"") for v in values]
        while is_embedded(self._cluster):
            try:
                return await self._gapless.whole(found)
            except BrokerUnavailable:
                await self._same_broker()
                await asyncio.sleep(0.2)
        return found

    def _note(self, values: list[Any]) -> None:
        for v in values:
            self._watchdog.handled((v.message.topic, v.message.partition), v.message.offset)

    async def run_cycles(self) -> None:
        """Take all that waits, handle it, answer; for ever."""
        while True:
            self._busy, self._held = False, []
            taken = [await self._inbox.get()]
            self._busy = True
            while not self._inbox.empty():
                taken.append(self._inbox.get_nowait())
            self._held = [(raw.topic, raw.partition) for raws, _ in taken for raw in raws]
            await self._same_broker()
            for some in portions([raw for raws, _ in taken for raw in raws]):
                report = await self._until_done(some)
                await self._letters.put(*(Letter(raw.topic, raw.partition, raw.offset, reason, raw.value) for raw, reason in report.bad))
                await self._tell_erased(report)
                self._count(report)
            for _, done in taken:
                if not done.done():
                    done.set_result(None)

    async def _same_broker(self) -> None:
        """Messages of another broker than the one we began with are not ours: our place in it means nothing."""
        with contextlib.suppress(BrokerUnavailable):  # then they came while it was there
            if await self._producer.look() != self._cluster:
                self._leave("the broker is another one")

    async def _tell_erased(self, report: Report) -> None:
        """Each erasure, and each challenger that is suspended, is one event, however often it is done."""
        messages = [Event(erasure_event_id(fact), now_us(), self.name, deployment, fact).encode() for deployment, fact in report.erased]
        for deployment, model_id, version, reason in report.suspended:
            fact = ChallengerRemoved(model_id, f"suspended: {reason}")
            messages.append(Event(new_id(f"suspended:{deployment}:{model_id}:{version}"), now_us(), self.name, deployment, fact).encode())
        while messages:
            try:
                await self._producer.send(CONTROL, messages, 0)
            except BrokerUnavailable:
                await asyncio.sleep(0.5)
            else:
                return

    async def _until_done(self, raws: list[Raw]) -> Report:
        """Run one cycle, again and again while the log is away; a message that breaks it is put aside."""
        delay, tries = 0.2, 0
        while True:
            if self._stale:
                self._engine.forget()
                self._stale = False
            try:
                report = await asyncio.to_thread(self._engine.cycle, raws)
            except NotYet as error:
                self._engine.forget()
                tries += 1
                self._engine.challengers.patient = tries < PATIENCE
                if tries % 50 == 1:
                    log.warning("waiting: %s", error)
                await asyncio.sleep(0.1)
            except Superseded as error:
                self._leave(str(error))
            except LogUnavailable as error:
                log.warning("the log is away: %s", error)
                self._engine.forget()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
            except Exception as error:
                log.exception("a cycle failed")
                self._engine.forget()
                if len(raws) > 1:
                    return await self._one_by_one(raws)
                parts = split(raws[0])
                if len(parts) > 1:
                    return await self._one_by_one(parts)
                await self._pass_over(raws[0])
                return Report(bad=[(raws[0], f"{type(error).__name__}: {error}")])
            else:
                self._engine.challengers.patient = True
                return report

    async def _pass_over(self, raw: Raw) -> None:
        """Let a source go on past a message that is put aside."""
        while True:
            try:
                await asyncio.to_thread(self._engine.skip, raw)
            except LogUnavailable:
                await asyncio.sleep(0.5)
            except Exception:  # noqa: BLE001 - it may be unreadable: then nothing is known of its source
                return
            else:
                return

    async def _one_by_one(self, raws: list[Raw]) -> Report:
        whole = Report()
        for raw in raws:
            report = await self._until_done([raw])
            whole.bad.extend(report.bad)
            whole.touched |= report.touched
            whole.erased.extend(report.erased)
            whole.suspended.extend(report.suspended)
        return whole

    def _count(self, report: Report) -> None:
        self._report["cycles"] += 1
        self._report["rows"] += sum(report.rows.values())
        for step, seconds in report.seconds.items():
            self._report["seconds"][step] = round(self._report["seconds"].get(step, 0.0) + seconds, 4)
        self._touched |= report.touched

    async def record(self, values: list[Any]) -> None:
        """Append control events to the log; never gives up."""
        proposals, bad = [], []
        for message in await self._whole(values):
            try:
                proposals.append(events.decode(message.value))
            except Malformed as error:
                bad.append(Letter(message.topic, message.partition, message.offset, str(error), message.value))
        await self._letters.put(*bad)
        while True:
            try:
                await asyncio.to_thread(self._recorder.record, proposals)
            except (LogUnavailable, QueryRejected) as error:
                log.warning("control events wait for the log: %s", error)
                await asyncio.sleep(0.5)
            else:
                self._note(values)
                return

    async def _revoked(self) -> None:
        """What is under way is finished while the partitions are still ours."""
        end = time.monotonic() + DRAIN
        while (self._busy or not self._inbox.empty()) and time.monotonic() < end:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.02)

    def _given(self, places: set[Place]) -> None:
        log.info("assigned %s", sorted(f"{topic}/{partition}" for topic, partition in places))
        self._stale = True
        self._recorder.reset()
        self._gapless.begin()
        self._assigned = places
        self._watchdog.assigned(places)
        if self._busy and not places.issuperset(self._held):
            self._leave("what it still holds is of partitions that are another's now")

    async def _keep_letters(self, cluster: str, messages: list[Message]) -> None:
        del cluster
        await keep(self._log, messages)

    async def heartbeat(self) -> None:
        """Every two seconds: alive, and what was done so far."""

        def detail() -> dict[str, Any]:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return {**self._report, "pid": os.getpid(), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2), "dead_letters": self._letters.count, "steward_looked_at": self._steward.looked_at}

        await heartbeats(self._log, "worker", self.name, detail)

    async def watch(self) -> None:
        """Faust's consumers are known to die silently: then this process ends, and another begins."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            try:
                found = await ends(self._settings.bootstrap, self._assigned) if self._assigned else {}
            except BrokerUnavailable:
                continue
            self._report["lag"] = sum(self._watchdog.lag(found).values())
            stuck = self._watchdog.stuck(found, asyncio.get_running_loop().time())
            if stuck and not self._busy:
                self._leave(f"nothing is handled although messages wait in {stuck}")

    async def tell(self) -> None:
        """Publish drift and accuracy of the deployments that changed to `monitoring`."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            touched, self._touched = self._touched, set()
            for deployment in sorted(touched):
                with contextlib.suppress(LogUnavailable, QueryRejected, BrokerUnavailable):
                    messages = await asyncio.to_thread(results, self._log, self._registry, self._follower.catalog, deployment)
                    await self._producer.send(MONITORING, messages, 0, deployment.encode())

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        await self._step("broker and log", asyncio.gather(self._wait_for_broker(), asyncio.to_thread(self._log.wait, 120.0)), lambda: self._asked)
        self._engine.cluster = self._cluster
        self._gapless = Gapless(self._settings.bootstrap, group_of(WORKERS, self._cluster))
        await asyncio.to_thread(self._log.migrate)
        await asyncio.to_thread(retain, self._log, self._settings.log_retention_days)
        app = build(self._settings, group_of(WORKERS, self._cluster), {PREDICTIONS: self.submit, JOINABLE: self.submit, CONTROL: self.record}, self._given, self._revoked)
        tasks = [
            asyncio.create_task(self._follower.run()),
            asyncio.create_task(consume(self._settings.bootstrap, ACTUALS, COURIERS, filled(self._settings.bootstrap, COURIERS, self._courier.carry))),
            asyncio.create_task(consume(self._settings.bootstrap, DEAD_LETTERS, LETTERS, filled(self._settings.bootstrap, LETTERS, self._keep_letters))),
            asyncio.create_task(self.run_cycles()),
            asyncio.create_task(self.pulse()),
            asyncio.create_task(self.heartbeat()),
            asyncio.create_task(self.watch()),
            asyncio.create_task(self._steward.run(lambda: (CONTROL, 0) in self._assigned)),
            asyncio.create_task(self.tell()),
        ]
        await self._step("control", self._follower.caught_up.wait(), lambda: self._follower.taken)
        await self._step("consumers", app.start(), lambda: 0)
        log.info("started")
        stopping = asyncio.create_task(stop.wait())
        ended = asyncio.create_task(app.wait_until_stopped())
        done, _ = await asyncio.wait([stopping, ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = next((t for t in tasks if t in done), None)
        if failed is not None and failed.exception() is not None:
            log.error("a task of the worker failed", exc_info=failed.exception())
        # Not wait_for: it waits for what it cancels, and Faust takes a minute to leave a broker that is gone.
        await asyncio.wait([asyncio.create_task(app.stop())], timeout=3)
        for task in tasks:
            task.cancel()
        await asyncio.wait([asyncio.create_task(self._producer.stop())], timeout=1)
        logging.shutdown()
        os._exit(0 if stop.is_set() else 1)

    async def _step(self, name: str, waiting: Awaitable[Any], moved: Callable[[], int]) -> None:
        """One step of the start. Where nothing moves this process ends, and another begins anew.

        A client that was started while its broker was being replaced may wait for ever for the old one.
        """
        log.info("waiting for %s", name)
        task = asyncio.ensure_future(waiting)
        if not await finishes(task, moved, START):
            self._leave(f"it waited {START:.0f} s for {name}, and nothing moved")
        task.result()

    async def _wait_for_broker(self) -> None:
        while True:
            self._asked += 1
            with contextlib.suppress(BrokerUnavailable):
                self._cluster = await self._producer.look()  # topics are made by the first request, never administered here
                return
            await asyncio.sleep(0.1)
