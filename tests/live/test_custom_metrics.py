"""Custom metrics: what pandas computes from what was sent, for any window, segment and time of knowledge."""

import random

import pytest

from gateway.client import Refusal
from tests.support import deploy_small

PATH = "/v1/deployments/priced/custom-metrics"
COST = "sum(if(predicted_class = actual_class, 0, 35))"


@pytest.fixture(scope="module")
def sent(system, tmp_path_factory):
    """Two days of rows with their outcomes, and what was answered."""
    deploy_small(system, tmp_path_factory.mktemp("priced"), names=("priced",), shadows=("lightgbm",))
    rng, kept, position = random.Random(5), [], ""
    for day in range(2):
        rows = [{"x": rng.gauss(0, 1), "z": rng.gauss(0, 1)} for _ in range(200)]
        ids = [f"{day}-{k}" for k in range(200)]
        times = [1_700_006_400 + day * 86_400 + k for k in range(200)]
        answer = system.api.post("/v1/deployments/priced/predictions", {"rows": rows, "association_ids": ids, "timestamps": times})
        truth = [int(row["x"] + rng.gauss(0, 0.5) > 0) for row in rows]
        position = system.api.post("/v1/deployments/priced/actuals", {"actuals": [{"association_id": i, "actual": t} for i, t in zip(ids, truth, strict=True)]})["position"]
        kept += [{"day": day, "x": row["x"], "said": p["prediction"], "truth": str(t)} for row, p, t in zip(rows, answer["predictions"], truth, strict=True)]
    system.api.get("/v1/deployments/priced", after=position)
    assert system.settle("priced", 800) == 800
    return kept


def cost_of(rows):
    return 35.0 * sum(row["said"] != row["truth"] for row in rows)


def test_a_metric_defined_today_has_all_its_history_its_buckets_and_segments(system, sent):
    system.api.call("PUT", PATH + "/cost", {"value": COST})
    found = system.api.get(PATH, bucket="1d")["items"][0]
    assert (found["value"], found["rows"]) == (cost_of(sent), 400)
    assert [b["value"] for b in found["buckets"]] == [cost_of([r for r in sent if r["day"] == day]) for day in range(2)]
    assert system.sql(found["totals_sql"]) == [{"value": found["value"], "rows": 400}]
    some = system.api.get(PATH, segment="x>=0.5")["items"][0]
    part = [r for r in sent if r["x"] >= 0.5]
    assert (some["value"], some["rows"]) == (cost_of(part), len(part))


def test_a_metric_may_need_no_outcome_and_be_of_some_rows(system, sent):
    system.api.call("PUT", PATH + "/sure", {"value": "avg(predicted_value > 0.9)", "over": "predictions", "where": "features_num['x'] > 0"})
    found = next(m for m in system.api.get(PATH)["items"] if m["name"] == "sure")
    assert found["rows"] == sum(r["x"] > 0 for r in sent)
    assert 0 < found["value"] < 1


def test_a_challenger_has_the_same_metric(system, sent):
    challenger = system.api.get("/v1/deployments/priced")["challengers"][0]["model_id"]
    found = next(m for m in system.api.get(PATH, model_id=challenger)["items"] if m["name"] == "cost")
    rows = system.sql(f"SELECT predicted_class AS said, actual_class AS truth FROM outcomes WHERE deployment = 'priced' AND model_id = '{challenger}'")
    assert found["value"] == cost_of(rows)


def test_a_rule_may_watch_it(system, sent):
    system.api.call("PUT", "/v1/deployments/priced/alert-rules/dear", {"measure": "custom.cost", "above": 10**9, "window": "7d"})
    assert system.api.post("/v1/deployments/priced/alert-rules/dear/test")["value"] == cost_of(sent)


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("x", {"value": "sum("}, "wrong_segment"),
        ("x", {"value": "luck(1)"}, "wrong_metric"),
        ("x", {"value": "predicted_class"}, "wrong_metric"),
        ("x", {"value": "(SELECT count() FROM predictions)"}, "wrong_metric"),
        ("x", {"value": "count(); DROP TABLE predictions"}, "wrong_segment"),
        ("x", {"value": "count()", "over": "events"}, "wrong_metric"),
        ("x", {"value": "count()", "typo": 1}, "wrong_metric"),
        ("0x", {"value": "count()"}, "wrong_metric"),
    ],
)
def test_a_metric_that_cannot_be_computed_is_refused_and_not_kept(system, sent, name, body, code):
    before = len(system.api.get(PATH)["items"])
    with pytest.raises(Refusal) as found:
        system.api.call("PUT", f"{PATH}/{name}", body)
    assert found.value.code == code
    assert len(system.api.get(PATH)["items"]) == before


def test_a_metric_that_is_taken_away_is_gone(system, sent):
    system.api.call("DELETE", PATH + "/sure")
    assert [m["name"] for m in system.api.get(PATH)["items"]] == ["cost"]
    with pytest.raises(Refusal) as found:
        system.api.call("DELETE", PATH + "/sure")
    assert found.value.code == "unknown_metric"
