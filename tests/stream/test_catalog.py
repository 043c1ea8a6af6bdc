"""The catalog is a pure fold; events keep their stored form."""

import copy
import json

import pytest

from stream import events
from stream.errors import Malformed, Refused
from stream.events import Event
from stream.projections.catalog import Catalog


def event(fact, deployment="", k=None):
    if k is None:
        k = [0]
    k[0] += 1
    return Event(f"e{k[0]}", 1000 + k[0], "me", deployment, fact)


def model(model_id, target="y", task="binary"):
    return events.ModelRegistered(model_id, "p", "linear", task, target, "log_loss", {})


@pytest.fixture
def history():
    return [
        event(model("a" * 64)),
        event(model("b" * 64)),
        event(model("c" * 64, target="other")),
        event(events.DeploymentCreated("a" * 64, "id"), "d"),
        event(events.ChallengerAdded("b" * 64, 0.5), "d"),
        event(events.ChampionChanged("b" * 64, "better", 2), "d"),
    ]


def fold(history):
    catalog = Catalog()
    for item in history:
        catalog.apply(item)
    return catalog


def test_two_folds_of_the_same_events_are_equal(history):
    assert fold(history) == fold([events.decode(e.encode()) for e in history])


def test_versions_remember_who_served_and_who_shadowed(history):
    deployment = fold(history).deployment("d")
    assert [(v.version, v.champion[0], [m[0] for m, _ in v.challengers]) for v in deployment.versions] == [(1, "a", []), (2, "a", ["b"]), (3, "b", ["a"])]


@pytest.mark.parametrize(
    ("fact", "deployment", "kind", "code"),
    [
        (events.DeploymentCreated("a" * 64), "d", "conflict", "deployment_exists"),
        (events.DeploymentCreated("z" * 64), "new", "unknown", "unknown_model"),
        (events.ChampionChanged("a" * 64, "why", 1), "d", "conflict", "version_moved"),
        (events.ChampionChanged("b" * 64, "why"), "d", "conflict", "is_champion"),
        (events.ChampionChanged("c" * 64, "why"), "d", "invalid", "other_target"),
        (events.ChampionChanged("a" * 64, "why"), "nope", "unknown", "unknown_deployment"),
        (events.ChallengerAdded("a" * 64), "d", "conflict", "is_there"),
        (events.ChallengerRemoved("b" * 64), "d", "unknown", "no_challenger"),
        (events.DeploymentStateChanged("active"), "d", "conflict", "wrong_state"),
        (events.ReplayFinished("r", 1), "d", "conflict", "job_ended"),
        (events.ReplayProgressed("r", 1, 2), "d", "conflict", "job_ended"),
    ],
)
def test_a_proposal_that_does_not_fit_is_refused_and_changes_nothing(history, fact, deployment, kind, code):
    catalog = fold(history)
    before = copy.deepcopy(catalog)
    with pytest.raises(Refused) as found:
        catalog.apply(event(fact, deployment))
    assert (found.value.kind, found.value.code) == (kind, code)
    assert catalog == before


def test_a_replay_tells_how_far_it_is_and_what_is_cancelled_stays_cancelled(history):
    catalog = fold(history)
    catalog.apply(event(events.ReplayRequested("r", "a" * 64, "2026-01-01", "2026-01-02"), "d"))
    catalog.apply(event(events.ReplayProgressed("r", 50, 200), "d"))
    assert (catalog.jobs["r"].state, catalog.jobs["r"].progress) == ("queued", 0.25)
    catalog.apply(event(events.ReplayFinished("r", 50, "cancelled"), "d"))
    assert catalog.jobs["r"].state == "cancelled"
    for late in (events.ReplayProgressed("r", 100, 200), events.ReplayFinished("r", 200)):
        with pytest.raises(Refused):
            catalog.apply(event(late, "d"))


def test_a_model_is_found_by_a_unique_prefix(history):
    catalog = fold(history)
    assert catalog.model("aaaaaaaa").model_id == "a" * 64
    with pytest.raises(Refused):
        catalog.model("aaa")


GOLDEN = {
    "event_id": "x1",
    "type": "champion_changed",
    "version": 1,
    "occurred_at": 1760000000000000,
    "actor": "ann",
    "deployment": "d",
    "payload": {"model_id": "m", "reason": "r", "expected_version": None},
}


def test_the_stored_form_of_version_one_stays_readable():
    found = events.decode(json.dumps({**GOLDEN, "payload": {**GOLDEN["payload"], "added_by_a_newer_version": 1}}).encode())
    assert json.loads(found.encode()) == GOLDEN


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"type": "unheard_of"}', json.dumps({**GOLDEN, "payload": {}}).encode()])
def test_what_is_no_event_is_malformed(data):
    with pytest.raises(Malformed):
        events.decode(data)


def test_every_event_type_has_a_docstring_and_a_place_in_the_fold():
    from stream.projections.catalog import APPLY
    from stream.projections.watch import WATCHED

    assert set(APPLY) | WATCHED == set(events.FACTS)
    assert not set(APPLY) & WATCHED
    assert all(kind.__doc__ for kind in events.FACTS.values())
