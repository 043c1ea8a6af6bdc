"""The join under load: `make bench-join`. Actuals by Kafka against a log of ten million predictions.

A producer writes one message an actual to the topic of outside actuals, for predictions picked at random over the
whole log; the latency of an actual is from its record's time to the first look that finds so many outcomes in the table
(first in, first out; a look each 200 ms). Sustained rates last a minute; the burst is produced as fast as the broker takes
it while the worker is stopped, and is then caught up with.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import orjson

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from aiokafka import AIOKafkaProducer  # noqa: E402

from benchmarks.keep import keep  # noqa: E402
from gateway.up import writer_key  # noqa: E402
from stream.clickhouse import EventLog  # noqa: E402
from stream.topics import ACTUALS  # noqa: E402
from tests.support import System, deploy_small, start_system, stop  # noqa: E402

PREDICTIONS = 10_000_000
PIECE = 500_000
RATES, SECONDS, BURST = (1_000, 5_000), 60, 300_000
LOOK = 0.2  # a look costs the engine that is measured
FILL = """INSERT INTO predictions_log (deployment, deployment_version, association_id, request_id, occurred_at, recorded_at, model_id, role, replay_id, features_num,
    predicted_value, predicted_class, probabilities, latency_us, event_id, source, sequence)
SELECT 'd', 1, hex(sipHash64(number)), toString(intDiv(number, 100)), at, at, '{model}', 'champion', '', map('x', x, 'z', randNormal(0, 1)),
    p, if(p > 0.5, '1', '0'), [1 - p, p], 100, concat('made.0.', toString(number), '.0'), 'made/0', number
FROM (SELECT number, now64(6) - toIntervalMillisecond(({whole} - number) * 2000) AS at, randNormal(0, 1) AS x, 1 / (1 + exp(-x)) AS p FROM numbers({first}, {count}))"""


def fill(system: System) -> None:
    """Ten million predictions of most of a year, straight into the log's table."""
    log = EventLog(f"http://127.0.0.1:{system.environment['CHAMPION_EVENTLOG_PORT']}", writer_key=writer_key(system.folder))
    model = system.api.get("/v1/deployments/d")["champion"]["model_id"]
    for first in range(0, PREDICTIONS, PIECE):
        log.command(FILL.format(model=model, whole=PREDICTIONS, first=first, count=PIECE), {"max_partitions_per_insert_block": 1000})


def identities(system: System, count: int, digit: int) -> list[str]:
    """Association ids of predictions picked at random, each once; other digits pick others."""
    found = system.sql(f"SELECT hex(sipHash64(number)) AS id FROM (SELECT DISTINCT toUInt64(rand64() % {PREDICTIONS // 10} * 10 + {digit}) AS number FROM numbers({count * 2})) LIMIT {count}")
    assert len(found) == count
    return [row["id"] for row in found]


async def produce(system: System, ids: list[str], rate: float, times: list[float]) -> None:
    """One message an actual, evenly at a rate (0: as fast as it goes); `times` gets when each was produced."""
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{system.environment['CHAMPION_BROKER_PORT']}", acks="all", linger_ms=5)
    await producer.start()
    begun = time.monotonic()
    try:
        for at in range(0, len(ids), 50):
            if rate:
                await asyncio.sleep(max(0.0, begun + at / rate - time.monotonic()))
            for association in ids[at : at + 50]:
                value = orjson.dumps({"deployment": "d", "association_id": association, "actual": random.getrandbits(1)})
                await producer.send(ACTUALS, value, key=association.encode())
            times.extend([time.monotonic()] * len(ids[at : at + 50]))
        await producer.flush()
    finally:
        await producer.stop()


def joined(system: System) -> int:
    """Outcomes in the table."""
    return int(system.sql("SELECT count() AS n FROM outcomes_log WHERE deployment = 'd'")[0]["n"])


def sustained(system: System, rate: int) -> dict[str, float]:
    """Latencies at a rate of actuals, in seconds."""
    ids, before, times, seen = identities(system, rate * SECONDS, RATES.index(rate)), joined(system), [], []
    producing = threading.Thread(target=lambda: asyncio.run(produce(system, ids, rate, times)))
    producing.start()
    while (count := joined(system) - before) < len(ids):
        seen.append((time.monotonic(), count))
        time.sleep(LOOK)
    seen.append((time.monotonic(), count))
    producing.join()
    at, counts = np.array(seen).T
    took = at[np.searchsorted(counts, np.arange(1, len(ids) + 1))] - np.array(times)
    return {"actuals": len(ids), "produced_per_second": len(ids) / (times[-1] - times[0]), **{f"p{q}_seconds": float(np.percentile(took, q)) for q in (50, 99)}, "worst_seconds": float(took.max())}


def catching_up(system: System) -> dict[str, float]:
    """Actuals a second that a worker joins which finds a heap of them."""
    ids, before = identities(system, BURST, 9), joined(system)
    worker = json.loads((system.folder / "run.json").read_text())["worker"]["pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        asyncio.run(produce(system, ids, 0, []))
    finally:
        os.kill(worker, signal.SIGKILL)  # the supervisor starts another
    first = (0.0, 0)
    while (count := joined(system) - before) < BURST:
        if count and not first[1]:
            first = (time.monotonic(), count)
        time.sleep(LOOK)
    return {"actuals": BURST, "joined_per_second": (BURST - first[1]) / (time.monotonic() - first[0])}


def main() -> None:
    """Everything; results beside the others."""
    with tempfile.TemporaryDirectory() as folder:
        system = start_system(Path(folder) / "var")
        try:
            deploy_small(system, Path(folder), shadows=())
            fill(system)
            found: dict[str, object] = {"predictions": system.sql("SELECT count() AS n FROM predictions_log")[0]["n"]}
            for rate in RATES:
                found[f"{rate} a second"] = sustained(system, rate)
                print(json.dumps(found, indent=1), flush=True)
            found["catching up"] = catching_up(system)
            begun = time.monotonic()
            found["accuracy"] = {"matched": system.api.get("/v1/deployments/d/accuracy")["totals"]["matched"], "seconds": time.monotonic() - begun}
            begun = time.monotonic()
            system.api.text("/deployments/d")
            found["the deployment's page"] = {"seconds": time.monotonic() - begun}
        finally:
            stop(system.process)
    print(json.dumps(found, indent=1))
    keep("join", found)


if __name__ == "__main__":
    main()
