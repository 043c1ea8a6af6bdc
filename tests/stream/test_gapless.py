"""What the embedded broker passes over is fetched and handed over in its place."""

import asyncio
import contextlib
import subprocess

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.broker import BrokerUnavailable, Producer, cluster_at, consume, follow, group_of
from stream.embedded.broker import command, is_embedded
from stream.gapless import Gapless, filled
from tests.support import free_port


@pytest.fixture
def address():
    port = free_port()
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


async def write(address, tag, count):
    """One record a request, so that several writers meet; answers when all are acknowledged."""
    producer = Producer(address)
    for k in range(count):
        while True:
            try:
                await producer.send("actuals", [f"{tag}-{k}".encode()], 0)
            except BrokerUnavailable:
                await asyncio.sleep(0.02)
            else:
                break
    await producer.stop()


async def read(address, count):
    """The first records as a consumer that starts late finds them."""
    found = []
    async for batch in follow(address, "actuals"):
        found.extend(batch if isinstance(batch, list) else [])
        if len(found) >= count:
            return found
    return found


def test_a_record_that_is_left_out_of_a_batch_or_at_its_begin_is_put_in_its_place(address):
    async def story():
        await write(address, "w", 30)
        whole = await read(address, 30)
        gapless = Gapless(address)
        first = await gapless.whole([m for m in whole[:10] if m.offset not in {0, 4, 5}])
        second = await gapless.whole([m for m in whole[10:20] if m.offset != 10])
        again = await gapless.whole(whole[15:18])  # a repetition begins again there
        third = await gapless.whole(whole[18:20] + whole[25:])
        return whole, first, second, again, third

    whole, first, second, again, third = asyncio.run(story())
    assert [m.offset for m in whole] == list(range(30))
    assert (first, second, again, third) == (whole[:10], whole[10:20], whole[15:18], whole[18:30])


def test_what_a_group_has_committed_is_not_fetched_again(address):
    async def story():
        await write(address, "w", 40)
        whole, handled = await read(address, 40), []

        async def handle(cluster, messages):
            handled.extend(messages)

        task = asyncio.create_task(consume(address, "actuals", "g", handle))
        while len(handled) < 40:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # and it is committed
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gapless = Gapless(address, group_of("g", await cluster_at(address)))
        gapless._next[("actuals", 0)] = 5  # its place was another's meanwhile
        await write(address, "later", 3)
        return whole, await gapless.whole((await read(address, 43))[42:])

    whole, found = asyncio.run(story())
    assert len(whole) == 40
    assert [m.offset for m in found] == [40, 41, 42]


async def hammer(address, tag, count):
    """As fast as one writer can, one record a request; answers what was acknowledged."""
    producer, acknowledged = AIOKafkaProducer(bootstrap_servers=address, acks="all"), set()
    await producer.start()
    for k in range(count):
        value = f"{tag}-{k}-".encode() * (1 + k % 7 * 200)
        with contextlib.suppress(KafkaError):  # of two that meet, the broker refuses one now and then
            await producer.send_and_wait("actuals", value, partition=0)
            acknowledged.add(value)
    await producer.stop()
    return acknowledged


def test_a_handler_of_a_group_is_given_the_whole(address):
    async def story():
        got = []

        async def handle(cluster, messages):
            assert is_embedded(cluster)
            got.extend(messages)

        task = asyncio.create_task(consume(address, "actuals", "g", filled(address, "g", handle)))
        await asyncio.gather(*(write(address, f"w{k}", 100) for k in range(4)))
        while len({m.value for m in got}) < 400:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return got

    got = asyncio.run(story())
    assert [m.offset for m in got] == list(range(len(got)))


def test_of_several_writers_at_once_every_acknowledged_record_is_handed_over_in_order(address):
    async def story():
        got, gapless = [], Gapless(address)

        async def take():
            async for found in follow(address, "actuals"):
                if isinstance(found, list):
                    got.extend(await gapless.whole(found))

        await write(address, "first", 1)
        task = asyncio.create_task(take())
        acknowledged = set().union(*await asyncio.gather(*(hammer(address, f"w{k}", 1200) for k in range(4))))
        for _ in range(300):
            if acknowledged <= {m.value for m in got}:
                break
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return acknowledged, got

    acknowledged, got = asyncio.run(story())
    assert acknowledged <= {m.value for m in got}
    assert [m.offset for m in got] == list(range(len(got)))
