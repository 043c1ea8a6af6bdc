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
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from gateway.client import Refusal
from stream.broker import Producer
from stream.topics import ACTUALS
from tests.support import deploy_small, free_port, start_system, stop

JARS = Path(__file__).parents[2] / ".venv" / "kafka"
PRESENT = JARS.exists() and any(JARS.glob("kafka_2.13-*.jar")) and shutil.which("java") is not None
pytestmark = pytest.mark.skipif(not PRESENT, reason="no Kafka jars: run `make test-kafka` (needs Java 17 and Maven)")


class Kafka:
    """Brokers (KRaft, each a controller too) that can be stopped and started again on their data."""

    def __init__(self, folder, brokers=1):
        self.folder, self.processes = folder, {}
        self.ports = [free_port() for _ in range(brokers)]
        controllers = [free_port() for _ in range(brokers)]
        voters = ",".join(f"{k + 1}@127.0.0.1:{port}" for k, port in enumerate(controllers))
        copies = min(3, brokers)
        for k, (port, controller) in enumerate(zip(self.ports, controllers, strict=True)):
            self.properties(k).write_text(
                f"process.roles=broker,controller\nnode.id={k + 1}\ncontroller.quorum.voters={voters}\n"
                f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n"
                f"controller.listener.names=CONTROLLER\nlog.dirs={folder}/data-{k}\noffsets.topic.replication.factor={copies}\n"
                # a consumer may ask for a topic before ensure_topics has made it: then the broker makes it, by its own defaults
                f"default.replication.factor={copies}\nmin.insync.replicas={max(1, copies - 1)}\nnum.partitions=4\n"
                f"transaction.state.log.replication.factor={copies}\ntransaction.state.log.min.isr={max(1, copies - 1)}\n"
                # a starved machine is not a dead controller; a dead broker is told from a slow one in three seconds
                "controller.quorum.fetch.timeout.ms=6000\ncontroller.quorum.election.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\nbroker.session.timeout.ms=3000\n"
                "group.initial.rebalance.delay.ms=0\nmessage.max.bytes=67108864\nreplica.fetch.max.bytes=67108864\n"
            )
            self.java(k, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", self.properties(k)).wait(60)
        self.start()

    @property
    def port(self):
        return self.ports[0]

    @property
    def addresses(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def properties(self, k):
        return self.folder / f"server-{k}.properties"

    def java(self, k, *arguments):
        with (self.folder / f"server-{k}.log").open("a") as written:
            return subprocess.Popen(["java", "-Xmx512m", "-cp", f"{JARS}/*", *map(str, arguments)], stdout=written, stderr=subprocess.STDOUT, start_new_session=True)

    def start(self, *which):
        """Start brokers (all of them without a number) and wait until they listen."""
        chosen = which or range(len(self.ports))
        for k in chosen:
            self.processes[k] = self.java(k, "kafka.Kafka", self.properties(k))
        end = time.monotonic() + 60
        for k in chosen:
            while not listens(self.ports[k]):
                assert time.monotonic() < end, "Kafka did not start"
                time.sleep(0.1)

    def kill(self, *which):
        """Kill brokers with -9."""
        for k in which or range(len(self.ports)):
            os.killpg(self.processes[k].pid, signal.SIGKILL)
            self.processes[k].wait()

    def stop(self):
        """At once: a broker that is asked to leave waits for a quorum that is leaving too."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


    def out_of_step(self):
        """How many partitions, of all topics, have a replica that is not in step; -1 where no broker can say."""

        async def ask():
            admin = AIOKafkaAdminClient(bootstrap_servers=self.addresses, request_timeout_ms=5000)
            await admin.start()
            try:
                topics = await admin.describe_topics()
            finally:
                await admin.close()
            return sum(set(p["isr"]) != set(p["replicas"]) for topic in topics for p in topic["partitions"])

        try:
            return asyncio.run(asyncio.wait_for(ask(), 20))
        except (KafkaError, OSError, TimeoutError):
            return -1


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    found = Kafka(tmp_path_factory.mktemp("kafka"))
    yield found
    found.stop()


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
            kafka.kill()
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


def commanded(system, word):
    """Say it; what counts is what the deployment then is (an answer may be lost with its broker)."""
    try:
        system.api.call("PATCH", "/v1/deployments/d", {"state": word})
    except Refusal as error:
        print(word, error)
    return system.api.get("/v1/deployments/d")["state"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    found = Kafka(tmp_path_factory.mktemp("three"), brokers=3)
    yield found
    found.stop()


@pytest.mark.timeout(900)
def test_one_of_three_brokers_may_die_and_come_back_for_each_of_them_in_turn(three, tmp_path):
    system = start_system(tmp_path / "var", CHAMPION_KAFKA_URL=three.addresses)
    try:
        deploy_small(system, tmp_path)
        rng = random.Random(2)
        rows = 0
        for broker in range(3):
            for k in range(30):
                if k == 10:
                    three.kill(broker)
                body = {"rows": [{"x": rng.gauss(0, 1), "z": 0.1}] * 10, "association_ids": [f"{broker}-{k}-{j}" for j in range(10)]}
                assert system.api.post("/v1/deployments/d/predictions", body)["recorded"] is True
                rows += 10
                time.sleep(0.05)
            # commands go on with two brokers of three
            for word, state in (("pause", "paused"), ("resume", "active")):
                assert until(lambda word=word: commanded(system, word), state, 120) == state
            assert until(lambda: three.out_of_step() > 0, True)
            three.start(broker)
            one_each = [{"role": "challenger", "n": rows, "u": rows}, {"role": "champion", "n": rows, "u": rows}]
            assert until(lambda: system.sql("SELECT role, count() AS n, uniqExact(event_id) AS u FROM predictions GROUP BY role ORDER BY role"), one_each, 90) == one_each
            assert until(three.out_of_step, 0, 120) == 0  # its replicas catch up before the next one goes
        assert system.api.get("/v1/deployments/d/verify")["equal"]
    finally:
        stop(system.process)
