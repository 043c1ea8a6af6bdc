"""Benchmarks of the stream's parts, each beside its bare loop in one run: `make bench-parts`.

worker: decode, append and drift fold of 15 features against decoding the messages and inserting the same rows, made
beforehand, into a plain table of the same columns without index or view.
journal: what keeping a request costs, in process; and the gateway's throughput with its journal beside one whose journal gives
numbers and keeps nothing, in alternation.
outage: the broker stands still while requests go on, dies, and all that the journal has kept is sent and appended.
models: microseconds a row of each of AutoPilot's models, alone and of sixteen together: what batching across requests could save.
start: a system that was killed with many rows in its log, until it serves and until its folds are back.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from benchmarks.run import load, pin  # noqa: E402
from gateway.demo import read_flights, thinned  # noqa: E402
from models.autopilot import run as autopilot  # noqa: E402
from models.baseline import freeze  # noqa: E402
from models.blueprints import REPOSITORY  # noqa: E402
from models.packaging import save_all  # noqa: E402
from models.preparation import Options, prepare  # noqa: E402
from models.registry import Artifacts, Registry  # noqa: E402
from models.scoring import Part, ScoringPlan  # noqa: E402
from models.table import Table, read_table  # noqa: E402
from stream import events  # noqa: E402
from stream.batches import Batch, decode, prediction_batches  # noqa: E402
from stream.clickhouse import EventLog  # noqa: E402
from stream.clock import now_us  # noqa: E402
from stream.engine import Engine, Raw  # noqa: E402
from stream.events import Event  # noqa: E402
from stream.journal import Journal  # noqa: E402
from stream.projections.catalog import Catalog  # noqa: E402
from stream.rows import column, event_ids, merge, shared_columns  # noqa: E402
from tests.support import FRONT, KEY, deploy_small, free_port, launch, start, start_system, stop  # noqa: E402

FEATURES, ROWS, EACH, ROUNDS = 15, 5000, 40, 5
MILLION = 1_000_000


class Known:
    """A follower that has folded what it was given."""

    def __init__(self, catalog: Catalog) -> None:
        """Hold the catalog."""
        self.catalog = catalog


def model(folder: Path) -> tuple[Registry, str, list[str]]:
    """A linear model of 15 numbers, frozen on its own rows."""
    rng = np.random.default_rng(0)
    names = [f"f{k}" for k in range(FEATURES)]
    x = rng.normal(size=(4000, FEATURES))
    columns = {n: pa.array(x[:, k]) for k, n in enumerate(names)}
    data = prepare(Table(pa.table({**columns, "y": pa.array((x[:, 0] + rng.normal(size=4000) > 0).astype(int))})), Options("y"))
    linear = next(b for b in REPOSITORY if b.name == "linear")
    plan = ScoringPlan(data.schema, (Part(linear.fit(data.schema, data.base, data.y, 0)),), [])
    registry = Registry(Artifacts(folder.as_uri()))
    return registry, registry.save(plan, freeze(data.schema, data.base, plan.predict(data.base)[:, 1]), {"importance": {}}), data.schema.names


def messages(name: str, digest: str, names: list[str], journal: str, first: int, count: int) -> list[bytes]:
    """Coalesced columnar messages, as a gateway under load makes them."""
    rng = np.random.default_rng(first)
    out = []
    for k in range(count):
        x = rng.normal(size=(ROWS, len(names)))
        p = rng.random(ROWS)
        record = {"k": "p", "d": name, "v": 1, "m": digest, "id": f"r{first + k}", "s": first + k, "p": 0, "t": now_us() + k, "ts": None, "a": [f"a{first + k}-{j}" for j in range(ROWS)],
                  "cols": {n: x[:, j].tolist() for j, n in enumerate(names)}, "y": p.tolist(), "k1": ["1"] * ROWS, "q": [[1 - v, v] for v in p.tolist()], "lat": 1.0, "c": ""}
        out.extend(prediction_batches([record], journal))
    return out


def predictions_of(batch: Batch) -> pa.Table:
    """A message's rows as the log's table has them."""
    rows = merge([batch])
    whole = {
        **shared_columns(batch, rows),
        "model_id": pa.array([batch.model_id] * len(rows)),
        "role": pa.array([batch.role] * len(rows)),
        "predicted_value": column(rows, "value"),
        "predicted_class": column(rows, "class"),
        "probabilities": column(rows, "probabilities"),
        "latency_us": column(rows, "latency_us"),
        "event_id": event_ids(rows),
    }
    return pa.table(whole)


@contextlib.contextmanager
def running_log(folder: Path) -> Iterator[EventLog]:
    """An event log in a process of its own, with its tables."""
    port = free_port()
    front = start(FRONT, folder / "log", port, KEY)
    try:
        log = EventLog(f"http://writer:{KEY}@127.0.0.1:{port}")
        log.wait(60)
        log.migrate()
        yield log
    finally:
        stop(front)


def catalog_of(digest: str, deployment: str) -> Catalog:
    """One model, deployed."""
    catalog = Catalog()
    catalog.apply(Event("m", 1, "b", "", events.ModelRegistered(digest, "p", "linear", "binary", "y", "log_loss", {})))
    catalog.apply(Event("d", 2, "b", deployment, events.DeploymentCreated(digest)))
    return catalog


def worker(folder: Path) -> dict[str, float]:
    """Rows a second of one core's worth of worker, and of the bare loop, in alternation."""
    registry, digest, names = model(folder / "artifacts")
    ours, bare, burnt = [], [], []
    with running_log(folder) as log:
        engine = Engine(log, registry, Known(catalog_of(digest, "bench")))  # type: ignore[arg-type]
        journal = uuid.uuid4().hex[:16]
        engine.cycle([Raw("predictions", 0, 0, m) for m in messages("bench", digest, names, journal, 1, 2)])
        for k in range(ROUNDS):
            sent = messages("bench", digest, names, journal, 10 + k * EACH, EACH)
            begun, spent = time.perf_counter(), time.process_time()
            for at in range(0, EACH, 8):
                engine.cycle([Raw("predictions", 0, 0, m) for m in sent[at : at + 8]])
            ours.append(EACH * ROWS / (time.perf_counter() - begun))
            burnt.append(EACH * ROWS / (time.process_time() - spent))
            log.command("CREATE TABLE IF NOT EXISTS bare AS predictions_log ENGINE = MergeTree ORDER BY (deployment, recorded_at, event_id)")
            tables = [predictions_of(decode(m)) for m in sent]
            begun = time.perf_counter()
            for at in range(0, EACH, 8):
                for m in sent[at : at + 8]:
                    decode(m)
                log.insert("bare", *tables[at : at + 8])
            bare.append(EACH * ROWS / (time.perf_counter() - begun))
    return {"rows_per_second": statistics.median(ours), "rows_per_second_of_worker_cpu": statistics.median(burnt), "bare_rows_per_second": statistics.median(bare), "ratio": statistics.median(a / b for a, b in zip(ours, bare, strict=True))}


def journal(folder: Path) -> dict[str, float]:
    """Microseconds to keep a request of one row and of a hundred, process and fsync."""
    rng = random.Random(0)  # noqa: S311
    row = {f"f{k}": rng.random() for k in range(FEATURES)}
    found = {}
    for fsync in (False, True):
        for rows in (1, 100):
            kept = Journal(folder / f"journal-{fsync}-{rows}", most=4 << 30, fsync=fsync)
            body = {"k": "p", "d": "d", "v": 1, "m": "m" * 64, "id": "r" * 24, "r0": 0, "ts": None, "a": ["a" * 24] * rows, "y": [0.5] * rows, "k1": ["yes"] * rows, "q": [[0.5, 0.5]] * rows, "lat": 50.0, "c": "local",
                    **({"rows": [row]} if rows == 1 else {"cols": {n: [v] * rows for n, v in row.items()}})}
            took = []
            for _ in range(300 if fsync else 5000):
                begun = time.perf_counter()
                kept.append(0, dict(body), now_us())
                took.append(time.perf_counter() - begun)
            found[f"{'fsync' if fsync else 'process'}, {rows} row{'s' if rows > 1 else ''}, median µs"] = statistics.median(took) * 1e6
            found[f"{'fsync' if fsync else 'process'}, {rows} row{'s' if rows > 1 else ''}, worst µs"] = max(took) * 1e6
            kept.close()
    return found


FORGETFUL = """
import stream.journal

def append(self, partition, record, now):
    sequence = self._sequences.get(partition, 0) + 1
    record.update(s=sequence, p=partition, t=now, z=100)
    self._sequences[partition] = sequence
    return sequence

stream.journal.Journal.append = append
"""


def price(folder: Path) -> dict[str, float]:
    """Requests of one row a second at 16 connections, with the journal and without, in alternation; the cheapest model, so the dearest journal."""
    (folder / "sitecustomize.py").write_text(FORGETFUL)
    systems = {"kept": start_system(folder / "kept"), "forgotten": start_system(folder / "forgotten", PYTHONPATH=str(folder))}
    try:
        for name, system in systems.items():
            (folder / f"files-{name}").mkdir()
            deploy_small(system, folder / f"files-{name}", shadows=())
            pin(system)
        body = json.dumps({"rows": [{"x": 0.25, "z": -1.5}]}).encode()
        rates: dict[str, list[float]] = {name: [] for name in systems}
        for k in range(2 * ROUNDS):
            for name in sorted(systems, reverse=k % 2 == 1):
                port = int(systems[name].environment["CHAMPION_PORT"])
                rates[name].append(load(port, "/v1/deployments/d/predictions", body, seconds=3.0)["requests_per_second"])
        cost = statistics.median(1 - kept / forgotten for kept, forgotten in zip(rates["kept"], rates["forgotten"], strict=True))
        return {"requests_per_second": statistics.median(rates["kept"]), "without_journal": statistics.median(rates["forgotten"]), "share_of_the_throughput": cost}
    finally:
        for system in systems.values():
            stop(system.process)


def outage(folder: Path) -> dict[str, float]:
    """Rows a second that come back from the journal after the broker was away."""
    system = start_system(folder / "var")
    try:
        deploy_small(system, folder)
        broker = json.loads((system.folder / "run.json").read_text())["broker"]["pid"]
        rng = np.random.default_rng(0)
        os.kill(broker, signal.SIGSTOP)
        for k in range(MILLION // 100):
            x = rng.normal(size=(100, 2)).tolist()
            system.api.post("/v1/deployments/d/predictions", {"rows": [{"x": a, "z": b} for a, b in x], "association_ids": [f"{k}-{j}" for j in range(100)]})
        waiting = sum(f.stat().st_size for f in (system.folder / "journal").rglob("*.seg"))
        os.kill(broker, signal.SIGKILL)
        begun, first = time.perf_counter(), 0.0
        while (count := system.sql("SELECT count() AS n FROM predictions_log WHERE role = 'champion'")[0]["n"]) < MILLION:
            first = first or (time.perf_counter() if count else 0.0)
            time.sleep(0.1)
        over = time.perf_counter()
        return {"rows": MILLION, "journal_bytes": waiting, "seconds_until_the_first": first - begun, "seconds_until_the_last": over - begun, "rows_per_second": MILLION / (over - begun), "rows_per_second_once_joined": MILLION / (over - first)}
    finally:
        stop(system.process)


def restart(folder: Path) -> dict[str, float]:
    """A million rows in the log, everything killed with -9, started again."""
    system = start_system(folder / "var")
    try:
        deploy_small(system, folder)
        rng = np.random.default_rng(0)
        begun, position = time.perf_counter(), ""
        for k in range(MILLION // 2 // 1000):  # champion and one challenger: two rows each
            x = rng.normal(size=(1000, 2)).tolist()
            position = system.api.post("/v1/deployments/d/predictions", {"rows": [{"x": a, "z": b} for a, b in x], "association_ids": [f"{k}-{j}" for j in range(1000)]})["position"]
        answered = time.perf_counter() - begun
        end = time.perf_counter() + 600
        while system.sql("SELECT count() AS n FROM predictions_log")[0]["n"] < MILLION and time.perf_counter() < end:
            time.sleep(0.2)
        drained = time.perf_counter() - begun
        parts = json.loads((system.folder / "run.json").read_text())
        os.kill(system.process.pid, signal.SIGKILL)
        system.process.wait()
        for part in parts.values():
            os.kill(part["pid"], signal.SIGKILL)
        time.sleep(1)
        begun = time.perf_counter()
        system = launch(system.folder, system.environment)
        ready = time.perf_counter() - begun
        position = system.api.post("/v1/deployments/d/predictions", {"rows": [{"x": 0.1, "z": 0.2}]})["position"]
        while True:
            try:
                system.api.get("/v1/deployments/d", after=position)
                break
            except Exception:  # noqa: BLE001, S110 - a bounded wait that was over
                pass
        return {"rows_in_the_log": MILLION, "answered_rows_per_second": MILLION / 2 / answered, "visible_rows_of_champion_and_challenger_per_second": MILLION / drained, "seconds_until_ready": ready, "seconds_until_a_new_row_is_folded": time.perf_counter() - begun, "position": len(position)}
    finally:
        stop(system.process)


def models(folder: Path) -> dict[str, dict[str, float]]:
    """Of each model of twenty thousand flights: a row by `predict_one`, and one of sixteen by `predict`."""
    whole = read_flights()
    file = folder / "flights.parquet"
    pyarrow.parquet.write_table(thinned(whole.filter(pc.less_equal(whole.column("month"), 6)), 20_000), file)
    options = Options("late", timestamp="time_hour", association_id="flight_id")
    table, registry = read_table(file.read_bytes()), Registry(Artifacts((folder / "artifacts").as_uri()))
    board = save_all(registry, table, list(autopilot(table, options, REPOSITORY))[-1], options, {})
    found = {}
    for item in board:
        plan = registry.load(item["model_id"]).plan
        rows = np.abs(np.random.default_rng(0).normal(size=(16, len(plan.schema.features))))
        first = rows[0].tolist()
        alone, together = median_us(lambda p=plan, r=first: p.predict_one(r)), median_us(lambda p=plan, r=rows: p.predict(r)) / len(rows)
        found[item["blueprint"]] = {"alone_us": alone, "of_sixteen_us": together}
    return found


def median_us(call: Callable[[], object]) -> float:
    """The median time of a call in microseconds."""
    took = []
    for _ in range(300):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


PARTS = {"worker": worker, "journal": journal, "price of the journal": price, "outage": outage, "restart": restart, "models": models}


def main() -> None:
    """Everything, or the parts that are named; results beside the others."""
    file = ROOT / "results" / "parts.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found["machine"] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    for name in sys.argv[1:] or PARTS:
        run = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run(Path(folder))
        print(name, json.dumps(found[name], indent=1), flush=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
