"""The error of a regression before its actuals, over HTTP, beside what SQL says became true."""

import random
from datetime import UTC, datetime

import pytest


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
