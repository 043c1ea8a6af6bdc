"""The same code on a real Apache Kafka (KRaft, one broker, a plain JVM process on loopback).

The jars come from Maven Central coordinates: `make test-kafka` fetches them. Without them, or
without Java, these tests are skipped and say so.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import orjson
import pytest

from gateway.client import Refusal
from stream.broker import Producer
from stream.topics import ACTUALS
from tests.support import deploy_small, free_port, start_system, stop

JARS = Path(__file__).parents[2] / ".venv" / "kafka"
PRESENT = JARS.exists() and any(JARS.glob("kafka_2.13-*.jar")) and shutil.which("java") is not None
pytestmark = pytest.mark.skipif(not PRESENT, reason="no Kafka jars: run `make test-kafka` (needs Java 17 and Maven)")


class Kafka:
    """One broker that can be stopped and started again on its data."""

    def __init__(self, folder):
        self.port, controller = free_port(), free_port()
        self.folder = folder
        (folder / "server.properties").write_text(
            f"process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{self.port}\n"
            f"controller.listener.names=CONTROLLER\nlog.dirs={folder}/data\noffsets.topic.replication.factor=1\n"
            "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\nmessage.max.bytes=67108864\n"
        )
        self.java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", folder / "server.properties").wait(60)
        self.start()

    def java(self, *arguments):
        return subprocess.Popen(["java", "-Xmx512m", "-cp", f"{JARS}/*", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def start(self):
        self.process = self.java("kafka.Kafka", self.folder / "server.properties")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("Kafka did not start")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    found = Kafka(tmp_path_factory.mktemp("kafka"))
    yield found
    stop(found.process)


@pytest.fixture(scope="module")
def world(kafka, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    system = start_system(folder / "var", CHAMPION_KAFKA_URL=f"127.0.0.1:{kafka.port}")
    deploy_small(system, folder)
    yield system
    stop(system.process)


def until(found, wanted, seconds=60):
    end = time.monotonic() + seconds
    value = None
    while value != wanted and time.monotonic() < end:
        try:
            value = found()
        except Refusal:
            value = None
        time.sleep(0.2)
    return value


def test_nothing_is_lost_or_counted_twice_with_a_killed_worker_and_a_broker_that_goes_away(kafka, world):
    rng = random.Random(1)
    rows = 0
    for k in range(60):
        if k == 20:
            os.kill(json.loads((world.folder / "run.json").read_text())["worker"]["pid"], signal.SIGKILL)
        if k == 40:
            os.killpg(kafka.process.pid, signal.SIGKILL)
            kafka.process.wait()
        body = {"rows": [{"x": rng.gauss(0, 1), "z": 0.1}] * 10, "association_ids": [f"{k}-{j}" for j in range(10)]}
        answer = world.api.post("/v1/deployments/d/predictions", body)
        assert answer["recorded"] is True
        rows += 10
    kafka.start()

    async def produce():
        producer = Producer(f"127.0.0.1:{kafka.port}", administer=4)
        messages = [orjson.dumps({"deployment": "d", "association_id": f"{k}-{j}", "actual": 1, "id": f"f{k}-{j}"}) for k in range(60) for j in range(10)]
        await producer.send(ACTUALS, messages + messages[:100])
        await producer.stop()

    asyncio.run(produce())
    one_each = [{"role": "challenger", "n": rows, "u": rows}, {"role": "champion", "n": rows, "u": rows}]
    assert until(lambda: world.sql("SELECT role, count() AS n, uniqExact(event_id) AS u FROM predictions GROUP BY role ORDER BY role"), one_each) == one_each
    joined = [{"role": "challenger", "n": rows}, {"role": "champion", "n": rows}]
    assert until(lambda: world.sql("SELECT role, count() AS n FROM outcomes GROUP BY role ORDER BY role"), joined) == joined
    drift = world.api.get("/v1/deployments/d/drift")
    assert {f["rows"] for f in drift["totals"]["features"]} == {rows}
    assert world.sql("SELECT count() AS n FROM actuals") == [{"n": rows}]
