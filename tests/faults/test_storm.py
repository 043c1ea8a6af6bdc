"""The fault suite: `make faults` (SEED=… ROWS=… KILLS=… KAFKA=1); its short form runs in CI."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.faults.storm import BOUNDS, NAMES, Storm

SEED = int(os.environ.get("SEED") or time.time_ns() % 10**6)
ROWS = int(os.environ.get("ROWS") or 50_000)
KILLS = int(os.environ.get("KILLS") or 3)


def broker_of(folder):
    """A real Apache Kafka; its jars come with `make test-kafka`."""
    from tests.kafka.test_kafka import PRESENT, Kafka

    assert PRESENT, "no Kafka jars: run `make test-kafka` first"
    (folder / "kafka").mkdir()
    return Kafka(folder / "kafka")


@pytest.mark.storm
@pytest.mark.timeout(0)
def test_nothing_is_lost_or_counted_twice_in_the_storm(tmp_path):
    print(f"seed {SEED}, {ROWS} predictions")
    kafka = broker_of(tmp_path) if os.environ.get("KAFKA") else None
    storm = Storm(tmp_path, seed=SEED, predictions=ROWS, kills=KILLS, kafka=kafka, lie=30.0 if ROWS > 50_000 else 12.0)
    left = None
    try:
        storm.run()
        drained = storm.drain(120 if ROWS <= 50_000 else 1200)
        storm.wait_until_ready(60)
        for name in NAMES:
            storm.reckon(name)
            found = storm.client().get(f"/v1/deployments/{name}/verify")
            assert found["equal"], found
        resident = storm.resident()
        assert storm.system.api.get("/health/ready")["ready"]
        print("\n".join(storm.told))
        report = {"seed": SEED, "broker": "Apache Kafka" if kafka else "embedded", "rows": ROWS, "seconds": round(storm.seconds, 1), "drained": round(drained, 1), "resident_mb": resident, "told": storm.told}
        if os.environ.get("REPORT"):
            with Path(os.environ["REPORT"]).open("a") as out:
                out.write(json.dumps(report) + "\n")
        over = {part: size for part, size in resident.items() if size > BOUNDS[part]}
        assert not over or ROWS > 50_000, over
    finally:
        left = storm.stop()
        if kafka is not None:
            kafka.stop()
    assert not left
