"""A/B and canary: sticky shares, one answer in order, each model's rows its own, and a guard that takes routes away."""

import asyncio
import random
import time
from dataclasses import replace

import numpy as np
import pytest

from gateway.client import Refusal
from gateway.routing import chosen
from models.registry import Artifacts, Registry
from stream.broker import Producer
from stream.clock import now_us
from stream.events import Event, ModelRegistered, new_id
from stream.topics import CONTROL
from tests.support import deploy_small

NAME = "split"
PATH = f"/v1/deployments/{NAME}"


@pytest.fixture(scope="module")
def models(system, tmp_path_factory):
    deploy_small(system, tmp_path_factory.mktemp(NAME), names=(NAME,), shadows=())
    project = next(p["project_id"] for p in system.api.items("/v1/projects") if p["target"] == "y")
    return {m["blueprint"]: m["model_id"] for m in system.api.get(f"/v1/projects/{project}/leaderboard")["models"] if not m["recommended"]}


def rows_of(count, seed=0):
    rng = random.Random(seed)
    return [{"x": rng.gauss(0, 1), "z": rng.gauss(0, 1)} for _ in range(count)]


def ask(system, rows, ids):
    return system.api.post(PATH + "/predictions", {"rows": rows, "association_ids": ids})


def test_a_moved_share_moves_only_the_ids_between_the_bounds():
    ids = [f"id{k}" for k in range(20_000)]
    small, large = chosen("d", [("m", 0.1)], ids), chosen("d", [("m", 0.25)], ids)
    assert abs((small == 0).mean() - 0.1) < 0.01
    assert abs((large == 0).mean() - 0.25) < 0.01
    assert ((small == 0) <= (large == 0)).all()
    numbered = [f"req-{k:06d}" for k in range(1000)]
    assert abs((chosen("flights", [("m", 0.1)], numbered) == 0).mean() - 0.1) < 0.03
    three = chosen("d", [("a", 0.3), ("b", 0.3)], ids)
    assert all(abs((three == k).mean() - share) < 0.015 for k, share in ((0, 0.3), (1, 0.3), (-1, 0.4)))


def test_each_row_is_answered_by_its_model_in_the_order_that_was_asked_and_sticks_to_it(system, models):
    champion = system.api.get(PATH)["champion"]["model_id"]
    other = next(m for name, m in models.items() if name == "lightgbm" and m != champion)
    rows, ids = rows_of(300), [f"s{k}" for k in range(300)]
    alone = ask(system, rows, ids)["predictions"]
    system.api.call("PUT", PATH + "/routes", {"routes": [{"model_id": other, "share": 0.3}], "reason": "a canary"})
    answer = ask(system, rows, ids)
    routed = [p.get("model_id") == other for p in answer["predictions"]]
    assert 50 < sum(routed) < 130
    assert [p["row"] for p in answer["predictions"]] == list(range(300))
    assert [p["association_id"] for p in answer["predictions"]] == ids
    for p, before, moved in zip(answer["predictions"], alone, routed, strict=True):
        assert (p["probabilities"] == before["probabilities"]) or moved
    again = ask(system, rows[::-1], ids[::-1])["predictions"][::-1]
    assert [p.get("model_id") == other for p in again] == routed
    one = ask(system, rows[:1], ids[:1])["predictions"][0]
    assert (one.get("model_id") == other) == routed[0]
    assert one["probabilities"] == answer["predictions"][0]["probabilities"]


def test_the_log_and_the_numbers_know_which_model_answered_which_row(system, models):
    system.api.get(PATH, after=ask(system, rows_of(1), ["last"])["position"])  # all that was asked before is in the log
    before = {r["m"]: r["n"] for r in system.sql(f"SELECT model_id AS m, count() AS n FROM predictions WHERE deployment = '{NAME}' GROUP BY m")}
    rows, ids = rows_of(200, seed=1), [f"t{k}" for k in range(200)]
    answer = ask(system, rows, ids)
    position = system.api.post(PATH + "/actuals", {"actuals": [{"association_id": i, "actual": int(r["x"] > 0)} for i, r in zip(ids, rows, strict=True)]})["position"]
    system.api.get(PATH, after=answer["position"])
    system.api.get(PATH, after=position)
    other = next(p["model_id"] for p in answer["predictions"] if "model_id" in p)
    moved = sum("model_id" in p for p in answer["predictions"])
    after = {r["m"]: r["n"] for r in system.sql(f"SELECT model_id AS m, count() AS n FROM predictions WHERE deployment = '{NAME}' AND role = 'champion' GROUP BY m")}
    assert after[other] - before.get(other, 0) == moved
    assert sum(after.values()) - sum(before.values()) == 200
    assert system.sql(f"SELECT count() AS n, uniqExact(association_id) AS u FROM outcomes WHERE deployment = '{NAME}'") == [{"n": 200, "u": 200}]
    assert system.api.get(PATH + "/accuracy")["totals"]["matched"] == 200
    assert system.api.get(PATH + "/accuracy", model_id=other)["totals"]["matched"] == moved
    assert system.api.get(PATH + "/verify")["equal"]
    receipt = system.api.post(f"/v1/predictions/{answer['request_id']}/reexecute")
    assert receipt["equal"]
    assert len(receipt["rows"]) == 200


def test_a_row_that_cannot_be_scored_spoils_no_other_whoever_answers(system, models):
    rows, ids = rows_of(40, seed=2), [f"u{k}" for k in range(40)]
    rows[7] = {"x": [1], "z": 0.0}
    found = ask(system, rows, ids)["predictions"]
    assert [k for k, p in enumerate(found) if "error" in p] == [7]
    with pytest.raises(Refusal) as refused:
        ask(system, [{"x": [1]}, {"x": {}}], ["v1", "v2"])
    assert refused.value.status == 422


@pytest.mark.parametrize("routes", [[{"model_id": "CHAMPION", "share": 0.1}], [{"model_id": "OTHER", "share": 1.0}], [{"model_id": "OTHER", "share": 0.5}, {"model_id": "OTHER", "share": 0.1}], [{"model_id": "OTHER"}], {}, [{"share": 0.1}]])
def test_routes_that_make_no_sense_are_refused(system, models, routes):
    names = {"CHAMPION": system.api.get(PATH)["champion"]["model_id"], "OTHER": models["lightgbm"]}
    body = [{**r, "model_id": names[r["model_id"]]} if "model_id" in r else r for r in routes] if isinstance(routes, list) else routes
    with pytest.raises(Refusal) as found:
        system.api.call("PUT", PATH + "/routes", {"routes": body})
    assert found.value.code in {"wrong_routes", "missing_field"}


def test_what_cannot_be_said_of_every_part_is_refused_before_any_part_is_recorded(system, models):
    count = f"SELECT count() AS n FROM predictions WHERE deployment = '{NAME}' AND role = 'champion'"
    system.api.get(PATH, after=ask(system, rows_of(1), ["here"])["position"])
    before = system.sql(count)
    for query in ({"interval": 0.9}, {"explain": 2}):
        with pytest.raises(Refusal):
            system.api.post(PATH + "/predictions", {"rows": rows_of(1500)}, **query)
    system.api.get(PATH, after=ask(system, rows_of(1), ["there"])["position"])
    assert system.sql(count)[0]["n"] == before[0]["n"] + 1


@pytest.mark.parametrize("guard", [[{"kind": "manual"}], ["x"], [{"measure": "silence.actuals", "above": 1}], [{"measure": "estimated.loss", "above": 1, "and": {"measure": "drift.psi", "above": 1}}]])
def test_a_guard_that_cannot_watch_one_models_rows_is_refused(system, models, guard):
    with pytest.raises(Refusal) as found:
        system.api.call("PUT", PATH + "/routes", {"routes": [{"model_id": models["lightgbm"], "share": 0.2}], "guard": guard})
    assert found.value.status == 422


def test_a_deployment_is_not_born_with_settings_that_nobody_has_read(system, models):
    with pytest.raises(Refusal) as found:
        system.api.post("/v1/deployments", {"name": "odd", "model_id": models["linear"], "routes": [{"model": "y"}]})
    assert found.value.code == "set_it_after"


def test_a_canary_that_trips_its_guard_answers_no_more(system, models):
    other = models["constant"]
    system.api.call("PUT", PATH + "/routes", {"routes": [{"model_id": other, "share": 0.5}], "guard": [{"measure": "accuracy.accuracy", "below": 0.8, "window": "1d", "least_rows": 50}]})
    rng, end = random.Random(9), time.monotonic() + 40
    while system.api.get(PATH)["settings"].get("routes") and time.monotonic() < end:
        rows, tag = rows_of(100, seed=rng.random()), rng.random()
        ids = [f"{tag}-{k}" for k in range(100)]
        ask(system, rows, ids)
        system.api.post(PATH + "/actuals", {"actuals": [{"association_id": i, "actual": int(r["x"] > 0)} for i, r in zip(ids, rows, strict=True)]})
        time.sleep(0.3)
    found = system.api.get(PATH)
    assert "routes" not in found["settings"]
    assert "accuracy.accuracy of model" in found["versions"][-1]["reason"]
    assert not any("model_id" in p for p in ask(system, rows_of(100), [f"w{k}" for k in range(100)])["predictions"])


def test_a_canary_is_watched_for_what_it_says_otherwise(system, models):
    other = models["constant"]
    assert other not in {c["model_id"] for c in system.api.get(PATH)["challengers"]}
    system.api.call("PUT", PATH + "/routes", {"routes": [{"model_id": other, "share": 0.3}], "guard": [{"measure": "disagreement.mean", "above": 0.1, "window": "1h", "least_rows": 100}]})
    assert other in {c["model_id"] for c in system.api.get(PATH)["challengers"]}
    end = time.monotonic() + 40
    while system.api.get(PATH)["settings"].get("routes") and time.monotonic() < end:
        ask(system, rows_of(100, seed=time.time()), [f"far-{time.time()}-{k}" for k in range(100)])
        time.sleep(0.3)
    found = system.api.get(PATH)
    assert "routes" not in found["settings"]
    assert "disagreement.mean of model" in found["versions"][-1]["reason"]


def weights_lost(member):
    """The linear model's answers are no numbers."""
    return replace(member, tables=[np.full_like(table, np.nan) for table in member.tables])


def levels_lost(member):
    """It answers a row without values, as at the warm-up, and raises at one of a level that it does not have."""
    pieces = [{**piece, "kind": "index", "edges": None, "index": [0]} for piece in member.pieces]
    return replace(member, pieces=pieces, tables=[table[-1:] for table in member.tables])


@pytest.fixture(scope="module", params=[weights_lost, levels_lost])
def failing(system, models, request):
    """A model that is loaded and then fails."""
    registry = Registry(Artifacts((system.folder.resolve() / "artifacts").as_uri()))
    whole = registry.load(models["linear_strong"])
    lost = request.param(whole.plan.parts[0].member)
    digest = registry.save(replace(whole.plan, parts=(replace(whole.plan.parts[0], member=lost),)), whole.baseline, whole.metadata)
    known = next(m for m in system.api.items("/v1/models") if m["model_id"] == models["linear_strong"])
    kept = {k: known[k] for k in ("validation", "holdout", "ms_per_row", "recommended", "trained_on", "family")}
    event = Event(new_id(), now_us(), "test", "", ModelRegistered(digest, "", "lost", known["task"], known["target"], whole.metadata["metric"], kept))

    async def tell():
        producer = Producer(f"127.0.0.1:{system.environment['CHAMPION_BROKER_PORT']}")
        await producer.send(CONTROL, [event.encode()], 0)
        await producer.stop()

    asyncio.run(tell())
    end = time.monotonic() + 20
    while time.monotonic() < end and digest not in {m["model_id"] for m in system.api.items("/v1/models")}:
        time.sleep(0.1)
    return digest


def test_where_a_canary_fails_the_champion_answers_and_the_canary_is_taken_back(system, models, failing):
    rows, ids = rows_of(200, seed=8), [f"{failing[:6]}-{k}" for k in range(200)]
    system.api.call("PUT", PATH + "/routes", {"routes": []})
    alone = ask(system, rows, ids)["predictions"]
    system.api.call("PUT", PATH + "/routes", {"routes": [{"model_id": failing, "share": 0.5}], "guard": [{"measure": "health.error_rate", "above": 0.2, "window": "1h", "least_rows": 5}]})
    for k in range(20):
        answer = ask(system, rows, ids)
        assert [p["probabilities"] for p in answer["predictions"]] == [p["probabilities"] for p in alone]
        assert not any("model_id" in p for p in answer["predictions"])
        if k == 0:
            system.api.get(PATH, after=answer["position"])
            stored = system.sql(f"SELECT count() AS n, uniqExact(model_id) AS models FROM predictions WHERE request_id = '{answer['request_id']}' AND role = 'champion'")
            assert stored == [{"n": 200, "models": 1}]
    end = time.monotonic() + 40
    while system.api.get(PATH)["settings"].get("routes") and time.monotonic() < end:
        time.sleep(0.3)
    found = system.api.get(PATH)
    assert "routes" not in found["settings"]
    assert "health.error_rate of model" in found["versions"][-1]["reason"]


def test_a_canary_that_is_promoted_ends_its_routes(system, models):
    system.api.call("PUT", PATH + "/routes", {"routes": [{"model_id": models["lightgbm"], "share": 0.2}]})
    found = system.api.call("PUT", PATH + "/champion", {"model_id": models["lightgbm"], "reason": "the canary sings"})
    assert "routes" not in found["settings"]
    assert found["champion"]["model_id"] == models["lightgbm"]
