"""Benchmarks of acting: `make bench-acting`.

webhook: from the row that trips a rule to the webhook that is told.
learning: an online challenger through the worker (stored order, join, lesson) beside River's own loop on the same rows.
frame: stored requests as a training frame of 15 numbers, beside reading the same columns as Arrow.
"""

from __future__ import annotations

import http.server
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from benchmarks.keep import keep  # noqa: E402

sys.path.insert(0, str(ROOT))
from parts import Known, catalog_of, messages, model, running_log  # noqa: E402

from models.online import LEARNERS, Learner, read_learner, river_model  # noqa: E402
from models.registry import Artifacts, Registry  # noqa: E402
from models.schema import Feature, Schema, Target  # noqa: E402
from stream import events  # noqa: E402
from stream.batches import actual_batches  # noqa: E402
from stream.clickhouse import DICTIONARIES, EventLog  # noqa: E402
from stream.engine import Engine, Raw  # noqa: E402
from stream.events import Event  # noqa: E402
from stream.jobs.training_set import with_columns  # noqa: E402
from tests.support import deploy_small, start_system, stop  # noqa: E402

ROUNDS, TRIALS = 3, 9
HALF_A_MILLION = 500_000


def webhook(folder: Path) -> dict[str, float]:
    """Seconds from sending four hundred shifted rows to the webhook's message, a deployment a trial."""
    told: dict[str, float] = {}

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.setdefault(body["deployment"], time.perf_counter())
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = [f"d{k}" for k in range(TRIALS)]
    system = start_system(folder / "var")
    took = []
    try:
        deploy_small(system, folder, names=names, shadows=())
        system.api.call("PUT", "/v1/channels/hook", {"kind": "webhook", "url": f"http://127.0.0.1:{server.server_port}/"})
        rng = random.Random(0)  # noqa: S311 - a seeded stream
        for name in names:
            system.api.call("PUT", f"/v1/deployments/{name}/alert-rules/drifting", {"measure": "drift.psi", "above": 0.5, "window": "1h", "channels": ["hook"]})
            time.sleep(2)
            rows = [{"x": rng.gauss(3, 1), "z": rng.gauss(0, 1)} for _ in range(400)]
            begun = time.perf_counter()
            system.api.post(f"/v1/deployments/{name}/predictions", {"rows": rows})
            while name not in told and time.perf_counter() - begun < 60:
                time.sleep(0.01)
            took.append(told.get(name, float("inf")) - begun)
    finally:
        stop(system.process)
        server.shutdown()
    return {"median_seconds": statistics.median(took), "worst_seconds": max(took)}


def learning(folder: Path) -> dict[str, dict[str, float]]:
    """Rows a second of River's own loop, of our learner, and of the worker's whole cycle with join and stored order."""
    registry, digest, names = model(folder / "artifacts")
    registry = Registry(Artifacts(registry.artifacts.url), b"benchmark")
    schema = Schema(Target("y", "binary", ("0", "1"), "1"), tuple(Feature(n, "numeric") for n in names))
    rng = np.random.default_rng(0)
    base = rng.normal(size=(10_000, len(names)))
    labels = ["1" if v > 0 else "0" for v in base[:, 0] + rng.normal(size=len(base))]
    found: dict[str, dict[str, float]] = {}
    with running_log(folder) as log:
        for kind in LEARNERS:
            parameters = read_learner(kind, {}, schema.target)
            rates: dict[str, list[float]] = {"river": [], "ours": [], "worker": []}
            for number in range(ROUNDS):
                own = river_model(kind, parameters, schema.target)
                rows = [dict(zip(names, values, strict=True)) for values in base.tolist()]
                begun = time.perf_counter()
                for row, label in zip(rows, labels, strict=True):
                    own.learn_one(row, label == "1")
                rates["river"].append(len(base) / (time.perf_counter() - begun))
                learner = Learner(kind, parameters, schema)
                begun = time.perf_counter()
                learner.learn(base, labels)
                rates["ours"].append(len(base) / (time.perf_counter() - begun))
                rates["worker"].append(through_the_worker(log, registry, digest, names, kind, f"{kind}-{number}"))
            found[kind] = {name: statistics.median(r) for name, r in rates.items()}
            found[kind] |= {"ours_to_river": found[kind]["ours"] / found[kind]["river"], "worker_to_river": found[kind]["worker"] / found[kind]["river"]}
    return found


def through_the_worker(log: EventLog, registry: Registry, digest: str, names: list[str], kind: str, deployment: str) -> float:
    """Actuals a second from message to taught learner: append, join, stored order, lesson."""
    catalog = catalog_of(digest, deployment)
    journal = uuid.uuid4().hex[:16]
    engine = Engine(log, registry, Known(catalog))  # type: ignore[arg-type]
    engine.cycle([Raw("predictions", 0, 0, m) for m in messages(deployment, digest, names, journal, 1, 2)])
    catalog.apply(Event("o", 3, "b", deployment, events.OnlineChallengerAdded("online-" + deployment, kind, read_learner(kind, {}, registry.load(digest).schema.target))))
    ids = [f"a{k}-{j}" for k in (1, 2) for j in range(5000)]
    sent = [{"k": "a", "d": deployment, "s": 100 + at, "p": 0, "t": 1_800_000_000_000_000 + at, "rows": [(i, str(hash(i) & 1), None, f"f{i}") for i in ids[at : at + 2000]]} for at in range(0, len(ids), 2000)]
    raws = [Raw("actuals", 0, k, m) for k, m in enumerate(actual_batches(sent, journal))]
    begun = time.perf_counter()
    engine.cycle(raws)
    return len(ids) / (time.perf_counter() - begun)


def frame(folder: Path) -> dict[str, float]:
    """Rows a second: the maps as Arrow, made into columns, both; and the whole query of a training set's rows before its join."""
    registry, digest, names = model(folder / "artifacts")
    catalog = catalog_of(digest, "bench")
    package, journal = registry.load(digest), uuid.uuid4().hex[:16]
    with running_log(folder) as log:
        engine = Engine(log, registry, Known(catalog))  # type: ignore[arg-type]
        for k in range(HALF_A_MILLION // 50_000):
            engine.cycle([Raw("predictions", 0, 0, m) for m in messages("bench", digest, names, journal, 1 + 10 * k, 10)])
        sql = "SELECT association_id, occurred_at, features_num, features_cat, predicted_value AS actual_value, predicted_class AS actual_class FROM predictions_log WHERE deployment = 'bench'"
        read, made, whole = [], [], []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            found = log.arrow(sql, settings=DICTIONARIES)
            arrived = time.perf_counter()
            table = with_columns(found, package)
            done = time.perf_counter()
            assert isinstance(table, pa.Table)
            assert len(table) == HALF_A_MILLION
            read.append(len(found) / (arrived - begun))
            made.append(len(found) / (done - arrived))
            whole.append(len(found) / (done - begun))
    return {"arrow_rows_per_second": statistics.median(read), "maps_to_columns_rows_per_second": statistics.median(made), "frame_rows_per_second": statistics.median(whole)}


def main() -> None:
    """Everything; results beside the others."""
    found = {}
    for name, run in (("webhook", webhook), ("learning", learning), ("frame", frame)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run(Path(folder))
        print(name, json.dumps(found[name], indent=1), flush=True)
    keep("acting", found)


if __name__ == "__main__":
    main()
