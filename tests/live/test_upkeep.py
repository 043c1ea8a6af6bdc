"""A system of its own with two workers: time travel, segments, erasure, letters, retention."""

import asyncio
import json
import os
import random
import signal
import time

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.client import Refusal
from models.metrics import METRICS
from stream.broker import Producer
from stream.topics import ACTUALS
from tests.support import deploy_small, start_system, stop


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upkeep")
    system = start_system(folder / "var", CHAMPION_WORKER_PROCESSES="2", CHAMPION_LOG_RETENTION_DAYS="30")
    deploy_small(system, folder)
    yield system
    stop(system.process)


def champion(world, *arguments):
    done = CliRunner().invoke(main, arguments, env={"CHAMPION_URL": f"http://127.0.0.1:{world.environment['CHAMPION_PORT']}", "COLUMNS": "200"}, catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def history(world):
    """Two batches of predictions with outcomes, and the moment between them."""
    rng = random.Random(5)
    sent = []
    between = ""
    for k in range(40):
        rows = [{"x": rng.gauss(0, 1), "z": rng.gauss(0, 1)} for _ in range(5)]
        ids = [f"h{k}-{j}" for j in range(5)]
        answer = world.api.call("POST", "/v1/deployments/d/predictions", {"rows": rows, "association_ids": ids}, headers={"X-Consumer": "web" if k % 2 else "batch"})
        body = {"actuals": [{"association_id": i, "actual": int(row["x"] > 0), "id": f"f{i}"} for i, row in zip(ids, rows, strict=True)]}
        position = world.api.post("/v1/deployments/d/actuals", body)["position"]
        sent += [(i, row, p["probabilities"]["1"], int(row["x"] > 0), k) for i, row, p in zip(ids, rows, answer["predictions"], strict=True)]
        if k == 19:
            world.api.get("/v1/deployments/d", after=position)
            time.sleep(0.05)
            between = world.sql("SELECT toString(now64(6, 'UTC')) AS t")[0]["t"].replace(" ", "T")
            time.sleep(0.05)
    world.api.get("/v1/deployments/d", after=position)
    assert world.settle("d", 400) == 400
    return sent, between


def log_loss(rows):
    p = np.array([[1 - r[2], r[2]] for r in rows])
    return METRICS["log_loss"].function(np.array([r[3] for r in rows]), p)


def test_the_numbers_of_a_past_moment_are_those_that_were_known_then(world, history):
    sent, between = history
    then = [r for r in sent if r[4] < 20]
    found = world.api.get("/v1/deployments/d/accuracy", as_of=between)["totals"]
    assert (found["rows"], found["matched"]) == (100, 100)
    assert found["metrics"]["log_loss"]["value"] == pytest.approx(log_loss(then), rel=1e-9)
    drift = world.api.get("/v1/deployments/d/drift", as_of=between)
    assert {f["rows"] for f in drift["totals"]["features"]} == {100}
    assert world.api.get("/v1/deployments/d/service-health", as_of=between)["totals"]["rows"] == 100
    now = world.api.get("/v1/deployments/d/drift")["totals"]["features"]
    again = world.api.get("/v1/deployments/d/drift", as_of="2100-01-01")["totals"]["features"]
    assert [(f["psi"], f["bins"]) for f in now] == [(f["psi"], f["bins"]) for f in again]  # online equals recounted
    code, text = champion(world, "status", "d", "--at", between)
    assert code == 0
    assert "100" in text


def test_a_deployment_is_shown_as_it_was(world, history):
    models = {m["blueprint"]: m["model_id"] for m in world.api.items("/v1/models")}
    world.api.call("PUT", "/v1/deployments/d/champion", {"model_id": models["random_forest"], "reason": "try"})
    assert world.api.get("/v1/deployments/d")["version"] == 3
    then = world.api.get("/v1/deployments/d", as_of=history[1])
    assert then["version"] == 2
    assert then["champion"]["blueprint"] == "linear"
    assert then["numbers"]["rows"] == 100
    with pytest.raises(Refusal) as found:
        world.api.get("/v1/deployments/d", as_of="2001-01-01")
    assert found.value.code == "unknown_deployment"
    world.api.call("PUT", "/v1/deployments/d/champion", {"model_id": models["linear"], "reason": "back"})


@pytest.mark.parametrize(
    ("segment", "keep"),
    [("x>=0.5", lambda r: r[1]["x"] >= 0.5), ("consumer=web", lambda r: r[4] % 2 == 1), ("x<0,consumer=batch", lambda r: r[1]["x"] < 0 and r[4] % 2 == 0), ("sql:predicted_value > 0.5", lambda r: r[2] > 0.5)],
)
def test_a_segment_is_its_rows(world, history, segment, keep):
    rows = [r for r in history[0] if keep(r)]
    found = world.api.get("/v1/deployments/d/accuracy", segment=segment)["totals"]
    assert found["matched"] == len(rows)
    assert found["match_rate"] == 1
    assert found["metrics"]["log_loss"]["value"] == pytest.approx(log_loss(rows), rel=1e-9)
    drift = world.api.get("/v1/deployments/d/drift", segment=segment)["totals"]["features"]
    assert {f["rows"] for f in drift} <= {len(rows), 0}


@pytest.mark.parametrize("segment", ["nonsense", "x>abc", "sql:", "sql:no_such_column = 1", "sql:1) OR (1"])
def test_a_segment_that_cannot_be_read_says_why(world, history, segment):
    with pytest.raises(Refusal) as found:
        world.api.get("/v1/deployments/d/accuracy", segment=segment)
    assert found.value.code in {"wrong_segment", "query_rejected"}


def test_label_delay_is_measured(world, history):
    delay = world.api.get("/v1/deployments/d/accuracy")["totals"]["label_delay_seconds"]
    assert set(delay) == {"known_p50", "known_p95", "received_p50", "received_p95"}
    assert all(0 <= v < 600 for v in delay.values())


def test_an_association_id_is_erased_by_a_command_and_the_numbers_still_agree(world, history):
    code, text = champion(world, "erase", "d", "--association-id", "h3-1", "--yes", "--json")
    assert code == 0, text
    assert json.loads(text)[0]["rows"] == 2
    assert world.sql("SELECT count() AS n FROM predictions WHERE association_id = 'h3-1'") == [{"n": 0}]
    assert world.sql("SELECT count() AS n FROM actuals WHERE association_id = 'h3-1'") == [{"n": 0}]
    assert world.api.get("/v1/deployments/d/verify")["equal"]
    end, told = time.monotonic() + 10, []
    while not told and time.monotonic() < end:
        told = world.api.get("/v1/events", type="data_erased")["items"]
    assert told[0]["payload"]["rows"] == 2
    assert "h3-1" not in json.dumps(told)
    with pytest.raises(Refusal) as found:
        world.api.post("/v1/deployments/d/erasures", {"everything": True})
    assert found.value.code == "in_use"
    with pytest.raises(Refusal) as found:
        world.api.post("/v1/deployments/d/erasures", {})
    assert found.value.code == "missing_field"


def test_a_training_set_is_made_again_byte_for_byte_and_after_an_erasure_row_for_row(world, history):
    world.api.call("PUT", "/v1/deployments/d/policies/once", {"action": "register", "mode": "quick"})
    run = world.api.post("/v1/deployments/d/policies/once/runs")["run_id"]
    end, outcome = time.monotonic() + 90, "under way"
    while outcome == "under way" and time.monotonic() < end:
        outcome = world.api.get("/v1/deployments/d/policies")["items"][0]["runs"][0]["outcome"]
        time.sleep(0.3)
    assert outcome == "registered"
    path = f"/v1/projects/{run}/training-set/rebuild"
    found = world.api.post(path)
    assert found["equal"]
    assert found["rebuilt"] == found["recorded"]
    erased = world.api.post("/v1/deployments/d/erasures", {"association_id": "h5-2"})
    world.api.get("/v1/deployments/d", after=erased["position"])
    found = world.api.post(path)
    assert (found["equal"], found["rows_erased"], found["rows"]) == (True, 1, found["recorded_rows"] - 1)
    with pytest.raises(Refusal) as refused:
        world.api.post(f"/v1/projects/{world.api.get('/v1/projects')['items'][-1]['project_id']}/training-set/rebuild")
    assert refused.value.code == "no_training_set"


def test_bad_messages_are_listed_counted_and_sent_again_after_a_fix(world, history):
    bad = [b"nonsense", orjson.dumps({"deployment": "d", "actual": 1}), b"\xff\x00"]

    async def produce():
        producer = Producer(f"127.0.0.1:{world.environment['CHAMPION_BROKER_PORT']}")
        await producer.send(ACTUALS, bad)
        await producer.stop()

    asyncio.run(produce())
    end, letters = time.monotonic() + 30, []
    while len(letters) < 3 and time.monotonic() < end:
        letters = world.api.get("/v1/dead-letters", topic="actuals")["items"]
        time.sleep(0.2)
    assert sorted(r["size"] for r in letters) == sorted(map(len, bad))
    code, text = champion(world, "dead-letters", "--topic", "actuals", "--json")
    assert code == 0
    assert any("association_id" in letter["reason"] for letter in json.loads(text))
    told = world.api.get("/v1/events", type="dead_lettered")["items"]
    assert sum(e["payload"]["count"] for e in told) == 3
    code, text = champion(world, "dead-letters", "--id", letters[0]["letter_id"], "--replay", "--json")
    assert json.loads(text)[0]["sent"] == 1
    assert world.api.get("/v1/events", type="dead_letters_replayed")["items"][0]["payload"]["letters"] == [letters[0]["letter_id"]]
    with pytest.raises(Refusal) as found:
        world.api.post("/v1/dead-letters/replays", {"letters": ["none"]})
    assert found.value.code == "unknown_letter"


def test_tables_have_the_retention_that_is_set(world):
    found = world.sql("SELECT name FROM system.tables WHERE database = 'champion' AND create_table_query LIKE '%TTL toDateTime(recorded_at) + toIntervalDay(30)%' ORDER BY name")
    assert [r["name"] for r in found] == ["actuals_log", "association_index", "dead_letters_log", "explanations_log", "outcomes_log", "predictions_log", "refusals_log"]


def test_one_worker_of_two_dies_and_no_number_moves(world, history):
    pids = {name: part["pid"] for name, part in json.loads((world.folder / "run.json").read_text()).items()}
    assert {"worker", "worker-1"} <= set(pids)
    before = world.sql("SELECT count() AS n FROM predictions WHERE deployment = 'd' AND role = 'champion'")[0]["n"]
    rng = random.Random(9)
    for k in range(60):
        if k == 20:
            os.kill(pids["worker"], signal.SIGKILL)
        if k == 40:
            os.kill(pids["worker-1"], signal.SIGTERM)
        rows = [{"x": rng.gauss(0, 1), "z": 0.0} for _ in range(5)]
        position = world.api.post("/v1/deployments/d/predictions", {"rows": rows, "association_ids": [f"w{k}-{j}" for j in range(5)]})["position"]
        world.api.post("/v1/deployments/d/actuals", {"actuals": [{"association_id": f"w{k}-{j}", "actual": 1} for j in range(5)]})
        time.sleep(0.05)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            world.api.get("/v1/deployments/d", after=position)
            break
        except Refusal:
            time.sleep(0.2)  # the log is behind
    assert world.sql("SELECT count() AS n, uniqExact(event_id) AS u FROM predictions WHERE deployment = 'd' AND role = 'champion'") == [{"n": before + 300, "u": before + 300}]
    assert world.settle("d", world.sql("SELECT count() AS n FROM predictions WHERE deployment = 'd'")[0]["n"]) > 0
    assert world.api.get("/v1/deployments/d/verify")["equal"]
