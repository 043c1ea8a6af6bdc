"""A consumer that outlives its broker begins anew in the next one, whatever lies there already."""

import asyncio
import subprocess

from stream.broker import BrokerUnavailable, Producer, consume
from stream.embedded.broker import command
from tests.support import free_port


async def sent(port, tag, count):
    producer = Producer(f"127.0.0.1:{port}")
    while True:
        try:
            await producer.send("actuals", [f"{tag}-{k}".encode() for k in range(count)])
        except BrokerUnavailable:
            await asyncio.sleep(0.02)
        else:
            await producer.stop()
            return


def test_what_a_new_broker_got_before_the_consumer_noticed_is_handled_from_its_beginning():
    port = free_port()

    def broker():
        return subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def story():
        got = {}

        async def handle(cluster, messages):
            for message in messages:
                got.setdefault(message.value, set()).add(cluster)

        async def until(tag, count):
            for _ in range(600):
                if sum(value.startswith(tag) for value in got) == count:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError(f"{sum(value.startswith(tag) for value in got)} of {count}")

        first = broker()
        task = asyncio.create_task(consume(f"127.0.0.1:{port}", "actuals", "g", handle))
        second = None
        try:
            await sent(port, "old", 200)
            await until(b"old", 200)
            first.kill()
            first.wait()
            second = broker()
            await sent(port, "new", 4000)  # more than the consumer's place in the old one
            await until(b"new", 4000)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for process in (first, second):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()
        return got

    got = asyncio.run(story())
    assert len({c for clusters in got.values() for c in clusters}) == 2
    assert all(len(clusters) == 1 for clusters in got.values())  # no row goes under another broker's name
