"""Data quality of inputs on the running system: wrong values are counted by their kind, and an alert may watch them."""

import pytest

from gateway.client import Refusal


def test_missing_and_unseen_inputs_are_counted(system, flights):
    model = flights.models[0]["model_id"]
    system.api.post("/v1/deployments", {"name": "dirty", "model_id": model, "association_id": "flight_id", "timestamp": "time_hour"})
    rows = [{**row, "flight_id": f"dirty-{row['flight_id']}"} for row in flights.rows[:400]]
    for row in rows[:100]:
        row["distance"] = None
    for row in rows[100:110]:
        row["distance"] = 99_999
    for row in rows[200:300]:
        row["carrier"] = "ZZ"
    with pytest.raises(Refusal, match="no rows"):
        system.api.post("/v1/deployments/dirty/predictions", {"rows": []})
    position = system.api.post("/v1/deployments/dirty/predictions", {"rows": rows})["position"]
    found = system.api.get("/v1/deployments/dirty/data-quality", after=position)
    inputs = {i["name"]: i for i in found["inputs"]}
    assert inputs["distance"]["rows"] == 400
    assert inputs["distance"]["problems"]["missing"]["rows"] == 100
    assert inputs["distance"]["problems"]["out_of_range"]["rows"] >= 10
    assert inputs["distance"]["status"] == "failing"
    assert inputs["carrier"]["problems"]["unseen"]["rows"] == 100
    assert inputs["carrier"]["status"] == "failing"
    assert found["status"] == "failing"
    assert system.sql(found["sql"])
    assert sum(found["refused"].values()) == 1
    assert system.sql(found["refused_sql"])
    segment = system.api.get("/v1/deployments/dirty/data-quality", segment="carrier=ZZ")
    carrier = next(i for i in segment["inputs"] if i["name"] == "carrier")
    assert carrier["problems"]["unseen"]["production"] == 1.0
    assert "unseen 0.0% → 25.0%" in system.api.text("/deployments/dirty")
    assert f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}/v1/deployments/dirty/predictions" in system.api.text("/deployments/dirty").replace("&#39;", "'")
    rule = {"measure": "quality.failing", "above": 0.5, "window": "30d"}
    assert system.api.call("PUT", "/v1/deployments/dirty/alert-rules/clean", rule)["measure"] == "quality.failing"


def test_rows_that_a_value_of_the_wrong_type_spoilt_are_counted_by_input_whether_the_others_were_answered_or_not(system, flights):
    model = flights.models[0]["model_id"]
    system.api.post("/v1/deployments", {"name": "typed", "model_id": model, "association_id": "flight_id"})
    rows = [{**row, "flight_id": f"typed-{row['flight_id']}"} for row in flights.rows[:300]]
    for row in rows[:60]:
        row["distance"] = "far"
    for row in rows[60:65]:
        row["carrier"] = ["UA"]
    answer = system.api.post("/v1/deployments/typed/predictions", {"rows": rows})
    assert [k for k, p in enumerate(answer["predictions"]) if "error" in p] == list(range(65))
    with pytest.raises(Refusal, match="distance"):
        system.api.post("/v1/deployments/typed/predictions", {"rows": rows[:2]})
    position = system.api.post("/v1/deployments/typed/predictions", {"rows": rows[100:101]})["position"]
    found = system.api.get("/v1/deployments/typed/data-quality", after=position)
    inputs = {i["name"]: i for i in found["inputs"]}
    assert inputs["distance"]["problems"]["wrong_type"]["rows"] == 62
    assert inputs["distance"]["problems"]["wrong_type"]["production"] == pytest.approx(62 / (236 + 62))
    assert inputs["distance"]["status"] == "failing"
    assert inputs["carrier"]["problems"]["wrong_type"]["rows"] == 5
    assert inputs["dest"]["problems"]["wrong_type"]["rows"] == 0
    assert found["refused"] == {"wrong_type": 1}, "an answered request is not a refused one"
    assert {row["input"]: row["rows"] for row in system.sql(found["wrong_type_sql"])} == {"carrier": 5, "distance": 62}
    health = system.api.get("/v1/deployments/typed/service-health")["totals"]
    assert (health["requests"], health["user_errors"]) == (2, 1)
    assert "wrong type 0.0% → 20.8%" in system.api.text("/deployments/typed")
