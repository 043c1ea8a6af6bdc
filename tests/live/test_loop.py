"""The whole loop on real flights, with the worker killed in the middle of it."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta

import numpy as np
import orjson
import pytest

from gateway.client import Refusal
from models import compiled
from stream.broker import CaughtUp, Producer, follow
from stream.topics import ACTUALS, MONITORING
from tests import independent


@pytest.fixture(scope="module")
def streamed(system, flights, deployed):
    """All of July, actuals before, after, twice and corrected, one worker killed with -9 on the way."""
    rng = random.Random(1)
    ids = list(flights.late)
    rng.shuffle(ids)
    early, later = ids[:100], ids[100:]
    by_http, by_kafka = later[:400], later[400:]

    def messages(chosen):
        return [orjson.dumps({"deployment": "flights", "association_id": i, "actual": flights.late[i]}) for i in chosen]

    async def produce(values):
        producer = Producer(f"127.0.0.1:{system.environment['CHAMPION_BROKER_PORT']}")
        await producer.send(ACTUALS, values)
        await producer.stop()

    asyncio.run(produce([*messages(early), b"{not json", b'{"deployment": "flights"}']))
    pid = json.loads((system.folder / "run.json").read_text())["worker"]["pid"]
    threading.Timer(0.4, os.kill, [pid, signal.SIGKILL]).start()
    position = ""
    for at in range(0, len(flights.rows), 50):
        answer = system.api.post("/v1/deployments/flights/predictions", {"rows": flights.rows[at : at + 50]})
        assert answer["recorded"] is True
        position = answer["position"]
        time.sleep(0.01)
    wrong = [{"association_id": i, "actual": not flights.late[i], "timestamp": "2013-08-01"} for i in by_http[:50]]
    right = [{"association_id": i, "actual": flights.late[i], "timestamp": "2013-08-02"} for i in by_http]
    for items in (right, wrong, right):
        found = system.api.post("/v1/deployments/flights/actuals", {"actuals": [*items, {"association_id": "x"}, {"actual": 1}]})
        assert (found["accepted"], found["rejected_count"]) == (len(items), 2)
    asyncio.run(produce(messages(by_kafka) + messages(by_kafka[:60])))
    end = time.monotonic() + 40
    while time.monotonic() < end:  # the restarted worker joins its group
        try:
            system.api.get("/v1/deployments/flights", after=position)
            break
        except Exception:  # noqa: BLE001, S110 - 504 until then
            pass
    wanted = 3 * len(flights.late)
    assert system.settle("flights", wanted) == wanted
    return flights


def test_what_was_sent_is_in_the_log_once_a_model(system, streamed, deployed):
    rows = system.sql("SELECT model_id, role, count() AS n, uniqExact(event_id) AS u FROM predictions WHERE role != 'replay' AND deployment = 'flights' GROUP BY model_id, role")
    assert {r["model_id"] for r in rows} == set(deployed)
    assert all(r["n"] == r["u"] == len(streamed.rows) for r in rows)
    assert sorted(r["role"] for r in rows) == ["challenger", "challenger", "champion"]


def test_outcomes_equal_a_pandas_join(system, streamed, deployed):
    predictions = system.sql("SELECT association_id, predicted_value AS p FROM predictions WHERE deployment = 'flights' AND role = 'champion'")
    joined = independent.join(predictions, [{"association_id": i, "actual": v} for i, v in streamed.late.items()])
    outcomes = system.sql("SELECT association_id, predicted_value AS p, actual_class FROM outcomes WHERE deployment = 'flights' AND role = 'champion'")
    assert {(o["association_id"], o["p"], o["actual_class"]) for o in outcomes} == {(r.association_id, r.p, "true" if r.actual else "false") for r in joined.itertuples()}
    assert len(outcomes) == len(joined) == len(streamed.late)


def test_drift_equals_an_independent_count_of_the_tables(system, streamed, deployed):
    model = independent.load_model(system.folder / "artifacts" / "packages" / f"{deployed[0]}.zip")
    rows = system.sql("SELECT features, predicted_value FROM predictions WHERE deployment = 'flights' AND role = 'champion'")
    expected = independent.drift([{**r, "features": json.loads(r["features"])} for r in rows], model)
    answer = system.api.get("/v1/deployments/flights/drift")
    for found in [*answer["totals"]["features"], answer["totals"]["prediction"]]:
        counts, psi = expected[found["name"]]
        assert {b["label"]: b["production"] for b in found["bins"]} == counts
        assert found["psi"] == pytest.approx(psi, rel=1e-9)
    assert sum(b["rows"] for b in answer["buckets"]) == len(streamed.rows)


def test_accuracy_equals_an_independent_computation(system, streamed, deployed):
    for model in deployed:
        rows = system.sql(f"SELECT predicted_value AS p, actual_class AS actual, predicted_class AS c FROM outcomes WHERE deployment = 'flights' AND model_id = '{model}'")
        frame = independent.pd.DataFrame(rows)
        totals = system.api.get("/v1/deployments/flights/accuracy", model_id=model)["totals"]
        assert totals["matched"] == len(frame)
        assert totals["metrics"]["log_loss"]["value"] == pytest.approx(independent.log_loss(frame, "true"), rel=1e-9)
        assert totals["metrics"]["accuracy"]["value"] == pytest.approx(float((frame.actual == frame.c).mean()), rel=1e-9)
        late = next(c for c in system.api.get("/v1/deployments/flights/accuracy", model_id=model)["by_class"]["classes"] if c["class"] == "true")
        assert (late["came_true"], late["said"]) == ((frame.actual == "true").sum(), (frame.c == "true").sum())
        assert (late["recall"] or 0) * late["came_true"] == pytest.approx(((frame.actual == "true") & (frame.c == "true")).sum())


def test_verify_rebuilds_every_number_from_the_log(system, streamed, deployed):
    found = system.api.get("/v1/deployments/flights/verify")
    assert found["equal"], found
    assert found["parts"]["drift"]["rows"] == len(streamed.rows)
    assert found["parts"]["outcomes"]["rows"] == 3 * len(streamed.late)
    done = subprocess.run([sys.executable, "-m", "gateway", "verify", "flights"], env={**os.environ, "CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_accuracy_as_known_before_any_actual_is_empty(system, streamed):
    first = system.sql("SELECT min(recorded_at) AS t FROM actuals WHERE deployment = 'flights'")[0]["t"]
    then = system.api.get("/v1/deployments/flights/accuracy", as_of=(datetime.fromisoformat(first) - timedelta(microseconds=1)).isoformat())
    now = system.api.get("/v1/deployments/flights/accuracy", as_of="2100-01-01")
    assert sum(b["rows"] for b in then["buckets"]) == 0
    assert sum(b["rows"] for b in now["buckets"]) == len(streamed.late)


def test_results_are_published_for_other_programs(system, streamed, deployed):
    async def read():
        async for found in follow(f"127.0.0.1:{system.environment['CHAMPION_BROKER_PORT']}", MONITORING):
            if isinstance(found, CaughtUp):
                break
            seen.extend(orjson.loads(m.value) for m in found)

    seen, end = [], time.monotonic() + 20
    while {m["kind"] for m in seen if m["deployment"] == "flights"} != {"accuracy", "drift"} and time.monotonic() < end:
        seen = []
        asyncio.run(read())
    drift = [m for m in seen if m["kind"] == "drift" and m["deployment"] == "flights"][-1]
    assert {v["name"] for v in drift["variables"]} >= {"hour", "carrier", "prediction"}


def test_the_bad_messages_are_dead_letters_with_their_reasons(system, streamed):
    told = [e["payload"] for e in system.api.get("/v1/events", type="dead_lettered")["items"]]
    assert sum(letter["count"] for letter in told) == 2
    reasons = [letter["reason"] for letter in system.api.get("/v1/dead-letters")["items"]]
    assert len(reasons) == 2
    assert any("association_id" in r for r in reasons)


def test_the_supervisor_says_that_it_restarted_the_worker(system, streamed):
    parts = system.api.get("/health/ready")["parts"]
    assert parts["worker"]["restarts"] == 1
    assert all(p["ready"] for p in parts.values())
    assert parts["gateway"]["trees"] == ("C" if compiled.BUILT else "NumPy")


def test_every_answer_shows_a_select_that_gives_it(system, streamed):
    for kind in ("drift", "accuracy", "comparison"):
        assert system.sql(system.api.get(f"/v1/deployments/flights/{kind}")["sql"])
    for query in system.api.get("/v1/deployments/flights/service-health")["sql"].values():
        system.sql(query)


def test_service_health_counts_requests_rows_and_refusals(system, streamed):
    with pytest.raises(Exception, match="no rows"):
        system.api.post("/v1/deployments/flights/predictions", {"rows": []})
    end = time.monotonic() + 10
    while time.monotonic() < end:
        health = system.api.get("/v1/deployments/flights/service-health")
        if health["totals"]["user_errors"]:
            break
    assert health["totals"]["rows"] >= len(streamed.rows)
    assert health["totals"]["user_errors"] >= 1
    assert health["totals"]["latency_us"]["p50"] > 0


def test_service_health_is_the_same_from_the_rows_and_from_the_maintained_minutes(system, streamed):
    exact, sketched = (system.api.get("/v1/deployments/flights/service-health", latency=latency, bucket="1m") for latency in ("exact", "sketched"))
    assert (exact["sketched"], sketched["sketched"]) == (False, True)
    for a, b in zip([*exact["buckets"], exact["totals"]], [*sketched["buckets"], sketched["totals"]], strict=True):
        assert {k: v for k, v in a.items() if k != "latency_us"} == {k: v for k, v in b.items() if k != "latency_us"}
        assert all((x is None and y is None) or abs(y / x - 1) < 0.021 for x, y in zip(a["latency_us"].values(), b["latency_us"].values(), strict=True))
    for query in sketched["sql"].values():
        system.sql(query)
    with pytest.raises(Refusal) as wrong:
        system.api.get("/v1/deployments/flights/service-health", latency="guessed")
    assert wrong.value.code == "wrong_latency"


def test_groups_of_flights_are_compared(system, streamed, deployed):
    found = system.api.get("/v1/deployments/flights/fairness", by="origin", favorable="false")
    assert {g["group"] for g in found["groups"]} == {"EWR", "JFK", "LGA"}
    assert sum(g["rows"] for g in found["groups"]) == len(streamed.rows)
    assert system.sql(found["sql"]["known"])
    with pytest.raises(Refusal) as missing:
        system.api.get("/v1/deployments/flights/fairness")
    assert missing.value.code == "missing_field"
    with pytest.raises(Refusal) as unknown:
        system.api.get("/v1/deployments/flights/fairness", by="origin", favorable="perhaps")
    assert unknown.value.code == "wrong_class"


def test_a_replay_scores_stored_requests_with_another_model(system, streamed, deployed, flights):
    other = next(m["model_id"] for m in flights.models if m["blueprint"] == "histogram_boosting")
    job = system.api.post("/v1/deployments/flights/replays", {"model_id": other, "from": "2013-07-01", "to": "2013-07-08"})
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = next(j for j in system.api.items("/v1/deployments/flights/jobs") if j["job_id"] == job["replay_id"])
        if found["state"] != "queued":
            break
        time.sleep(0.2)
    rows = system.sql(f"SELECT uniqExact(association_id) AS n FROM predictions WHERE replay_id = '{job['replay_id']}' AND role = 'replay' AND model_id = '{other}'")[0]["n"]
    expected = system.sql("SELECT count() AS n FROM predictions WHERE deployment = 'flights' AND role = 'champion' AND occurred_at >= '2013-07-01' AND occurred_at < '2013-07-08'")[0]["n"]
    assert (found["state"], found["progress"]) == ("finished", 1.0)
    assert found["result"]["rows"] == rows == expected > 0
    with pytest.raises(Refusal) as over:
        system.api.call("DELETE", f"/v1/deployments/flights/jobs/{job['replay_id']}")
    assert over.value.code == "job_ended"
    with pytest.raises(Refusal) as unknown:
        system.api.call("DELETE", "/v1/deployments/flights/jobs/none")
    assert unknown.value.code == "unknown_job"


def test_retraining_takes_what_production_saw_and_enters_as_challenger(system, streamed, deployed):
    job = system.api.post("/v1/deployments/flights/retraining", {"minutes": 0.05})
    end = time.monotonic() + 90
    while time.monotonic() < end:
        found = next(j for j in system.api.items("/v1/deployments/flights/jobs") if j["job_id"] == job["retraining_id"])
        if found["state"] in {"finished", "failed"}:
            break
        time.sleep(0.3)
    assert found["state"] == "finished", found
    record = found["result"]["training_set"]
    assert record["rows"] == len(streamed.late)
    assert system.sql(record["query"] + " LIMIT 1")
    done = subprocess.run([sys.executable, "-m", "gateway", "dataset", "rebuild", job["retraining_id"], "--json"], env={**os.environ, "CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)[0]["rebuilt"] == record["digest"]  # byte for byte
    new = found["result"]["model_id"]
    deployment = system.api.get("/v1/deployments/flights")
    assert new in {c["model_id"] for c in deployment["challengers"]}
    with pytest.raises(Exception, match="version"):
        system.api.call("PUT", "/v1/deployments/flights/champion", {"model_id": new, "reason": "test", "expected_version": 1})
    changed = system.api.call("PUT", "/v1/deployments/flights/champion", {"model_id": new, "reason": "a test", "expected_version": deployment["version"]})
    assert changed["champion"]["model_id"] == new
    assert deployed[0] in {c["model_id"] for c in changed["challengers"]}
    answer = system.api.post("/v1/deployments/flights/predictions", {"rows": streamed.rows[:2]})
    assert answer["model_id"] == new
    trail = system.api.get("/v1/events", type="champion_changed")["items"]
    assert trail[0]["payload"]["reason"] == "a test"
    assert np.isfinite(answer["predictions"][0]["probabilities"]["true"])


def test_every_page_of_the_portal_answers(system, streamed, deployed, flights):
    for path in ("/", "/deployments/flights", f"/projects/{flights.project}", f"/models/{deployed[0]}", "/events", "/docs", "/static/portal.css", "/static/plotly.min.js"):
        text = system.api.text(path)
        assert "error" not in text[:40], path
        assert len(text) > 500
    page = system.api.text("/deployments/flights")
    assert "the SELECT behind it" in page
    assert "data-chart" in page


@pytest.mark.parametrize("what", ["", "/importance", "/learning-curve", "/confusion-matrix", "/lift", "/roc", "/calibration", "/describe", "/blueprint"])
def test_a_model_tells_everything_of_itself(system, deployed, what):
    assert system.api.get(f"/v1/models/{deployed[1][:10]}{what}")


def test_a_deployment_shows_its_status(system, streamed):
    found = next(d for d in system.api.items("/v1/deployments") if d["name"] == "flights")
    assert set(found["status"]) == {"health", "drift", "accuracy"}
    assert set(found["status"].values()) <= {"passing", "warning", "failing", "unknown"}


def test_a_second_up_on_the_same_folder_says_so_and_exits(system):
    ports = {f"CHAMPION_{n}PORT": str(45000 + k) for k, n in enumerate(("", "BROKER_", "EVENTLOG_"))}
    done = subprocess.run([sys.executable, "-m", "gateway", "up"], env={**os.environ, **system.environment, **ports}, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "up already" in done.stderr
