"""A system that acts: alerts reach their channels, policies retrain, promote and refuse with nobody touching it."""

import hashlib
import hmac
import http.server
import json
import os
import random
import re
import signal
import threading
import time

import pytest
from aiosmtpd.controller import Controller

from gateway.client import Refusal
from tests.support import deploy_small, free_port, start_system, stop

pytestmark = pytest.mark.long


class Hooks(http.server.BaseHTTPRequestHandler):
    """A receiver that can hang, refuse, fail and redirect."""

    got = []
    failures = {"/flaky": 2}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Hooks.got.append((self.path, dict(self.headers), body, time.time()))
        status = 200
        if self.path == "/hang":
            time.sleep(7)
        if self.path == "/redirect":
            status = 302
        if Hooks.failures.get(self.path, 0) > 0:
            Hooks.failures[self.path] -= 1
            status = 500
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/private")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Letters:
    """What SMTP brought."""

    got = []

    async def handle_DATA(self, server, session, envelope):
        Letters.got.append((envelope.mail_from, envelope.rcpt_tos, envelope.content.decode()))
        return "250 OK"


@pytest.fixture(scope="module")
def hooks():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hooks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watching")
    system = start_system(folder / "var")
    deploy_small(system, folder, names=("alerted",), shadows=())
    yield system
    stop(system.process)


def until(found, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = found()
        except Refusal:
            value = None
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def ask(system, name, rng, count, shift=0.0, label=None, tag=""):
    """Rows and their outcomes."""
    rows = [{"x": rng.gauss(shift, 1), "z": rng.gauss(0, 1)} for _ in range(count)]
    ids = [f"{tag}{rng.random()}" for _ in rows]
    times = [time.time()] * count
    position = system.api.post(f"/v1/deployments/{name}/predictions", {"rows": rows, "association_ids": ids, "timestamps": times})["position"]
    if label is not None:
        facts = [{"association_id": i, "actual": label(row, rng)} for i, row in zip(ids, rows, strict=True)]
        position = system.api.post(f"/v1/deployments/{name}/actuals", {"actuals": facts})["position"]
    return position


def test_a_raised_alert_reaches_every_channel_signed_and_is_cleared(world, hooks):
    port = free_port()
    mail = Controller(Letters(), hostname="127.0.0.1", port=port)
    mail.start()
    try:
        world.api.call("PUT", "/v1/channels/signed", {"kind": "webhook", "url": hooks + "/signed", "secret": "s3cret"})
        world.api.call("PUT", "/v1/channels/flaky", {"kind": "slack", "url": hooks + "/flaky"})
        world.api.call("PUT", "/v1/channels/away", {"kind": "teams", "url": hooks + "/redirect"})
        world.api.call("PUT", "/v1/channels/post", {"kind": "email", "host": "127.0.0.1", "port": port, "from": "champion@example.com", "to": ["ops@example.com"]})
        assert "s3cret" not in json.dumps(list(world.api.items("/v1/channels")))
        rule = {"measure": "drift.psi", "above": 0.5, "clear": 0.4, "window": "1h", "cool_down": "1s", "severity": "critical", "channels": ["signed", "flaky", "away", "post"]}
        world.api.call("PUT", "/v1/deployments/alerted/alert-rules/drifting", rule)
        rng = random.Random(1)
        begun = time.time()
        world.api.get("/v1/deployments/alerted", after=ask(world, "alerted", rng, 400, shift=3.0))
        path, headers, body, at = until(lambda: next((g for g in Hooks.got if g[0] == "/signed"), None))
        print(f"row to webhook: {at - begun:.1f} s")
        assert headers["X-Champion-Signature"] == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
        told = json.loads(body)
        assert (told["type"], told["rule"], told["severity"]) == ("alert_raised", "drifting", "critical")
        assert told["value"] > 0.5
        assert world.sql(told["sql"])
        assert told["position"]  # how far the log had come
        assert until(lambda: Letters.got)[0][1] == ["ops@example.com"]
        until(lambda: len([g for g in Hooks.got if g[0] == "/flaky"]) == 3)
        assert len({g[1]["Idempotency-Key"] for g in Hooks.got if g[0] == "/flaky"}) == 1
        assert "drift.psi" in json.loads(next(g for g in Hooks.got if g[0] == "/flaky")[2])["text"]
        firing = world.api.get("/v1/alerts")["items"]
        assert [(f["deployment"], f["rule"]) for f in firing] == [("alerted", "drifting")]
        ask(world, "alerted", rng, 6000)  # the window fills with rows like those of the training
        until(lambda: not world.api.get("/v1/alerts")["items"])
        assert until(lambda: [g for g in Hooks.got if g[0] == "/signed" and json.loads(g[2])["type"] == "alert_cleared"])
        assert len([g for g in Hooks.got if g[0] == "/signed"]) == 2
        assert not [g for g in Hooks.got if g[0] == "/private"]
    finally:
        mail.stop()


def test_what_cannot_be_delivered_is_given_up_and_said(world, hooks):
    ended = until(lambda: [e for e in world.api.get("/v1/events", type="notification_ended")["items"] if e["payload"]["channel"] == "away"], 60)
    assert ended[0]["payload"]["attempts"] == 6
    assert "redirects are not followed" in ended[0]["payload"]["error"]
    world.api.call("PUT", "/v1/channels/slow", {"kind": "webhook", "url": hooks + "/hang"})
    rule = {"measure": "silence.predictions", "above": 9999, "channels": ["slow"]}
    world.api.call("PUT", "/v1/deployments/alerted/alert-rules/quiet", rule)
    asked = world.api.post("/v1/deployments/alerted/alert-rules/quiet/test")
    assert world.api.get("/health/ready")["ready"]
    until(lambda: [g for g in Hooks.got if g[0] == "/hang" and json.loads(g[2])["event_id"] == asked["alert_id"]])
    assert not world.api.get("/v1/alerts")["items"]  # a test raises nothing
    world.api.call("DELETE", "/v1/channels/slow")


def test_an_alert_that_is_tried_again_later_holds_up_no_other_of_its_channel(world, hooks):
    world.api.call("PUT", "/v1/channels/moody", {"kind": "webhook", "url": hooks + "/moody"})
    world.api.call("PUT", "/v1/deployments/alerted/alert-rules/moods", {"measure": "silence.predictions", "above": 9999, "channels": ["moody"]})
    Hooks.failures["/moody"] = 3
    first = world.api.post("/v1/deployments/alerted/alert-rules/moods/test")["alert_id"]
    until(lambda: Hooks.failures["/moody"] == 0)  # the first rests for some seconds now
    second = world.api.post("/v1/deployments/alerted/alert-rules/moods/test")["alert_id"]
    until(lambda: [g for g in Hooks.got if g[0] == "/moody" and json.loads(g[2])["event_id"] == second])
    told = [json.loads(g[2])["event_id"] for g in Hooks.got if g[0] == "/moody"]
    assert told == [first] * 3 + [second]
    world.api.call("DELETE", "/v1/channels/moody")


def test_a_rule_is_rehearsed_on_the_stored_history(world):
    found = world.api.post("/v1/deployments/alerted/alert-backtests", {"rule": {"measure": "drift.psi", "above": 0.0001, "window": "1d"}, "step": "1d"})
    assert found["raised"] == 1
    assert found["points"]
    assert found["accuracy"]["raised_for_nothing"] + found["accuracy"]["announced"] <= 1
    with pytest.raises(Refusal) as refused:
        world.api.post("/v1/deployments/alerted/alert-backtests", {"rule": {"measure": "health.p99_ms", "above": 1}})
    assert refused.value.code == "no_backtest"
    with pytest.raises(Refusal) as refused:
        world.api.call("PUT", "/v1/deployments/alerted/alert-rules/x", {"measure": "drift.psi", "above": 1, "channels": ["nobody"]})
    assert refused.value.code == "unknown_channel"


def truth(row, rng):
    return int(row["x"] > 0)


def upside_down(row, rng):
    return int(row["x"] < 0)


def noisy_upside_down(row, rng):
    """One label in twenty is wrong: a feature that always tells the outcome is a leak, and AutoPilot leaves it out."""
    return int((row["x"] < 0) != (rng.random() < 0.05))


def chance(row, rng):
    return rng.randint(0, 1)


@pytest.fixture(scope="module")
def models(world):
    return {m["blueprint"]: m["model_id"] for m in world.api.items("/v1/models")}


def keep_asking(world, name, label, seconds=120):
    """Traffic until the run is over; answers the newest run."""
    rng, end = random.Random(7), time.monotonic() + seconds
    while time.monotonic() < end:
        ask(world, name, rng, 60, label=label)
        runs = [r for p in world.api.items(f"/v1/deployments/{name}/policies") for r in p["runs"]]
        if runs and runs[0]["outcome"] != "under way":
            return runs[0]
        time.sleep(0.2)
    raise AssertionError(runs)


def test_the_world_turns_and_the_deployment_is_retrained_and_promoted_with_nobody_touching_it(world, models):
    world.api.post("/v1/deployments", {"name": "alone", "model_id": models["linear"]})
    policy = {"trigger": {"kind": "accuracy", "above": 0.5, "window": "1h"}, "action": "replace", "mode": "quick", "minimum_interval": "1h", "gate": {"soak_rows": 600}}
    world.api.call("PUT", "/v1/deployments/alone/policies/back", policy)
    killed = threading.Timer(6, lambda: os.kill(json.loads((world.folder / "run.json").read_text())["worker"]["pid"], signal.SIGKILL))
    killed.start()
    run = keep_asking(world, "alone", noisy_upside_down)
    assert run["outcome"] == "promoted", run
    assert run["evidence"]["measure"] == "accuracy.loss"
    found = world.api.get("/v1/deployments/alone")
    assert found["champion"]["model_id"] == run["result"]["model_id"]
    assert "better than the champion: log_loss" in found["champion"]["reason"]
    told = [e["type"] for e in world.api.get("/v1/events", deployment="alone", order="oldest")["items"]]
    story = [t for t in told if t in {"policy_set", "policy_run_started", "retraining_started", "challenger_added", "retraining_finished", "champion_changed", "policy_run_finished"}]
    assert story[:7] == ["policy_set", "policy_run_started", "retraining_started", "challenger_added", "retraining_finished", "champion_changed", "policy_run_finished"]
    assert told.count("policy_run_started") == 1  # the window still holds the bad hour, and the policy rests for an hour
    before, after = map(float, re.search(r"log_loss ([\d.]+) against ([\d.]+)", found["champion"]["reason"]).groups())
    assert after < 0.5 < before
    world.api.call("DELETE", "/v1/deployments/alone/policies/back")
    until(lambda: world.api.get("/v1/deployments/alone/verify")["equal"])


def looks(world):
    """When the steward's last whole look began."""
    beat = world.sql("SELECT detail FROM heartbeats WHERE part = 'worker' ORDER BY at DESC LIMIT 1")
    return json.loads(beat[0]["detail"])["steward_looked_at"]


def test_a_policy_waits_for_rows_to_learn_from_whatever_its_trigger_says(world, models):
    world.api.post("/v1/deployments", {"name": "patient", "model_id": models["linear"]})
    policy = {"trigger": {"kind": "actuals", "count": 20}, "data": {"least_rows": 300}, "action": "register", "mode": "quick"}
    world.api.call("PUT", "/v1/deployments/patient/policies/later", policy)
    runs = lambda: next(iter(world.api.items("/v1/deployments/patient/policies")))["runs"]  # noqa: E731
    world.api.get("/v1/deployments/patient", after=ask(world, "patient", random.Random(3), 150, label=truth))
    for _ in range(2):
        seen = looks(world)
        until(lambda seen=seen: looks(world) != seen)
    assert not runs()
    ask(world, "patient", random.Random(4), 200, label=truth)
    assert 300 <= until(runs)[0]["evidence"]["rows"] <= 350  # the rest may be being joined
    world.api.call("DELETE", "/v1/deployments/patient/policies/later")


def test_a_worse_model_is_refused_with_its_numbers_and_leaves_the_shadow(world, models):
    world.api.post("/v1/deployments", {"name": "wary", "model_id": models["linear"]})
    world.api.get("/v1/deployments/wary", after=ask(world, "wary", random.Random(3), 400, label=chance))
    policy = {"action": "replace", "mode": "quick", "gate": {"soak_rows": 400}}
    world.api.call("PUT", "/v1/deployments/wary/policies/try", policy)
    world.api.post("/v1/deployments/wary/policies/try/runs")
    with pytest.raises(Refusal) as found:
        world.api.post("/v1/deployments/wary/policies/try/runs")
    assert found.value.code == "run_under_way"
    run = keep_asking(world, "wary", truth)
    assert run["outcome"] == "refused", run
    assert "not better than the champion" in run["sentence"]
    assert until(lambda: not world.api.get("/v1/deployments/wary")["challengers"])
    assert world.api.get("/v1/deployments/wary")["champion"]["model_id"] == models["linear"]


def run_to_a_person(world, models, name, **gate):
    """A deployment whose run has found a better model, which waits for a person."""
    world.api.post("/v1/deployments", {"name": name, "model_id": models["linear"]})
    world.api.get(f"/v1/deployments/{name}", after=ask(world, name, random.Random(3), 500, label=noisy_upside_down))
    policy = {"action": "replace", "model_selection": "same_hyperparameters", "data": {"window": "decaying", "half_life": "1h"}, "gate": {"soak_rows": 300, "person": True, **gate}}
    world.api.call("PUT", f"/v1/deployments/{name}/policies/try", policy)
    return world.api.post(f"/v1/deployments/{name}/policies/try/runs")["run_id"]


def runs_until(world, name, outcomes, seconds=120):
    rng, end = random.Random(7), time.monotonic() + seconds
    while time.monotonic() < end:
        ask(world, name, rng, 60, label=noisy_upside_down)
        runs = [r for p in world.api.items(f"/v1/deployments/{name}/policies") for r in p["runs"]]
        if runs and runs[0]["outcome"] in outcomes:
            return runs[0]
        time.sleep(0.2)
    raise AssertionError(runs)


def test_a_better_model_waits_for_a_person_and_is_promoted_by_their_word(world, models):
    run_id = run_to_a_person(world, models, "careful")
    waiting = runs_until(world, "careful", {"waits for a person", "failed", "refused"})
    assert waiting["outcome"] == "waits for a person", waiting
    assert "better than the champion" in waiting["sentence"]
    champion = world.api.get("/v1/deployments/careful")["champion"]
    assert champion["model_id"] == models["linear"]
    at = f"/v1/deployments/careful/policies/try/runs/{run_id}"
    with pytest.raises(Refusal) as found:
        world.api.post(at + "/decision", {"decision": "perhaps", "reason": "x"})
    assert found.value.code == "wrong_decision"
    assert "careful" in world.api.text("/")  # the inventory shows what waits
    world.api.post(at + "/decision", {"decision": "promote", "reason": "looks right"})
    ended = runs_until(world, "careful", {"promoted"})
    found = world.api.get("/v1/deployments/careful")["champion"]
    assert "looks right" in found["reason"]
    assert "better than the champion" in found["reason"]
    assert found["blueprint"] == "linear"  # nothing but the champion's recipe
    project = world.api.get(f"/v1/projects/{run_id}")
    assert project["options"]["weight"] == "champion_weight"
    assert world.api.post(f"/v1/projects/{run_id}/training-set/rebuild")["equal"]
    assert ended["result"]["model_id"] == found["model_id"]


def test_a_person_may_refuse_and_a_run_may_be_broken_off(world, models):
    run_id = run_to_a_person(world, models, "picky")
    runs_until(world, "picky", {"waits for a person"})
    at = "/v1/deployments/picky/policies/try/runs/"
    world.api.post(f"{at}{run_id}/decision", {"decision": "refuse", "reason": "not in December"})
    run = runs_until(world, "picky", {"refused"})
    assert "not in December" in run["sentence"]
    until(lambda: not world.api.get("/v1/deployments/picky")["challengers"])
    with pytest.raises(Refusal) as found:
        world.api.post(f"{at}{run_id}/decision", {"decision": "promote", "reason": "x"})
    assert found.value.code == "not_waiting"
    again = world.api.post("/v1/deployments/picky/policies/try/runs")["run_id"]
    world.api.call("DELETE", f"{at}{again}")
    assert runs_until(world, "picky", {"cancelled"})["run_id"] == again
    with pytest.raises(Refusal) as found:
        world.api.call("DELETE", f"{at}nobody")
    assert found.value.code == "unknown_run"


def test_a_model_over_the_budget_of_milliseconds_is_refused(world, models):
    run_to_a_person(world, models, "hasty", ms_per_row=1e-6)
    assert "too slow" in runs_until(world, "hasty", {"refused", "promoted", "waits for a person"})["sentence"]


def test_a_channel_with_a_digest_is_told_of_several_alerts_in_one_message(world, hooks):
    world.api.call("PUT", "/v1/channels/daily", {"kind": "webhook", "url": hooks + "/daily", "digest": "3s"})
    for name in ("one", "two", "three"):
        world.api.call("PUT", f"/v1/deployments/alerted/alert-rules/{name}", {"measure": "silence.actuals", "above": 10**9, "channels": ["daily"]})
    asked = {world.api.post(f"/v1/deployments/alerted/alert-rules/{name}/test")["alert_id"] for name in ("one", "two", "three")}
    body = json.loads(until(lambda: next((g for g in Hooks.got if g[0] == "/daily"), None))[2])
    assert body["type"] == "digest"
    assert {a["event_id"] for a in body["alerts"]} == asked
    until(lambda: len([e for e in world.api.get("/v1/events", type="notification_ended")["items"] if e["payload"]["alert_id"] in asked]) == 3)
    assert len([g for g in Hooks.got if g[0] == "/daily"]) == 1


def test_a_retraining_without_labels_fails_with_its_reason(world, models):
    world.api.post("/v1/deployments", {"name": "blind", "model_id": models["linear"]})
    world.api.call("PUT", "/v1/deployments/blind/policies/try", {"action": "register"})
    world.api.post("/v1/deployments/blind/policies/try/runs")
    runs = until(lambda: [r for p in world.api.items("/v1/deployments/blind/policies") for r in p["runs"] if r["outcome"] != "under way"])
    assert runs[0]["outcome"] == "failed"
    assert "nothing to train on" in runs[0]["sentence"]


def retrained(world, models, name, rows, label):
    """What a run comes to whose deployment saw such rows."""
    rng = random.Random(5)
    world.api.post("/v1/deployments", {"name": name, "model_id": models["linear"]})
    world.api.call("PUT", f"/v1/deployments/{name}/policies/try", {"action": "register", "mode": "quick"})
    ids = [f"{name}{k}" for k in range(len(rows))]
    world.api.post(f"/v1/deployments/{name}/predictions", {"rows": rows, "association_ids": ids})
    facts = [{"association_id": i, "actual": label(row, rng)} for i, row in zip(ids, rows, strict=True)]
    world.api.get(f"/v1/deployments/{name}", after=world.api.post(f"/v1/deployments/{name}/actuals", {"actuals": facts})["position"])
    world.settle(name, len(rows))
    world.api.post(f"/v1/deployments/{name}/policies/try/runs")
    return until(lambda: [r for p in world.api.items(f"/v1/deployments/{name}/policies") for r in p["runs"] if r["outcome"] != "under way"], 60)[0]


def test_a_retraining_on_one_class_fails_with_its_reason(world, models):
    rng = random.Random(6)
    run = retrained(world, models, "onesided", [{"x": rng.gauss(0, 1), "z": rng.gauss(0, 1)} for _ in range(150)], lambda row, rng: 1)
    assert run["outcome"] == "failed"
    assert "class" in run["sentence"] or "value" in run["sentence"], run


def test_a_retraining_whose_production_lost_a_column_learns_from_the_others(world, models):
    rng = random.Random(6)
    run = retrained(world, models, "narrower", [{"x": rng.gauss(0, 1)} for _ in range(300)], noisy_upside_down)
    assert run["outcome"] == "registered", run
    assert [f["name"] for f in world.api.get(f"/v1/models/{run['result']['model_id']}")["inputs"]] == ["x"]


def test_a_policy_that_is_due_each_second_has_one_run_at_a_time(world, models):
    world.api.post("/v1/deployments", {"name": "eager", "model_id": models["linear"]})
    world.api.get("/v1/deployments/eager", after=ask(world, "eager", random.Random(3), 200, label=noisy_upside_down))
    world.api.call("PUT", "/v1/deployments/eager/policies/always", {"trigger": {"kind": "schedule", "every": "1s"}, "minimum_interval": "1s", "action": "register", "mode": "quick"})
    ended = lambda: [e for e in world.api.get("/v1/events", deployment="eager", order="oldest", limit=500)["items"] if e["type"] in {"policy_run_started", "policy_run_finished"}]  # noqa: E731
    until(lambda: len(ended()) >= 6, 120)
    world.api.call("DELETE", "/v1/deployments/eager/policies/always")
    story = [(e["type"], e["payload"]["run_id"]) for e in ended()]
    assert [kind for kind, _ in story[:6]] == ["policy_run_started", "policy_run_finished"] * 3
    assert all(a == b for (_, a), (_, b) in zip(story[0:6:2], story[1:6:2], strict=True))
    assert len({run for _, run in story[:6]}) == 3


def test_a_changed_concept_is_detected_once_its_days_are_mature_and_again_after_a_restart_the_same(world, models):
    world.api.post("/v1/deployments", {"name": "days", "model_id": models["linear"]})
    world.api.call("PATCH", "/v1/deployments/days", {"detectors": [{"kind": "hddm_a"}, {"kind": "adwin", "on": "z"}]})
    world.api.call("PUT", "/v1/deployments/days/alert-rules/turned", {"measure": "concept.worse", "above": 0.5, "window": "30d"})
    rng = random.Random(11)

    def day(number, label, outcomes=True):
        rows = [{"x": rng.gauss(0, 1), "z": rng.gauss(0 if number < 6 else 1.5, 0.3)} for _ in range(150)]
        ids, start = [f"day{number}-{k}" for k in range(150)], 1_700_006_400 + number * 86_400
        world.api.post("/v1/deployments/days/predictions", {"rows": rows, "association_ids": ids, "timestamps": [start + k for k in range(150)]})
        facts = [{"association_id": i, "actual": label(row, rng), "timestamp": start + 3600} for i, row in zip(ids, rows, strict=True)]
        return world.api.post("/v1/deployments/days/actuals", {"actuals": facts})["position"] if outcomes else ""

    for number in range(8):
        position = day(number, truth if number < 4 else upside_down)
    day(8, truth, outcomes=False)
    day(9, truth, outcomes=False)
    world.api.get("/v1/deployments/days", after=position)
    found = until(lambda: world.api.get("/v1/deployments/days/drift")["concept_drift"], 60)
    assert found[0]["direction"] == "worse"
    assert found[0]["after"] > found[0]["before"]
    assert world.sql(found[0]["sql"])
    assert found[0]["since"][:10] in {"2023-11-18", "2023-11-19"}
    changes = until(lambda: len(c) > 1 and c if (c := world.api.get("/v1/deployments/days/drift")["changes"]) else None, 60)
    assert {(c["detector"], c["on"], c["direction"]) for c in changes} >= {("hddm_a", "error", "worse"), ("adwin", "z", "up")}
    moved = next(c for c in changes if c["on"] == "z")
    assert moved["at"][:10] == "2023-11-21"
    assert len(world.sql(moved["sql"])) == 150
    until(lambda: [a for a in world.api.items("/v1/alerts") if a["rule"] == "turned"], 60)
    cohorts = until(lambda: len(c) >= 8 and c if (c := world.api.get("/v1/events", type="cohort_matured", deployment="days")["items"]) else None, 60)
    assert [c["payload"]["rows"] for c in cohorts] == [150] * 8  # the days without outcomes are not mature
    os.kill(json.loads((world.folder / "run.json").read_text())["worker"]["pid"], signal.SIGKILL)
    day(8, truth)
    facts = [{"association_id": f"day9-{k}", "actual": 1, "timestamp": 1_700_006_400 + 9 * 86_400 + 7200} for k in range(150)]
    world.api.get("/v1/deployments/days", after=world.api.post("/v1/deployments/days/actuals", {"actuals": facts})["position"])
    told = until(lambda: world.api.get("/v1/events", type="cohort_matured", deployment="days", limit=100)["items"][8:] and world.api.get("/v1/deployments/days/drift")["concept_drift"], 60)
    rehearse = lambda feature: world.api.post("/v1/deployments/days/alert-backtests", {"rule": {"measure": "drift.psi", "feature": feature, "above": 0.25, "window": "1d"}, "step": "1d"})  # noqa: E731
    always, never = rehearse("z"), rehearse("x")  # z is narrower than in training from the first day on
    assert always["accuracy"]["fell"] >= 1
    assert (always["raised"], always["accuracy"]["announced"], always["accuracy"]["raised_for_nothing"]) == (1, always["accuracy"]["fell"], 0)
    assert (never["raised"], never["accuracy"]["fell"], never["accuracy"]["announced"]) == (0, always["accuracy"]["fell"], 0)
    def proved():
        proof = world.api.get("/v1/deployments/days/verify")["parts"]["alarms"]
        return proof if proof["rows"] and proof["alarms"] else None

    assert until(proved, 60)["equal"]
    assert told[: len(found)] == found  # the detector that was made again told nothing twice
    assert world.api.get("/v1/deployments/days/drift")["changes"][: len(changes)] == changes


def test_accuracy_is_estimated_before_the_actuals_and_the_estimates_own_error_is_shown(world, models):
    found = world.api.get("/v1/deployments/days/accuracy")["estimated"]
    assert found["method"] == "CBPE"
    assert found["metrics"]["accuracy"] > 0.8
    past = found["on_matched_rows"]["accuracy"]
    assert past["error"] == pytest.approx(past["estimated"] - past["realised"])
    assert past["error"] > 0.2  # the concept turned, and the estimate cannot see it
    of_a_day = world.api.get("/v1/deployments/days/accuracy", **{"from": "2023-11-16", "to": "2023-11-17"})  # each of its rows is matched
    assert of_a_day["totals"]["match_rate"] == 1
    for guess in (found, of_a_day["estimated"]):
        sure = [max(row["probabilities"]) for row in world.sql(guess["sql"])]
        assert (guess["rows"], guess["metrics"]["accuracy"]) == (len(sure), pytest.approx(sum(sure) / len(sure)))


def test_an_online_challenger_learns_from_outcomes_and_goes_on_where_its_worker_died(world, models):
    world.api.post("/v1/deployments", {"name": "learns", "model_id": models["constant"]})
    born = world.api.post("/v1/deployments/learns/challengers", {"online": "hoeffding_tree", "parameters": {"grace_period": 50}})
    learner = born["learner_id"]
    rng = random.Random(21)
    for k in range(8):
        if k == 4:
            os.kill(json.loads((world.folder / "run.json").read_text())["worker"]["pid"], signal.SIGKILL)
        world.api.get("/v1/deployments/learns", after=ask(world, "learns", rng, 100, label=truth))
    until(lambda: world.sql("SELECT max(n) AS n FROM learned WHERE deployment = 'learns'")[0]["n"] == 800)
    assert world.sql("SELECT count() AS c, uniqExact(event_id) AS u FROM learned WHERE deployment = 'learns'") == [{"c": 800, "u": 800}]
    position = ask(world, "learns", rng, 200, label=truth)
    world.api.get("/v1/deployments/learns", after=position)
    rows = world.sql(f"SELECT avg(predicted_class = actual_class) AS a FROM outcomes WHERE deployment = 'learns' AND model_id = '{learner}' AND recorded_at > (SELECT max(recorded_at) - INTERVAL 1 MILLISECOND FROM predictions WHERE deployment = 'learns')")
    assert rows[0]["a"] > 0.9
    found = world.api.get("/v1/deployments/learns/comparison")["challengers"]
    assert found[0]["metrics"]["log_loss"]["challenger"] < found[0]["metrics"]["log_loss"]["champion"]
    promoted = world.api.call("PUT", "/v1/deployments/learns/champion", {"model_id": learner, "reason": "it learns"})
    frozen = promoted["champion"]["model_id"]
    again = {"model_id": learner, "reason": "it learns"}
    first, second = (world.api.call("PUT", "/v1/deployments/learns/champion", again, headers={"Idempotency-Key": "once"})["version"] for _ in range(2))
    assert first == second
    frozen = world.api.get("/v1/deployments/learns")["champion"]["model_id"]
    assert frozen != learner
    assert "frozen after 1,000 outcomes" in promoted["champion"]["blueprint"]
    assert learner in {c["model_id"] for c in promoted["challengers"]}
    assert world.api.get(f"/v1/models/{frozen}")["snapshot_of"]["learner"] == learner
    world.api.get("/v1/deployments/learns", after=ask(world, "learns", rng, 200, label=truth))
    until(lambda: world.sql("SELECT max(n) AS n FROM learned WHERE deployment = 'learns'")[0]["n"] == 1200)  # it goes on learning
    served = world.sql(f"SELECT count() AS n, avg(predicted_class = actual_class) AS a FROM outcomes WHERE deployment = 'learns' AND model_id = '{frozen}'")[0]
    assert served["n"] == 200
    assert served["a"] > 0.9
    receipt = world.api.post("/v1/deployments/learns/predictions", {"rows": [{"x": 1.5, "z": 0.0}]})
    world.api.get("/v1/deployments/learns", after=receipt["position"])
    assert world.api.post(f"/v1/predictions/{receipt['request_id']}/reexecute")["equal"]
    with pytest.raises(Refusal) as refused:
        world.api.post("/v1/deployments/learns/challengers", {"online": "oracle"})
    assert refused.value.code == "wrong_learner"
    with pytest.raises(Refusal) as refused:
        world.api.get(f"/v1/models/{learner}")
    assert refused.value.code == "no_package"
    assert world.api.get("/v1/deployments/learns/verify")["equal"]


def test_a_promoted_model_that_turns_out_worse_is_rolled_back_at_a_later_look(world, models):
    run_id = run_to_a_person(world, models, "regretful", rollback_rows=100, rollback_looks=60)
    runs_until(world, "regretful", {"waits for a person"})
    world.api.post(f"/v1/deployments/regretful/policies/try/runs/{run_id}/decision", {"decision": "promote", "reason": "on probation"})
    rng = random.Random(11)

    def looks():
        return [e["payload"] for e in world.api.get("/v1/events", deployment="regretful", order="oldest", limit=500)["items"] if e["type"] == "policy_run_looked"]

    while not looks():  # the world stays upside down: the new model is right
        ask(world, "regretful", rng, 20, label=noisy_upside_down)
        time.sleep(0.3)
    assert world.api.get("/v1/deployments/regretful")["champion"]["model_id"] != models["linear"]
    rng, end = random.Random(12), time.monotonic() + 120
    while (run := next(world.api.items("/v1/deployments/regretful/policies"))["runs"][0])["outcome"] == "under way" and time.monotonic() < end:
        ask(world, "regretful", rng, 120, label=truth)  # and turns back
        time.sleep(0.2)
    assert run["outcome"] == "rolled_back", run
    found = looks()
    assert [fact["look"] for fact in found] == list(range(1, len(found) + 1))
    assert all(fact["evidence"]["rows"] >= 100 for fact in found)
    champion = world.api.get("/v1/deployments/regretful")["champion"]
    assert champion["model_id"] == models["linear"]
    assert "rolled back by policy try: the old champion is better" in champion["reason"]


def test_promotions_at_the_same_time_end_in_one_champion_on_which_all_agree(world, models):
    both = [models["linear"], models["lightgbm"]]
    world.api.post("/v1/deployments", {"name": "rush", "model_id": both[0]})
    codes, answered, over = [], [], threading.Event()

    def promote(k):
        for n in range(6):
            try:
                world.api.call("PUT", "/v1/deployments/rush/champion", {"model_id": both[(k + n) % 2], "reason": f"{k}.{n}"})
                codes.append("done")
            except Refusal as error:
                codes.append(error.code)

    def predict():
        while not over.is_set():
            found = world.api.post("/v1/deployments/rush/predictions", {"rows": [{"x": 1.0, "z": 0.0}]})
            answered.append((found["deployment_version"], found["model_id"]))

    asking = threading.Thread(target=predict)
    promoting = [threading.Thread(target=promote, args=(k,)) for k in range(4)]
    for thread in (asking, *promoting):
        thread.start()
    for thread in promoting:
        thread.join()
    over.set()
    asking.join()
    assert set(codes) <= {"done", "is_champion"}, codes
    changes = [e["payload"]["model_id"] for e in world.api.get("/v1/events", deployment="rush", order="oldest", limit=500)["items"] if e["type"] == "champion_changed"]
    assert len(changes) == codes.count("done")
    champion = world.api.get("/v1/deployments/rush")["champion"]["model_id"]
    assert champion == ([both[0], *changes])[-1]
    assert world.api.post("/v1/deployments/rush/predictions", {"rows": [{"x": 1.0, "z": 0.0}]})["model_id"] == champion
    of_version = [both[0], *changes]  # version 1, 2, …
    assert all(of_version[version - 1] == model for version, model in answered)
    assert answered == sorted(answered, key=lambda a: a[0])  # no request went back to an older champion


def test_a_silenced_rule_is_raised_and_tells_nobody_until_the_silence_ends(world, hooks):
    world.api.call("PUT", "/v1/channels/hush", {"kind": "webhook", "url": f"{hooks}/hush"})
    world.api.call("PUT", "/v1/deployments/alerted/alert-rules/hushed", {"measure": "drift.psi", "above": 1e9, "channels": ["hush"]})
    world.api.post("/v1/deployments/alerted/alert-rules/hushed/silence", {"for": "8h"})
    rule = next(r for r in world.api.items("/v1/deployments/alerted/alert-rules") if r["name"] == "hushed")
    assert rule["silenced_until"] > (time.time() + 7 * 3600) * 1e6
    assert "silenced until" in world.api.text("/deployments/alerted")
    unheard = world.api.post("/v1/deployments/alerted/alert-rules/hushed/test")["alert_id"]
    world.api.post("/v1/deployments/alerted/alert-rules/hushed/silence", {"for": "0s"})
    heard = world.api.post("/v1/deployments/alerted/alert-rules/hushed/test")["alert_id"]
    assert heard != unheard
    until(lambda: [g for g in Hooks.got if g[0] == "/hush"])
    assert [json.loads(g[2])["event_id"] for g in Hooks.got if g[0] == "/hush"] == [heard]
    for wrong in ({}, {"for": "8h", "until": "2030-01-01"}, {"for": "long"}):
        with pytest.raises(Refusal) as found:
            world.api.post("/v1/deployments/alerted/alert-rules/hushed/silence", wrong)
        assert found.value.status == 422
