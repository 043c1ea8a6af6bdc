"""A storm: traffic of two deployments while everything is killed, paused and lied to; then the reckoning.

What the test sent and what it was told is kept here, in plain lists; at the end the log, the API and
`verify` must agree with it. Seeded: the same seed gives the same rows and the same schedule.
"""

import asyncio
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import psutil
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from aiokafka.errors import KafkaError

from gateway.client import Client, Refusal
from gateway.up import writer_key
from stream.broker import BrokerUnavailable, Producer
from stream.clickhouse import EventLog
from stream.errors import LogUnavailable, QueryRejected
from stream.topics import ACTUALS
from tests import independent
from tests.support import deploy_small, free_port, start_system, stop

NAMES = ("storm-a", "storm-b")
ROWS = 20
T0 = 1_700_000_000
AWAY = {0, 503, 504}
BOUNDS = {"gateway": 700, "worker": 1100, "worker-1": 1100, "trainer": 700, "broker": 2500}  # MB resident, in the short form


class Log:
    """The event log as a process of our own, behind a proxy that can answer errors."""

    def __init__(self, folder):
        self.folder, self.port, self.front = folder, free_port(), free_port()
        self.key = writer_key(folder)
        self.lying = False
        self.start()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()

    def start(self):
        environment = {**os.environ, "CHAMPION_DATA_DIR": str(self.folder), "CHAMPION_EVENTLOG_PORT": str(self.port)}
        self.process = subprocess.Popen([sys.executable, "-m", "gateway", "eventlog"], env=environment, start_new_session=True, stderr=subprocess.DEVNULL)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.start()

    def _serve(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._forward())

    async def _forward(self):
        session = ClientSession(timeout=ClientTimeout(total=120), auto_decompress=False)

        async def answer(request):
            if self.lying:
                return web.Response(status=500, text="Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)")
            headers = {k: v for k, v in request.headers.items() if k.lower() not in {"host", "content-length", "transfer-encoding"}}
            try:
                async with session.request(request.method, f"http://127.0.0.1:{self.port}{request.rel_url}", data=io.BytesIO(await request.read()), headers=headers) as found:
                    kept = {k: v for k, v in found.headers.items() if k.lower() not in {"content-length", "transfer-encoding", "connection"}}
                    return web.Response(status=found.status, body=await found.read(), headers=kept)
            except (ClientError, OSError):
                return web.Response(status=503, text="no event log behind this proxy")

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.front).start()
        await asyncio.Event().wait()

    @property
    def url(self):
        return f"http://writer:{self.key}@127.0.0.1:{self.front}"


@dataclass
class Kept:
    """What was sent to one deployment, and what was answered."""

    answered: dict = field(default_factory=dict)  # request id → [(association id, row, class, p)]
    maybe: dict = field(default_factory=dict)  # request ids without an answer → rows
    actuals: dict = field(default_factory=dict)  # fact id → (association id, actual, timestamp)
    held: list = field(default_factory=list)  # actuals for later


class Storm:
    """Traffic and faults."""

    def __init__(self, folder, *, seed, predictions, kafka=None, kills=3, pause=9.0, lie=30.0):
        self.seed, self.total, self.pause, self.lie = seed, predictions, pause, lie
        self.rng = random.Random(seed)
        self.log = Log(folder / "log")
        more = {"CHAMPION_KAFKA_URL": f"127.0.0.1:{kafka.port}"} if kafka else {}
        self.kafka = kafka
        self.system = start_system(folder / "var", CHAMPION_CLICKHOUSE_URL=self.log.url, CHAMPION_WORKER_PROCESSES="2", **more)
        self.address = f"127.0.0.1:{kafka.port if kafka else self.system.environment['CHAMPION_BROKER_PORT']}"
        deploy_small(self.system, folder, names=NAMES, shadows=("lightgbm", "extra_trees"))
        self.kept = {name: Kept() for name in NAMES}
        self.sent = 0
        self.produced = []  # (cluster, partition, offset, deployment, fact)
        self.places = {}  # fact id → where the brokers said it was
        self.queue, self.stopped = [], threading.Event()
        self.malformed = 0
        self.told = []
        self.kills = kills

    # traffic

    def client(self):
        return Client(f"http://127.0.0.1:{self.system.environment['CHAMPION_PORT']}", timeout=20)

    def send(self, name):
        """One deployment's requests, each until it is answered."""
        rng, api, kept = random.Random(f"{self.seed}-{name}"), self.client(), self.kept[name]
        for k in range(self.total // ROWS // len(NAMES)):
            ids = [f"{name}-{k}-{j}" for j in range(ROWS)]
            rows = [{"x": rng.gauss(0, 1), "z": rng.gauss(0, 1)} for _ in ids]
            facts = [self.fact(rng, i, row) for i, row in zip(ids, rows, strict=True)]
            early = [f for f in facts if rng.random() < 0.05]
            self.hand_in(rng, api, name, early)
            body = {"rows": rows, "association_ids": ids, "timestamps": [T0 + 7 * k] * ROWS}
            while True:
                request_id = uuid.uuid4().hex
                try:
                    answer = api.call("POST", f"/v1/deployments/{name}/predictions", body, headers={"X-Request-ID": request_id})
                except Refusal as error:
                    if error.status not in AWAY:
                        raise
                    kept.maybe[request_id] = list(zip(ids, rows, strict=True))
                    time.sleep(0.05)
                    continue
                assert answer["recorded"] is True
                kept.answered[request_id] = [(i, row, p["prediction"], p["probabilities"]["1"]) for i, row, p in zip(ids, rows, answer["predictions"], strict=True)]
                break
            self.sent += ROWS
            known = [f for f in facts if f not in early and rng.random() < 0.9]
            late = [f for f in known if rng.random() < 0.3]
            kept.held.extend(late)
            self.hand_in(rng, api, name, [f for f in known if f not in late])
            if k % 40 == 39:
                rng.shuffle(kept.held)
                self.hand_in(rng, api, name, kept.held[: len(kept.held) // 2])
                del kept.held[: len(kept.held) // 2]
        self.hand_in(rng, api, name, kept.held)

    @staticmethod
    def fact(rng, association, row):
        return {"association_id": association, "actual": int(row["x"] + rng.gauss(0, 0.7) > 0), "timestamp": T0 + rng.randrange(10**6), "id": f"f-{association}"}

    def hand_in(self, rng, api, name, facts):
        """Half by HTTP, half through Kafka; some twice, some corrected, some malformed beside them."""
        out = list(facts)
        for fact in facts:
            if rng.random() < 0.05:
                out.append(fact)
            if rng.random() < 0.02:
                out.append({**fact, "actual": 1 - fact["actual"], "timestamp": fact["timestamp"] + 10**6, "id": fact["id"] + "-corrected"})
        by_http = [f for f in out if rng.random() < 0.5]
        through = [f for f in out if f not in by_http]
        bad = sum(rng.random() < 0.01 for _ in out)
        self.malformed += bad
        self.queue.extend((name, f) for f in through)
        self.queue.extend((name, None) for _ in range(bad))
        for at in range(0, len(by_http), 500):
            part = by_http[at : at + 500]
            while True:
                try:
                    api.post(f"/v1/deployments/{name}/actuals", {"actuals": part})
                except Refusal as error:
                    if error.status not in AWAY:
                        raise
                    time.sleep(0.05)
                else:
                    break
            self.kept[name].actuals.update({f["id"]: f for f in part})

    async def produce(self):
        """What is for Kafka; a record whose broker forgot it before the log confirmed it is produced again."""
        producer = Producer(self.address, administer=4 if self.kafka else 0)
        cluster = ""
        looked = False  # whether the broker was looked at after the last fault
        while not (looked and not self.queue):
            try:
                over = self.stopped.is_set()
                if over:
                    await asyncio.sleep(0.5)
                now = await producer.check()
                if cluster and now != cluster:
                    self.again(cluster)
                cluster, looked = now, over
                part = self.queue[:200]
                ready = await producer._ready()
                sent = [await ready.send(ACTUALS, b"malformed" if fact is None else orjson.dumps({"deployment": name, **fact})) for name, fact in part]
                places = [await future for future in sent]
                if part and await producer.look() != cluster:
                    continue  # a record that was resent on old metadata may be acknowledged by a new broker and lost
                for (_, fact), done in zip(part, places, strict=True):
                    if fact is not None:
                        self.places.setdefault(fact["id"], []).append((cluster, done.partition, done.offset))
                self.produced.extend((cluster, done.partition, done.offset, name, fact) for (name, fact), done in zip(part, places, strict=True) if fact is not None)
                del self.queue[: len(part)]
                if not part:
                    await asyncio.sleep(0.05)
            except (BrokerUnavailable, KafkaError, OSError, TimeoutError):
                await asyncio.sleep(0.2)
        await producer.stop()

    def confirmed(self, cluster):
        """How far the log confirms an outside cluster, by partition."""
        log = EventLog(self.log.url)
        while True:
            try:
                rows = log.rows(f"SELECT source, sequence FROM log_progress WHERE startsWith(source, '{cluster}:{ACTUALS}:')")
                return {int(r["source"].rsplit(":", 1)[1]): int(r["sequence"]) for r in rows}
            except (LogUnavailable, QueryRejected):
                time.sleep(0.3)

    def again(self, cluster):
        reached = self.confirmed(cluster)
        lost = [r for r in self.produced if r[0] == cluster and r[2] + 1 > reached.get(r[1], 0)]
        self.told.append(f"{len(lost)} of {len(self.produced)} records that the broker forgot are produced again")
        self.produced = [r for r in self.produced if r not in lost] if len(lost) < 5000 else [r for r in self.produced if r[0] != cluster or r[2] + 1 <= reached.get(r[1], 0)]
        self.queue[:0] = [(name, fact) for _, _, _, name, fact in lost]

    # faults

    def pid(self, part):
        return json.loads((self.system.folder / "run.json").read_text())[part]["pid"]

    def schedule(self):
        faults = ["worker", "worker-1"] * self.kills + ["gateway"] * max(1, self.kills // 2) + ["publisher"] * max(1, self.kills // 2) + ["eventlog", "pause", "lie"]
        faults += ["broker"] * max(1, self.kills // 3) if self.kafka is None else ["kafka"]
        self.rng.shuffle(faults)
        moments = sorted(self.rng.uniform(0.05, 0.9) for _ in faults)
        return list(zip(moments, faults, strict=True))

    def strike(self, fault):
        if fault == "eventlog":
            self.log.kill()
        elif fault == "lie":
            self.log.lying = True
            time.sleep(self.lie)
            self.log.lying = False
        elif fault == "pause":
            pid = self.pid("worker")
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.pause)
            os.kill(pid, signal.SIGCONT)
        elif fault == "publisher":
            with contextlib.suppress(psutil.NoSuchProcess):  # the gateway may be down itself
                for child in psutil.Process(self.pid("gateway")).children():
                    child.kill()
        elif fault == "kafka":
            self.kafka.kill()
            time.sleep(5)
            self.kafka.start()
        else:
            os.kill(self.pid(fault), signal.SIGKILL)

    def run(self):
        """All traffic and all faults; answers what was done."""
        threads = [threading.Thread(target=self.guarded, args=(self.send, name)) for name in NAMES]
        producing = threading.Thread(target=self.guarded, args=(lambda: asyncio.run(self.produce()),))
        begun = time.monotonic()
        self.failed = []
        for thread in (*threads, producing):
            thread.start()
        for moment, fault in self.schedule():
            while self.sent < moment * self.total and any(t.is_alive() for t in threads):
                time.sleep(0.02)
            self.told.append(f"{fault} after {self.sent} rows, {time.monotonic() - begun:.0f} s")
            try:
                self.strike(fault)
            except (ProcessLookupError, OSError, KeyError, ValueError) as error:
                self.told.append(f"  {fault} was not there: {error}")
        for thread in threads:
            thread.join()
        self.stopped.set()
        producing.join()
        self.seconds = time.monotonic() - begun
        assert not self.failed, self.failed
        for _, _, _, name, fact in self.produced:
            self.kept[name].actuals[fact["id"]] = fact

    def guarded(self, call, *arguments):
        try:
            call(*arguments)
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            self.failed.append(repr(error))

    # the reckoning

    def frame(self, sql):
        end = time.monotonic() + 60
        while True:
            try:
                return EventLog(self.log.url).arrow(sql).to_pandas()
            except (LogUnavailable, QueryRejected):
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)

    def drain(self, seconds):
        """Wait until every answered request and accepted actual is in the tables."""
        begun = time.monotonic()
        missing = None
        while time.monotonic() - begun < seconds:
            missing = {}
            for name, kept in self.kept.items():
                there = set(self.frame(f"SELECT DISTINCT request_id FROM predictions WHERE deployment = '{name}' AND role = 'champion'")["request_id"])
                facts = set(self.frame(f"SELECT event_id FROM actuals WHERE deployment = '{name}'")["event_id"])
                counts = self.frame(f"SELECT role, count() AS n FROM outcomes WHERE deployment = '{name}' GROUP BY role").set_index("role")["n"].to_dict()
                wanted = self.frame(f"SELECT count() AS n FROM (SELECT association_id FROM predictions WHERE deployment = '{name}' AND role = 'champion') WHERE association_id IN (SELECT association_id FROM actuals WHERE deployment = '{name}')")["n"][0]
                lost = {fact: self.places.get(fact, "by HTTP") for fact in list(set(kept.actuals) - facts)[:20]}
                missing[name] = (len(set(kept.answered) - there), len(set(kept.actuals) - facts), {r: int(wanted - counts.get(r, 0)) for r in ("champion",)}, lost)
            if all(a == b == 0 and not any(c.values()) for a, b, c, _ in missing.values()):
                return time.monotonic() - begun
            time.sleep(0.5)
        raise AssertionError(f"not in the log after {seconds} s (requests, actuals, outcomes, where some actuals were): {missing}")

    def wait_until_ready(self, seconds):
        """The last kill may have been a moment ago."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.client().get("/health/ready")["ready"]:
                    return
            except Refusal:
                pass
            time.sleep(0.2)
        raise AssertionError("the gateway did not come back")

    def reckon(self, name):
        """Everything that can be asked of one deployment, against what was sent."""
        kept = self.kept[name]
        rows = self.frame(f"SELECT request_id, association_id, role, model_id, predicted_class, predicted_value, event_id FROM predictions WHERE deployment = '{name}'")
        assert rows["event_id"].is_unique
        champion = rows[rows.role == "champion"]
        counts = champion.groupby("request_id").size()
        assert set(counts.index) <= set(kept.answered) | set(kept.maybe)
        assert (counts == ROWS).all(), "a request is in the log in part, or twice"
        for model, part in rows[rows.role == "challenger"].groupby("model_id"):
            assert len(part) == len(champion), (model, "challenger and champion have other rows")
        assert rows[rows.role == "challenger"]["model_id"].nunique() == 2
        sent = pd.DataFrame([(r, i, c, p) for r, answers in kept.answered.items() for i, _, c, p in answers], columns=["request_id", "association_id", "said", "p"])
        both = champion.merge(sent, on=["request_id", "association_id"])
        assert len(both) == len(sent)
        assert (both.predicted_class == both.said).all()
        assert (both.predicted_value == both.p).all()
        self.reckon_outcomes(name, kept, champion)
        self.reckon_drift(name, kept, champion)

    def reckon_outcomes(self, name, kept, champion):
        facts = pd.DataFrame(kept.actuals.values())
        stored = self.frame(f"SELECT event_id, actual, association_id FROM actuals WHERE deployment = '{name}'")
        assert stored["event_id"].is_unique
        assert set(stored["event_id"]) == set(facts["id"])
        latest = facts.sort_values(["timestamp", "id"]).groupby("association_id").tail(1)
        joined = independent.join(champion[["association_id", "predicted_value", "event_id"]].to_dict("records"), latest[["association_id", "actual"]].to_dict("records"))
        outcomes = self.frame(f"SELECT event_id, actual_class FROM outcomes WHERE deployment = '{name}' AND role = 'champion'")
        merged = joined.merge(outcomes, on="event_id")
        assert len(merged) == len(joined) == len(outcomes)
        assert (merged.actual.astype(str) == merged.actual_class).all()
        totals = self.client().get(f"/v1/deployments/{name}/accuracy", bucket="1d")["totals"]
        assert totals["matched"] == len(joined)
        frame = joined.rename(columns={"predicted_value": "p"})
        assert np.isclose(totals["metrics"]["log_loss"]["value"], independent.log_loss(frame, 1), rtol=1e-9, atol=0)

    def reckon_drift(self, name, kept, champion):
        api = self.client()
        model_id = api.get(f"/v1/deployments/{name}")["champion"]["model_id"]
        model = independent.load_model(self.system.folder / "artifacts" / "packages" / f"{model_id}.zip")
        inputs = dict(kept.maybe) | {r: [(i, row) for i, row, *_ in answers] for r, answers in kept.answered.items()}
        by_id = {(r, i): row for r, pairs in inputs.items() for i, row in pairs}
        rows = [{"features": by_id[(r, i)], "predicted_value": p} for r, i, p in zip(champion.request_id, champion.association_id, champion.predicted_value, strict=True)]
        expected = independent.drift(rows, model)
        answer = api.get(f"/v1/deployments/{name}/drift", bucket="1d")
        for found in [*answer["totals"]["features"], answer["totals"]["prediction"]]:
            assert {b["label"]: b["production"] for b in found["bins"]} == expected[found["name"]][0], found["name"]

    def resident(self):
        """Megabytes of each part."""
        found = {}
        for name, part in json.loads((self.system.folder / "run.json").read_text()).items():
            status = Path(f"/proc/{part['pid']}/status").read_text()
            found[name] = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024
        return found

    def stop(self):
        """Stop everything; answers processes that were left behind."""
        pids = [part["pid"] for part in json.loads((self.system.folder / "run.json").read_text()).values()]
        stop(self.system.process)
        stop(self.log.process)
        return [pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()]


