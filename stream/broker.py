"""Kafka without Faust: producing, following a topic, the courier. The only importer of aiokafka."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from stream.embedded.broker import is_embedded
from stream.topics import ACTUALS, CONTROL, DEAD_LETTERS, JOINABLE, MONITORING, PREDICTIONS

log = logging.getLogger("champion.broker")
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it writes dozens of lines a second while a broker is away

LARGEST = 64 << 20
POLL_MS = 100
CHECK_SECONDS = 0.25
POSITION = 5.0
LOOKS = 5
QUIET = 2.0
GATHER = 0.1  # seconds between polls: what came in them travels on together, for each poll costs the worker a score of messages
ASKED = 4  # brokers, at random, before we say that none answers


class BrokerUnavailable(Exception):  # noqa: N818 - a state
    """No broker answers."""


@dataclass(frozen=True)
class Message:
    """What a consumer was handed."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes


async def cluster_of(client: Any) -> str:
    """The id of the cluster a client talks to."""
    for _ in range(ASKED):
        node = client.get_random_node()
        if node is None:
            break
        try:
            answer = await asyncio.wait_for(client.send(node, MetadataRequest([])), 5)
        except (KafkaError, OSError):
            continue  # one of several may be away
        return str(answer.cluster_id)
    raise BrokerUnavailable("no broker answers")


async def leave(client: Any) -> None:
    """Stop a client, two seconds at most, whatever it raises.

    aiokafka hands the cancellation of its own tasks on to whoever stops it while a broker goes away.
    """
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait([stopping], timeout=2)
    if stopping.done() and not stopping.cancelled():
        stopping.exception()


async def ensure_topics(bootstrap: str, partitions: int, hours: int) -> None:
    """Make the topics that a real Kafka lacks; those that exist are left as they are.

    Records are kept for so many hours; control for ever: it is small, and new gateways read it.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        have = set(await admin.list_topics())
        replicas = min(3, len((await admin.describe_cluster())["brokers"]))
        counts = {PREDICTIONS: partitions, JOINABLE: partitions, ACTUALS: partitions, CONTROL: 1, DEAD_LETTERS: 1, MONITORING: 1}
        kept = {name: str(-1 if name == CONTROL else hours * 3_600_000) for name in counts}
        missing = [
            NewTopic(name, count, replicas, topic_configs={"max.message.bytes": str(LARGEST), "retention.ms": kept[name], "min.insync.replicas": str(max(1, replicas - 1))})
            for name, count in counts.items()
            if name not in have
        ]
        if missing:
            await admin.create_topics(missing)
    finally:
        await admin.close()


class Producer:
    """Sends bytes and waits for their acknowledgement.

    It is made anew after an error and when the cluster id changes: a producer that outlives an
    in-memory broker writes with old metadata to topics that the new one does not know.
    """

    def __init__(self, bootstrap: str, *, administer: int = 0, hours: int = 168) -> None:
        """Remember where the broker is.

        `administer` is for a real Kafka: the partitions that missing topics are made with, and an
        idempotent producer; `hours` is how long their records are kept. The embedded broker refuses the
        one and must not be asked for the other.
        """
        self._bootstrap, self._administer, self._hours = bootstrap, administer, hours
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._checked = 0.0
        self.cluster = ""

    @property
    def connected(self) -> bool:
        """Whether the last send or check succeeded."""
        return self._producer is not None

    async def _ready(self) -> AIOKafkaProducer:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._producer is not None and now - self._checked > CHECK_SECONDS:
                try:
                    cluster = await cluster_of(self._producer.client)
                except (KafkaError, OSError, TimeoutError, BrokerUnavailable):
                    cluster = ""
                if cluster != self.cluster:
                    await self._drop()
                self._checked = now
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    enable_idempotence=self._administer > 0,
                    max_request_size=LARGEST,
                    max_batch_size=1 << 20,
                    request_timeout_ms=5000,
                    retry_backoff_ms=50,
                )
                try:
                    await asyncio.wait_for(producer.start(), 5)
                    self.cluster = await cluster_of(producer.client)
                    if self._administer:
                        await ensure_topics(self._bootstrap, self._administer, self._hours)
                except BaseException as error:
                    await leave(producer)
                    if isinstance(error, KafkaError | OSError | TimeoutError | BrokerUnavailable):
                        raise BrokerUnavailable(f"no broker at {self._bootstrap}") from error
                    raise
                self._producer, self._checked = producer, now
            return self._producer

    async def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await leave(producer)

    async def send(self, topic: str, values: list[bytes], partition: int | None = None, key: bytes | None = None) -> None:
        """Send messages in order; BrokerUnavailable where one was not acknowledged."""
        producer = await self._ready()
        try:
            waiting = [await producer.send(topic, value, key=key, partition=partition) for value in values]
            for future in waiting:
                await asyncio.wait_for(future, 15)
        except (KafkaError, OSError, TimeoutError) as error:
            async with self._lock:
                await self._drop()
            raise BrokerUnavailable(f"the broker did not acknowledge: {type(error).__name__}") from error

    async def look(self) -> str:
        """The cluster id as it is this very moment; BrokerUnavailable where none answers."""
        producer = await self._ready()
        try:
            return await cluster_of(producer.client)
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable("the broker does not answer") from error

    async def check(self) -> str:
        """The cluster id; BrokerUnavailable where none answers."""
        await self._ready()
        return self.cluster

    async def stop(self) -> None:
        """Flush and close."""
        async with self._lock:
            await self._drop()


@dataclass(frozen=True)
class CaughtUp:
    """All that the topic held when following began has been handed over, of this cluster."""

    cluster: str


async def follow(bootstrap: str, topic: str, partition: int = 0) -> AsyncIterator[list[Message] | CaughtUp]:
    """One partition from its beginning, for ever; begins again when the broker is another one."""
    delay = 0.1
    while True:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=POLL_MS,
            max_partition_fetch_bytes=LARGEST,
            request_timeout_ms=5000,
        )
        try:
            await asyncio.wait_for(consumer.start(), 10)
            async for found in _follow(consumer, TopicPartition(topic, partition)):
                delay = 0.1
                yield found
        except (KafkaError, OSError, TimeoutError, BrokerUnavailable) as error:
            log.debug("following %s: %r", topic, error)
        finally:
            await leave(consumer)
        await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - jitter
        delay = min(delay * 2, 2.0)


async def _follow(consumer: AIOKafkaConsumer, at: TopicPartition) -> AsyncIterator[list[Message] | CaughtUp]:
    client = consumer._client  # noqa: SLF001 - aiokafka has no public way to the cluster id
    cluster = await cluster_of(client)
    consumer.assign([at])
    await consumer.seek_to_beginning(at)
    end = (await consumer.end_offsets([at]))[at]
    told, checked = False, asyncio.get_running_loop().time()
    quiet = checked
    while True:
        found = await consumer.getmany(at, timeout_ms=200)
        records, now = found.get(at, []), asyncio.get_running_loop().time()
        if records:
            quiet = now
            yield [Message(r.topic, r.partition, r.offset, r.timestamp, r.value or b"") for r in records]
        if not told:
            # position() waits for ever where a broker that was replaced does not know the topic yet
            position, seen = await asyncio.wait_for(consumer.position(at), POSITION), consumer.highwater(at)
            # of the embedded broker, "end" is one behind the base of the batch that was stored last: too few, or a record that never comes
            if seen is not None and position >= seen and (position >= end or now - quiet > QUIET):
                told = True
                yield CaughtUp(cluster)
        if now - checked > CHECK_SECONDS:
            checked = now
            if await cluster_of(client) != cluster:
                return


async def ends(bootstrap: str, places: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """The end offsets of some partitions (of an embedded broker, somewhere in the last batches); BrokerUnavailable where none answers."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, request_timeout_ms=5000)
    try:
        await asyncio.wait_for(consumer.start(), 10)
        found = await asyncio.wait_for(consumer.end_offsets([TopicPartition(*place) for place in places]), 10)
        return {(at.topic, at.partition): end for at, end in found.items()}
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no broker at {bootstrap}") from error
    finally:
        await leave(consumer)


async def committed(bootstrap: str, group: str, places: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Where a group goes on in some partitions, else where they begin; BrokerUnavailable where none answers.

    What an embedded broker calls the earliest offset is the base of the batch that was stored first: of two producers
    that begin a partition together this may be the second. It forgets nothing, so its partitions begin at 0.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group or None, enable_auto_commit=False, request_timeout_ms=5000)
    try:
        await asyncio.wait_for(consumer.start(), 10)
        at = [TopicPartition(*place) for place in places]
        consumer.assign(at)
        embedded = is_embedded(await cluster_of(consumer._client))  # noqa: SLF001
        first = dict.fromkeys(at, 0) if embedded else await asyncio.wait_for(consumer.beginning_offsets(at), 10)
        known = {tp: await asyncio.wait_for(consumer.committed(tp), 10) if group else None for tp in at}
        return {(tp.topic, tp.partition): max(known[tp] or 0, first[tp]) for tp in at}
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no broker at {bootstrap}") from error
    finally:
        await leave(consumer)


async def waiting_since(bootstrap: str, reached: dict[tuple[str, int], int]) -> int | None:
    """The time (milliseconds) of the oldest record at or after the offsets (0 where a partition is not named); None where there is none.

    An embedded broker's word for its ends is not to be trusted, so it is asked for the records themselves. BrokerUnavailable where none answers.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, fetch_max_wait_ms=POLL_MS, max_partition_fetch_bytes=LARGEST, request_timeout_ms=5000)
    try:
        await asyncio.wait_for(consumer.start(), 10)
        topics = {topic for topic, _ in reached}
        await asyncio.wait_for(consumer._client.set_topics(topics), 5)  # noqa: SLF001 - partitions are known of topics that are asked for
        at = [TopicPartition(topic, partition) for topic in topics for partition in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(at)
        for place in at:
            consumer.seek(place, reached.get((place.topic, place.partition), 0))
        oldest, nothing = [], 0
        while nothing < 2:  # noqa: PLR2004 - one empty answer may be a slow one
            found = await consumer.getmany(timeout_ms=500, max_records=1)
            nothing = 0 if found else nothing + 1
            oldest += [record.timestamp for records in found.values() for record in records]
            consumer.pause(*found)  # the first of each partition is enough
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no broker at {bootstrap}") from error
    finally:
        await leave(consumer)
    return min(oldest, default=None)


async def between(bootstrap: str, place: tuple[str, int], first: int, end: int) -> list[Message]:
    """The records at the offsets from `first` to before `end`; fewer where some do not come although they are waited for."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, fetch_max_wait_ms=POLL_MS, max_partition_fetch_bytes=LARGEST, request_timeout_ms=5000)
    at = TopicPartition(*place)
    found: dict[int, Message] = {}
    try:
        await asyncio.wait_for(consumer.start(), 10)
        consumer.assign([at])
        for _ in range(LOOKS):
            consumer.seek(at, first)
            while records := (await consumer.getmany(at, timeout_ms=500)).get(at, []):
                found |= {r.offset: Message(r.topic, r.partition, r.offset, r.timestamp, r.value or b"") for r in records if r.offset < end}
                if records[-1].offset >= end - 1:
                    break
            if len(found) == end - first:
                break
            await asyncio.sleep(0.2)
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no broker at {bootstrap}") from error
    finally:
        await leave(consumer)
    return [found[offset] for offset in sorted(found)]


async def cluster_at(bootstrap: str) -> str:
    """The id of the cluster that answers; BrokerUnavailable where none does."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, request_timeout_ms=5000)
    try:
        await asyncio.wait_for(consumer.start(), 10)
        return await cluster_of(consumer._client)  # noqa: SLF001
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"no broker at {bootstrap}") from error
    finally:
        await leave(consumer)


def group_of(name: str, cluster: str) -> str:
    """A group's name, of one cluster only.

    An embedded broker forgets its offsets with its records. A consumer that outlives it would go on at its
    old place in the new one, and commit that: whoever comes next would never see what lies before.
    """
    return f"{name}-{cluster}"


async def consume(bootstrap: str, topic: str, group: str, handle: Any) -> None:
    """A bare group consumer: `await handle(cluster, messages)`, then commit; for ever.

    What came is handled only if the broker is still the one that the consumer began with.
    """
    delay = 0.1
    while True:
        try:
            cluster = await cluster_at(bootstrap)
        except BrokerUnavailable:
            await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - jitter
            delay = min(delay * 2, 2.0)
            continue
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group_of(group, cluster),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=POLL_MS,
            session_timeout_ms=6000,
            heartbeat_interval_ms=1000,
            rebalance_timeout_ms=3000,
            metadata_max_age_ms=2000,
            request_timeout_ms=10000,
        )
        try:
            await asyncio.wait_for(consumer.start(), 30)
            while True:
                found = await consumer.getmany(timeout_ms=500, max_records=20_000)
                messages = [Message(r.topic, r.partition, r.offset, r.timestamp, r.value or b"") for rs in found.values() for r in rs]
                if await cluster_of(consumer._client) != cluster:  # noqa: SLF001
                    break
                if messages:
                    delay = 0.1
                    await handle(cluster, messages)
                    await consumer.commit()
                    await asyncio.sleep(GATHER)
        except (KafkaError, OSError, TimeoutError, BrokerUnavailable) as error:
            log.debug("consuming %s: %r", topic, error)
        finally:
            await leave(consumer)
        await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - jitter
        delay = min(delay * 2, 2.0)
