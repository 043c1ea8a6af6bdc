"""What a dashboard asks of a month of ten million rows, and accuracy over a million outcomes: `make bench-questions`.

The rows are put straight into the log's tables, and what the worker maintains of each minute is made from them as it makes lost counts again. Each
question is asked over HTTP on an idle system, once unheard and then as often as ROUNDS; medians. Texts: what a value costs the count of drift.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from benchmarks.keep import keep  # noqa: E402
from gateway.up import writer_key  # noqa: E402
from models.baseline import freeze  # noqa: E402
from models.registry import Artifacts, Registry  # noqa: E402
from models.schema import Feature, Schema, Target  # noqa: E402
from stream.clickhouse import EventLog  # noqa: E402
from stream.projections.drift import DriftFold  # noqa: E402
from stream.rebuild import rebuild  # noqa: E402
from tests.support import System, deploy_small, start_system, stop  # noqa: E402

ROWS, PIECE, MATCHED, DAYS, ROUNDS = 10_000_000, 500_000, 1_000_000, 30, 7
EACH = 100  # rows a request
PARTITION, PARTITIONS = 9, 4  # one that no worker has taken
ROW = """'d' AS deployment, 1 AS deployment_version, toString(number) AS association_id, toString(intDiv(number, {each})) AS request_id, at AS occurred_at, at AS recorded_at, '{model}' AS model_id,
    'champion' AS role, '' AS replay_id, map('x', x, 'z', randNormal(0, 1)) AS features_num, p AS predicted_value, if(p > 0.5, '1', '0') AS predicted_class, [1 - p, p] AS probabilities,
    toFloat32(100 + rand() % 900) AS latency_us, concat('made.{partition}.', toString(intDiv(number, {each})), '.', toString(number % {each})) AS event_id"""
FROM = """FROM (SELECT number, toDateTime64('2026-01-01', 6, 'UTC') + toIntervalMicrosecond(number * {step}) AS at, randNormal(0, 1) AS x, 1 / (1 + exp(-x)) AS p FROM numbers({first}, {count}))"""
NAMES = "deployment, deployment_version, association_id, request_id, occurred_at, recorded_at, model_id, role, replay_id, features_num, predicted_value, predicted_class, probabilities, latency_us, event_id"
LAST = "2026-01-28"  # its last three days are the last million rows
MONTH = {"from": "2026-01-01", "to": "2026-01-31", "bucket": "1d"}


def fill(system: System) -> None:
    """A month of predictions, the outcomes of the newest million, and the counts of each minute."""
    log = EventLog(f"http://127.0.0.1:{system.environment['CHAMPION_EVENTLOG_PORT']}", writer_key=writer_key(system.folder), timeout=600)
    model = system.api.get("/v1/deployments/d")["champion"]["model_id"]
    step = DAYS * 86_400_000_000 // ROWS
    whole = {"max_partitions_per_insert_block": 1000}
    row = ROW.format(each=EACH, model=model, partition=PARTITION)
    for first in range(0, ROWS, PIECE):
        log.command(f"INSERT INTO predictions_log ({NAMES}, source, sequence) SELECT {row}, 'made/{PARTITION}', intDiv(number, {EACH}) {FROM.format(step=step, first=first, count=PIECE)}", whole)
    for first in range(ROWS - MATCHED, ROWS, PIECE):
        log.command(
            f"INSERT INTO outcomes_log ({NAMES}, actual_class, actual_value, actual_at, actual_received_at, actual_event_id, retracted, rank) SELECT {row}, if(randUniform(0, 1) < p, '1', '0'), NULL, at, at, event_id, false, 1 {FROM.format(step=step, first=first, count=PIECE)}",
            whole,
        )
    while int(log.rows("SELECT count() AS n FROM system.merges")[0]["n"]):  # a month that has come row by row has been merged long since
        time.sleep(0.5)
    log.command(f"INSERT INTO log_progress_log VALUES ('made/{PARTITION}', {ROWS // EACH}, now64(6))")
    fold = DriftFold(PARTITION, PARTITIONS, log)
    rebuild(fold, log, Registry(Artifacts(f"file://{system.folder}/artifacts")))


def texts() -> dict[str, float]:
    """Microseconds a value from a message's column to its bin, in blocks of 500 rows as the worker has them: as the dictionaries that messages bring, and as bare texts."""
    rng, block = np.random.default_rng(0), 500
    levels = tuple(f"level {k}" for k in range(200))
    schema = Schema(Target("y", "binary", ("0", "1"), "1"), (Feature("c", "categorical", levels),))
    baseline = freeze(schema, rng.integers(0, 200, (20_000, 1)).astype(float), rng.random(20_000))
    blocks = [pa.array([levels[k] for k in rng.integers(0, 200, block)]) for _ in range(400)]
    found = {}
    for name, columns in (("dictionary", [b.dictionary_encode() for b in blocks]), ("plain", blocks)):
        took = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            for column in columns:
                baseline.features[0].place(schema.encode_columns({"c": column})[:, 0])
            took.append(time.perf_counter() - begun)
        found[name] = statistics.median(took) / len(blocks) / block * 1e6
    return found


def main() -> None:
    """Everything; results beside the others."""
    found: dict[str, object] = {"rows": ROWS, "text_us_per_value": texts()}
    with tempfile.TemporaryDirectory() as folder:
        system = start_system(Path(folder) / "var")
        try:
            deploy_small(system, Path(folder), shadows=())
            fill(system)
            d = "/v1/deployments/d"
            over_time = "SELECT toStartOfDay(minute) AS at, baseline_id, sumForEach(sums) AS sums FROM drift_counts WHERE deployment = 'd' GROUP BY ALL ORDER BY at"
            scan = "SELECT toStartOfDay(occurred_at) AS at, count() AS rows, avg(predicted_value) AS mean FROM predictions WHERE deployment = 'd' AND role = 'champion' GROUP BY at ORDER BY at"
            questions = {
                "drift by day": lambda: system.api.get(f"{d}/drift", **MONTH),
                "data quality": lambda: system.api.get(f"{d}/data-quality", **MONTH),
                "predictions by day": lambda: system.sql(over_time),
                "predictions by day, a scan of all rows": lambda: system.sql(scan),
                "service health by day": lambda: system.api.get(f"{d}/service-health", latency="sketched", **MONTH),
                "service health by day, latencies exact": lambda: system.api.get(f"{d}/service-health", **MONTH),
                "accuracy of a million outcomes": lambda: system.api.get(f"{d}/accuracy", **{**MONTH, "from": LAST}),
                "accuracy of the month, a million of its outcomes known": lambda: system.api.get(f"{d}/accuracy", **MONTH),
                "the deployment's page": lambda: system.api.text("/deployments/d"),
            }
            for name, ask in questions.items():
                took = []
                for _ in range(ROUNDS + 1):
                    begun = time.perf_counter()
                    answer = ask()
                    took.append(time.perf_counter() - begun)
                found[name] = {"first_seconds": round(took[0], 3), "seconds": round(statistics.median(took[1:]), 3)}
                if name.startswith("accuracy of a"):
                    found["matched"], found["metrics"] = answer["totals"]["matched"], len(answer["totals"]["metrics"])
                print(name, found[name], flush=True)
        finally:
            stop(system.process)
    print(json.dumps(found, indent=1))
    keep("questions", found)


if __name__ == "__main__":
    main()
