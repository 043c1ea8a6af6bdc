"""The error of a regression before its actuals, over HTTP, beside what SQL says became true."""

import random
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from gateway.client import Refusal
from models.registry import Artifacts, Registry

STEP = 0.2


@pytest.fixture(scope="module")
def values(system, tmp_path_factory):
    """A deployment whose noise grows with x, asked for large x only; half of the outcomes are known."""
    rng = random.Random(5)
    x = [rng.uniform(0, 4) for _ in range(3000)]
    file = tmp_path_factory.mktemp("values") / "train.csv"
    file.write_text("\n".join(["x,y", *(f"{v},{3 * v + rng.gauss(0, 0.2 + v)}" for v in x)]))
    project = system.api.create_project(file, "y", minutes=1)
    assert system.api.wait_for_project(project)["state"] == "completed"
    best = system.api.get(f"/v1/projects/{project}/leaderboard")["models"][0]["model_id"]
    system.api.post("/v1/deployments", {"name": "values", "model_id": best})
    rows = [{"x": rng.uniform(3, 4)} for _ in range(1000)]
    answer = system.api.post("/v1/deployments/values/predictions", {"rows": rows, "association_ids": [f"v{k}" for k in range(1000)]})
    system.api.get("/v1/deployments/values", after=answer["position"])
    before = datetime.now(UTC).isoformat()
    facts = [{"association_id": f"v{k}", "actual": 3 * row["x"] + rng.gauss(0, 0.2 + row["x"])} for k, row in enumerate(rows[:500])]
    position = system.api.post("/v1/deployments/values/actuals", {"actuals": facts})["position"]
    system.api.get("/v1/deployments/values", after=position)
    return before


def test_a_regression_is_estimated_by_what_its_held_out_losses_taught(system, values):
    found = system.api.get("/v1/deployments/values/accuracy")
    guess, holdout = found["estimated"], found["totals"]["metrics"]["mae"]["baseline"]
    assert (guess["method"], guess["rows"]) == ("DLE", 1000)
    assert guess["metrics"]["mae"] > 1.3 * holdout  # where it is asked now it is weaker than over all x
    past = guess["on_matched_rows"]
    assert past["mae"]["estimated"] == pytest.approx(past["mae"]["realised"], rel=0.15)
    assert past["rmse"]["error"] == pytest.approx(past["rmse"]["estimated"] - past["rmse"]["realised"])
    realised = system.sql("SELECT avg(abs(predicted_value - actual_value)) AS mae FROM outcomes WHERE deployment = 'values' AND role = 'champion'")[0]["mae"]
    assert past["mae"]["realised"] == pytest.approx(realised)
    assert len(system.sql(guess["sql"])) == 1000


def test_the_share_inside_the_intervals_is_counted_from_the_rows(system, values):
    found = system.api.get("/v1/deployments/values/accuracy")
    assert set(found["totals"]["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}
    for level, share in found["totals"]["coverage"].items():
        interval = system.api.post(f"/v1/deployments/values/predictions?interval={level}&monitored=false", {"rows": [{"x": 3.5}]})["predictions"][0]["interval"]
        half = (interval["upper"] - interval["lower"]) / 2
        counted = system.sql(f"SELECT avg(abs(predicted_value - actual_value) <= {half!r}) AS share FROM outcomes WHERE deployment = 'values' AND role = 'champion'")[0]["share"]
        assert share == pytest.approx(counted, abs=1e-9)
    groups = found["calibration"]
    assert (len(groups), sum(g["rows"] for g in groups)) == (10, 500)


def test_intervals_follow_the_outcomes_of_each_day_and_are_proved(system, values):
    model = system.api.get("/v1/deployments/values")["champion"]["model_id"]
    system.api.post("/v1/deployments", {"name": "follows", "model_id": model})
    for wrong in (0, 1.5, True, "much"):
        with pytest.raises(Refusal) as refused:
            system.api.call("PATCH", "/v1/deployments/follows", {"adaptive_intervals": wrong})
        assert refused.value.code == "wrong_step"
    system.api.call("PATCH", "/v1/deployments/follows", {"adaptive_intervals": STEP})
    ask = lambda: system.api.post("/v1/deployments/follows/predictions?interval=0.9&monitored=false", {"rows": [{"x": 2.0}]})["predictions"][0]["interval"]  # noqa: E731
    half = lambda interval: (interval["upper"] - interval["lower"]) / 2  # noqa: E731
    before, rng = half(ask()), random.Random(6)
    for number in range(7):
        rows, start = [{"x": rng.uniform(0, 4)} for _ in range(200)], 1_700_006_400 + number * 86_400
        ids = [f"day{number}-{k}" for k in range(200)]
        position = system.api.post("/v1/deployments/follows/predictions", {"rows": rows, "association_ids": ids, "timestamps": [start + k for k in range(200)]})["position"]
        if number < 6:  # the last day only ends the one before it
            facts = [{"association_id": i, "actual": 3 * row["x"] + 1.5 * rng.gauss(0, 0.2 + row["x"]), "timestamp": start + 3600} for i, row in zip(ids, rows, strict=True)]
            position = system.api.post("/v1/deployments/follows/actuals", {"actuals": facts})["position"]
    system.api.get("/v1/deployments/follows", after=position)
    told = lambda: system.api.get("/v1/events", deployment="follows", type="intervals_adapted", order="oldest", limit=100)["items"]  # noqa: E731
    end = time.monotonic() + 60
    while len(told()) < 6 and time.monotonic() < end:
        time.sleep(0.5)
    facts = [event["payload"] for event in told()]
    assert [fact["rows"] for fact in facts] == [200] * 6
    residuals = Registry(Artifacts((system.folder / "artifacts").as_uri()), b"").load(model).metadata["residual_quantiles"]
    outside = 0.1
    for fact in facts:
        errors = np.array([abs(row["actual_value"] - row["predicted_value"]) for row in system.sql(fact["sql"])])
        width = residuals["values"][min(200, int(np.ceil(min(np.ceil((residuals["rows"] + 1) * (1 - max(outside, 0))) / residuals["rows"], 1) * 200)))]
        came = float((errors > width).mean())
        outside += STEP * (0.1 - came)
        assert (fact["missed"]["0.9"], fact["outside"]["0.9"]) == (pytest.approx(came), pytest.approx(outside))
    assert facts[0]["missed"]["0.9"] > 0.15
    assert half(ask()) > 1.1 * before, "half as much noise again than in training makes them wider"
    coverage = system.api.get("/v1/deployments/follows/accuracy")["totals"]["coverage"]["0.9"]
    answered = system.sql("SELECT avg(abs(predicted_value - actual_value) > {h:Float64}) AS share FROM outcomes WHERE deployment = 'follows' AND role = 'champion'".replace("{h:Float64}", repr(before)))[0]["share"]
    assert coverage == pytest.approx(1 - answered), "all rows were answered before any interval moved"
    proof = system.api.get("/v1/deployments/follows/verify")
    assert proof["equal"], proof
    system.api.call("PATCH", "/v1/deployments/follows", {"adaptive_intervals": None})
    assert half(ask()) == pytest.approx(before)


def test_an_estimate_is_watched_like_any_measure(system, values):
    rule = {"measure": "estimated.loss", "above": 0.2, "window": "1d"}
    tried = system.api.call("PUT", "/v1/deployments/values/alert-rules/weak", rule)
    assert tried
    system.api.call("DELETE", "/v1/deployments/values/alert-rules/weak")


def test_as_it_was_known_before_the_actuals_there_is_nothing_to_compare_it_with(system, values):
    then = system.api.get("/v1/deployments/values/accuracy", as_of=values)["estimated"]
    now = system.api.get("/v1/deployments/values/accuracy")["estimated"]
    assert then["on_matched_rows"] == {}
    assert then["metrics"] == now["metrics"]
