"""Drift of all inputs together, by the trainer: against the training rows, against a window, and by schedule."""

import random
import time
from datetime import UTC, datetime

import pytest

from gateway.client import Refusal

DAY = 86_400
T0 = 1_700_006_400  # midnight


def day(number):
    return datetime.fromtimestamp(T0 + number * DAY, UTC).isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def pairs(system, tmp_path_factory):
    """A deployment whose inputs went together in training and for three days, and then no more."""
    rng = random.Random(8)

    def row(together):
        x = rng.gauss(0, 1)
        return {"x": x, "z": x + rng.gauss(0, 0.3) if together else rng.gauss(0, 1.04)}

    file = tmp_path_factory.mktemp("pairs") / "train.csv"
    known = [row(together=True) for _ in range(1500)]
    file.write_text("\n".join(["x,z,y", *(f"{r['x']},{r['z']},{int(r['x'] + rng.gauss(0, 0.5) > 0)}" for r in known)]))
    project = system.api.create_project(file, "y", mode="quick")
    assert system.api.wait_for_project(project)["state"] == "completed"
    model = next(m["model_id"] for m in system.api.get(f"/v1/projects/{project}/leaderboard")["models"] if m["blueprint"].startswith("linear"))
    system.api.post("/v1/deployments", {"name": "pairs", "model_id": model})
    for number in range(6):
        rows = [row(together=number < 3) for _ in range(400)]
        answer = system.api.post("/v1/deployments/pairs/predictions", {"rows": rows, "timestamps": [T0 + number * DAY + 60 * k for k in range(400)]})
    system.api.get("/v1/deployments/pairs", after=answer["position"])


def checked(system, **body):
    check = system.api.post("/v1/deployments/pairs/drift-checks", body)["check_id"]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        job = next(j for j in system.api.items("/v1/deployments/pairs/jobs") if j["job_id"] == check)
        if job["state"] in {"finished", "failed"}:
            return job["result"]
        time.sleep(0.1)
    raise AssertionError(job)


def test_the_days_that_broke_the_pattern_are_told_from_the_training_rows_and_those_before_are_not(system, pairs):
    quiet, broken = checked(system, **{"from": day(0), "to": day(3)}), checked(system, **{"from": day(3), "to": day(6)})
    assert (quiet["status"], quiet["rows"], quiet["reference_rows"]) == ("passing", 1200, 1500)
    assert broken["status"] == "failing"
    assert broken["importance"]["z"] > 0.1
    assert len(system.sql(broken["sql"])) == 1200
    drift = system.api.get("/v1/deployments/pairs/drift", **{"from": day(3), "to": day(6)})
    assert {f["name"]: f["status"] for f in drift["totals"]["features"]}["z"] != "failing", "no input shows it alone"


def test_against_a_window_of_its_own_past(system, pairs):
    found = checked(system, **{"from": day(4), "to": day(6), "reference": f"{day(3)}..{day(4)}"})
    assert (found["status"], found["reference_rows"]) == ("passing", 400)
    span = f"deployment = 'pairs' AND role = 'champion' AND occurred_at >= '{day(3)[:10]}' AND occurred_at < '{day(6)[:10]}'"
    by_sql = system.sql(f"SELECT kolmogorovSmirnovTest('two-sided', 'asymp')(features_num['z'], occurred_at >= '{day(4)[:10]}').1 AS d FROM predictions WHERE {span}")[0]["d"]
    assert found["distances"]["z"]["kolmogorov_smirnov"] == pytest.approx(by_sql)
    assert set(found["distances"]) == {"x", "z"}
    assert 0 < found["distances"]["z"]["wasserstein"] < 0.3


def test_by_schedule_one_check_a_span_and_an_alert(system, pairs):
    system.api.call("PUT", "/v1/deployments/pairs/alert-rules/together", {"measure": "drift.multivariate", "above": 0.75, "window": "7d"})
    system.api.call("PATCH", "/v1/deployments/pairs", {"drift_checks": {"every": "1d", "window": "2d"}})
    end = time.monotonic() + 60
    found = []
    while time.monotonic() < end and not found:
        found = [j for j in system.api.items("/v1/deployments/pairs/jobs") if j["request"].get("scheduled") and j["state"] == "finished"]
        rows = [{"x": 0.0, "z": 0.0}]  # the steward looks when something has come
        system.api.post("/v1/deployments/pairs/predictions", {"rows": rows, "timestamps": [T0 + 6 * DAY - 60]})
        time.sleep(0.3)
    assert [j["result"]["end"][:10] for j in found] == ["2023-11-20"]  # one, of the two whole days before the newest row's
    assert found[0]["result"]["auc"] > 0.75
    while time.monotonic() < end and not any(a["rule"] == "together" for a in system.api.items("/v1/alerts")):
        time.sleep(0.2)
    assert any(a["rule"] == "together" for a in system.api.items("/v1/alerts"))
    system.api.call("DELETE", "/v1/deployments/pairs/alert-rules/together")
    system.api.call("PATCH", "/v1/deployments/pairs", {"drift_checks": None})


@pytest.mark.parametrize("body", [{}, {"from": "x", "to": "y"}, {"from": 2, "to": 1}, {"from": 1, "to": 2, "reference": "3..2"}, {"from": 1, "to": 2, "reference": "training"}])
def test_a_window_that_is_none_is_refused(system, pairs, body):
    with pytest.raises(Refusal) as found:
        system.api.post("/v1/deployments/pairs/drift-checks", body)
    assert found.value.status == 422


@pytest.mark.parametrize("setting", [3, {}, {"every": "soon"}, {"every": "5s"}, {"every": "1d", "on": "x"}])
def test_a_schedule_that_is_none_is_refused(system, pairs, setting):
    with pytest.raises(Refusal) as found:
        system.api.call("PATCH", "/v1/deployments/pairs", {"drift_checks": setting})
    assert found.value.status == 422
