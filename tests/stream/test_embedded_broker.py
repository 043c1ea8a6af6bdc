"""A broker in memory that takes the place of one that died, under the hands of those who go on writing."""

import asyncio
import os
import signal

import psutil
import pytest
from aiokafka.errors import KafkaError

from stream.broker import BrokerUnavailable, Producer, between
from stream.embedded.broker import command, first
from stream.embedded.supervisor import Part, Supervisor
from stream.topics import ACTUALS
from tests.support import free_port

WRITERS = 4


class Writer:
    """Writes as it can; knows what a cluster acknowledged and did not lose before the acknowledgement could be trusted."""

    def __init__(self, address, name):
        self.producer, self.name = Producer(address), name
        self.acknowledged = {}  # cluster → [(partition, offset, value)]

    async def write(self, over):
        count = 0
        while not over.is_set():
            values = [f"{self.name}:{count + k}".encode() for k in range(60)]
            count += len(values)
            try:
                cluster = await self.producer.check()
                ready = await self.producer._ready()
                places = await asyncio.gather(*[await ready.send(ACTUALS, value) for value in values])
                if await self.producer.look() == cluster:
                    self.acknowledged.setdefault(cluster, []).extend((p.partition, p.offset, v) for p, v in zip(places, values, strict=True))
            except (BrokerUnavailable, KafkaError, OSError, TimeoutError):
                await asyncio.sleep(0.01)
        await self.producer.stop()


async def stored(address, said):
    """What lies at the places of records."""
    found = {}
    for partition in range(4):
        end = max(o for p, o, _ in said if p == partition) + 1
        found.update({(partition, m.offset): m.value for m in await between(address, (ACTUALS, partition), 0, end)})
    return found


def test_what_a_new_broker_acknowledges_can_be_read_although_writers_outlived_the_old_one(tmp_path):
    async def story():
        port = free_port()
        address = f"127.0.0.1:{port}"
        part = Part("broker", lambda: command(port), {"RUST_LOG": "warn"}, good=lambda pid: first(port, pid))
        supervisor = Supervisor(tmp_path, [part], {})
        supervisor.claim()
        await supervisor.start()
        over = asyncio.Event()
        writers = [Writer(address, k) for k in range(WRITERS)]
        tasks = [asyncio.create_task(w.write(over)) for w in writers]
        for kill in range(2):
            while min(len(w.acknowledged) for w in writers) <= kill:
                await asyncio.sleep(0.05)
            os.kill(part.process.pid, signal.SIGKILL)
        while min(len(w.acknowledged) for w in writers) <= 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        over.set()
        await asyncio.gather(*tasks)
        newest = list(writers[0].acknowledged)[-1]
        said = [record for w in writers for record in w.acknowledged[newest]]
        found = await stored(address, said)
        await supervisor.stop()
        return said, found

    said, found = asyncio.run(story())
    assert len({(p, o) for p, o, _ in said}) == len(said), "an offset was given twice"
    assert [record for record in said if found.get(record[:2]) != record[2]] == []


@pytest.mark.parametrize("early", [0, 1])
def test_a_broker_that_someone_has_found_before_its_topics_were_made_is_not_used(early):
    async def story():
        port = free_port()
        process = await asyncio.create_subprocess_exec(*command(port), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
        waiting = []
        while len(waiting) < early:
            try:
                waiting.append(await asyncio.open_connection("127.0.0.1", port))
            except OSError:
                await asyncio.sleep(0.01)
        if early:
            while not any(c.raddr for c in psutil.Process(process.pid).net_connections(kind="tcp")):
                await asyncio.sleep(0.01)
        good = await asyncio.to_thread(first, port, process.pid)
        for _, writer in waiting:
            writer.close()
        process.kill()
        await process.wait()
        return good

    assert asyncio.run(story()) is (not early)


def test_a_process_that_is_gone_is_left_to_its_watcher():
    async def story():
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        return await asyncio.to_thread(first, free_port(), process.pid)

    assert asyncio.run(story()) is True


def test_a_process_that_does_not_begin_well_is_replaced(tmp_path):
    seen = []

    def good(pid):
        seen.append(pid)
        return len(seen) == 3

    async def story():
        supervisor = Supervisor(tmp_path, [Part("sleeper", lambda: ["sleep", "60"], good=good)], {})
        supervisor.claim()
        await supervisor.start()
        alive = [pid for pid in seen if psutil.pid_exists(pid)]
        await supervisor.stop()
        return alive

    assert asyncio.run(story()) == seen[-1:]
    assert len(set(seen)) == 3
