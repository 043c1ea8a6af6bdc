"""Humility, thresholds, explanations, receipts on a running system."""

import json
import random

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.client import Refusal
from tests.live.wire import call
from tests.support import deploy_small

D = "/v1/deployments/guarded"


@pytest.fixture(scope="module")
def guarded(system, tmp_path_factory):
    deploy_small(system, tmp_path_factory.mktemp("guarded"), names=("guarded",))
    return {m["blueprint"]: m["model_id"] for m in system.api.items("/v1/models") if m["target"] == "y"}


def ask(system, *rows, query=""):
    return call(system, "POST", f"{D}/predictions{query}", json.dumps(list(rows)).encode())[1]


def rules(*found):
    return {"rules": list(found)}


def test_rules_act_are_answered_and_are_in_the_log(system, guarded):
    system.api.call("PUT", D + "/humility", rules(
        {"name": "no x", "trigger": {"kind": "missing_feature", "feature": "x"}, "action": {"kind": "error", "message": "x is needed"}},
        {"name": "far", "trigger": {"kind": "outlying_input", "feature": "x", "lower": -5, "upper": 5}, "action": {"kind": "refer"}},
        {"name": "unsure", "trigger": {"kind": "uncertain_prediction", "lower": 0.3, "upper": 0.7}, "action": {"kind": "override", "prediction": 0}},
        {"name": "high z", "trigger": {"kind": "outlying_input", "feature": "z", "upper": 3}, "action": {"kind": "fallback", "model_id": guarded["lightgbm"][:10]}},
        {"name": "differs", "trigger": {"kind": "disagreement", "model_id": guarded["lightgbm"], "above": 0.0001}},
    ))  # fmt: skip
    answer = ask(system, {"x": None, "z": 0}, {"x": 9, "z": 0}, {"x": 0.02, "z": 0}, {"x": -2, "z": 4}, {"x": 2, "z": 0})
    assert answer["deployment_version"] >= 3
    refused, referred, overridden, fallen, plain = answer["predictions"]
    assert refused["error"] == "humility: x is needed"
    assert "prediction" not in refused
    assert referred["humility"]["action"] == "refer"
    assert (overridden["prediction"], overridden["humility"]["rule"]) == ("0", "unsure")
    direct = ask(system, {"x": -2, "z": 4})
    assert fallen["humility"]["action"] == direct["predictions"][0]["humility"]["action"] == "fallback"
    assert plain["humility"] == {"rules": ["differs"], "rule": None, "action": "none"}
    system.api.get(D, after=direct["position"])
    stored = system.sql(f"SELECT humility, predicted_class FROM predictions WHERE request_id = '{answer['request_id']}' AND role = 'champion' ORDER BY event_id")
    assert stored[0]["humility"].split(",")[0] == "no x:error"
    assert ":none" in stored[0]["humility"]  # the others that hit are named, too
    assert stored[1]["humility"].startswith("far:refer")
    assert (stored[2]["humility"].split(",")[0], stored[2]["predicted_class"]) == ("unsure:override", "0")
    hits = {(h["rule"], h["action"]): h["rows"] for h in system.api.get(D + "/humility")["totals"]["rules"]}
    assert hits[("no x", "error")] == hits[("far", "refer")] == hits[("unsure", "override")] == 1
    assert hits[("high z", "fallback")] == 2


def test_a_referred_prediction_waits_for_a_person(system, guarded):
    waiting = system.api.get(D + "/referrals")["items"]
    assert [w["features"]["x"] for w in waiting] == [9]
    system.api.post(f"{D}/referrals/{waiting[0]['prediction_id']}", {"decision": "0", "note": "called the customer"})
    assert system.api.get(D + "/referrals")["waiting"] == 0
    decided = system.api.get(D + "/referrals", open="false")["items"][0]["answer"]
    assert (decided["decision"], decided["note"]) == ("0", "called the customer")
    with pytest.raises(Refusal) as found:
        system.api.post(D + "/referrals/nothing", {"decision": "1"})
    assert found.value.code == "unknown_referral"


@pytest.mark.parametrize("rule", [{}, {"trigger": {"kind": "outlying_input", "feature": "nobody", "upper": 1}}, {"trigger": {"kind": "missing_feature"}, "action": {"kind": "fallback", "model_id": "0000000"}}])
def test_a_rule_that_cannot_be_followed_is_refused_and_changes_nothing(system, guarded, rule):
    before = system.api.get(D)["version"]
    with pytest.raises(Refusal) as found:
        system.api.call("PUT", D + "/humility", rules(rule))
    assert found.value.code in {"wrong_rule", "unknown_model"}
    assert system.api.get(D)["version"] == before


def test_a_rehearsal_says_what_rules_would_have_changed_and_gained(system, guarded, tmp_path):
    system.api.call("PUT", D + "/humility", rules())
    rng = random.Random(4)
    rows = [{"x": rng.gauss(0, 1), "z": 0.0} for _ in range(300)]
    answer = call(system, "POST", f"{D}/predictions", json.dumps({"rows": rows, "association_ids": [f"g{k}" for k in range(300)]}).encode())[1]
    facts = [{"association_id": f"g{k}", "actual": int(row["x"] > 0.2)} for k, row in enumerate(rows)]
    position = system.api.post(D + "/actuals", {"actuals": facts})["position"]
    system.api.get(D, after=position)
    file = tmp_path / "rules.json"
    file.write_text(json.dumps([{"name": "low", "trigger": {"kind": "uncertain_prediction", "lower": 0.0, "upper": 0.9}, "action": {"kind": "override", "prediction": "0"}}]))
    found = system.api.post(D + "/humility/dry-run", {"rules": json.loads(file.read_text())})
    p = [r["probabilities"]["1"] for r in answer["predictions"]]
    assert found["rules"][0]["hits"] >= sum(v <= 0.9 for v in p)
    before = sum((v >= 0.5) == bool(f["actual"]) for v, f in zip(p, facts, strict=True)) / 300
    after = sum((v > 0.9) == bool(f["actual"]) for v, f in zip(p, facts, strict=True)) / 300
    assert found["metrics"]["accuracy"]["as_served"] == pytest.approx(before)
    assert found["metrics"]["accuracy"]["with_rules"] == pytest.approx(after)
    done = CliRunner().invoke(main, ["humility", "guarded", "--dry-run", str(file)], env={"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"}, catch_exceptions=False)
    assert "low" in done.output


def test_recommended_rules_can_be_set(system, guarded):
    found = system.api.get(D + "/humility/recommended")["rules"]
    assert {r["trigger"]["kind"] for r in found} == {"uncertain_prediction", "outlying_input"}
    assert system.api.call("PUT", D + "/humility", {"rules": found})["settings"]["humility"] == found
    system.api.call("PUT", D + "/humility", rules())


def test_a_threshold_decides_for_champion_and_challengers_and_in_the_metrics(system, guarded):
    with pytest.raises(Refusal) as found:
        system.api.call("PATCH", D, {"threshold": 7})
    assert found.value.code == "wrong_threshold"
    system.api.call("PATCH", D, {"threshold": 0.8, "reason": "costly alarms"})
    rng = random.Random(8)
    rows = [{"x": rng.gauss(0, 1), "z": 0.0} for _ in range(200)]
    answer = call(system, "POST", f"{D}/predictions", json.dumps({"rows": rows, "association_ids": [f"t{k}" for k in range(200)]}).encode())[1]
    assert all(p["prediction"] == ("1" if p["probabilities"]["1"] >= 0.8 else "0") for p in answer["predictions"])
    position = system.api.post(D + "/actuals", {"actuals": [{"association_id": f"t{k}", "actual": int(row["x"] > 0)} for k, row in enumerate(rows)]})["position"]
    system.api.get(D, after=position)
    wrong = system.sql(f"SELECT count() AS n FROM predictions WHERE request_id = '{answer['request_id']}' AND (predicted_class = '1') != (predicted_value >= 0.8)")
    assert wrong == [{"n": 0}]
    share = sum((p["prediction"] == "1") == (row["x"] > 0) for p, row in zip(answer["predictions"], rows, strict=True)) / 200
    totals = system.api.get(D + "/accuracy", segment="sql:startsWith(association_id, 't')")["totals"]
    assert totals["metrics"]["accuracy"]["value"] == pytest.approx(share)
    system.api.call("PATCH", D, {"threshold": None})


def test_an_answer_is_explained_on_request(system, guarded):
    answer = ask(system, {"x": 2.0, "z": 0.1}, query="?explain=2")
    row = answer["predictions"][0]
    assert row["explanations"][0]["feature"] == "x"
    assert row["explained"]["scale"] == "log_odds"
    assert call(system, "POST", f"{D}/predictions?explain=x", b"[{}]")[0] == 422
    assert call(system, "POST", f"{D}/predictions?interval=0.9", b"[{}]")[1]["error"]["code"] == "no_interval"
    assert call(system, "POST", f"{D}/predictions?interval=2", b"[{}]")[1]["error"]["code"] == "wrong_option"


def test_a_receipt_shows_the_actual_and_the_request_can_be_done_again_bit_for_bit(system, guarded):
    body = {"rows": [{"x": 0.3, "z": None}, {"x": "1.5"}], "association_ids": ["r0", "r1"]}
    answer = call(system, "POST", f"{D}/predictions", json.dumps(body).encode())[1]
    position = system.api.post(D + "/actuals", {"actuals": [{"association_id": "r0", "actual": 1}]})["position"]
    system.api.get(D, after=position)
    stored = system.api.get(f"/v1/predictions/{answer['request_id']}")["predictions"]
    assert {(r["association_id"], r["role"]): (r["actual"] or {}).get("actual_class") for r in stored} == {("r0", "champion"): "1", ("r0", "challenger"): "1", ("r1", "champion"): None, ("r1", "challenger"): None}
    found = system.api.post(f"/v1/predictions/{answer['request_id']}/reexecute")
    assert found["equal"]
    assert len(found["rows"]) == 4
    assert all(r["stored"] == r["recomputed"] for r in found["rows"])
    assert call(system, "POST", "/v1/predictions/none/reexecute", b"")[0] == 404
