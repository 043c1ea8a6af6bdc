"""Alarms proved: a new detector that reads the recorded days raises those that were told, and notices one that was not, or was told otherwise."""

from dataclasses import asdict

import numpy as np
import orjson
import pytest

from stream.clock import iso, now_us
from stream.cohorts import Maturing, read_together
from stream.concepts import Detectors
from stream.events import ChangeDetected, ConceptDriftDetected
from stream.verify import alarms
from tests.stream.conftest import MINUTE, T0

DAY = 86_400_000_000
ASKED = [{"kind": "ddm", "on": "error"}, {"kind": "page_hinkley", "on": "error"}]


class Forged:
    """The log, with events of our own."""

    def __init__(self, log, events):
        self._log, self.events = log, events

    def rows(self, sql, *more):
        return [{"at": 0, **event} for event in self.events] if "cohort_matured" in sql else self._log.rows(sql, *more)

    def arrow(self, sql, **more):
        return self._log.arrow(sql, **more)


@pytest.fixture
def story(world, trained):
    """Eight days, of which the labels turn round on the fifth; what a steward would have told of them."""
    rng, first = np.random.default_rng(3), T0 // DAY * DAY
    records = world.requests(800, rows_each=1, seed=4)
    facts = []
    for k, record in enumerate(records):
        day = k // 100
        record["ts"] = [first + day * DAY + (k % 100) * MINUTE]
        right = record["k1"][0] if rng.random() < 0.9 else ""
        other = "false" if record["k1"][0] == "true" else "true"
        facts.append([f"a{k}-0", (right or other) if day < 4 else other, record["ts"][0] + MINUTE, f"f{k}"])
    world.new_engine().cycle(world.raws(records))
    world.new_engine().cycle(world.actuals(facts, 801))
    log = world.front.reader
    maturing, day = Maturing(log, world.name), first // DAY
    looks = [maturing.cohorts(first, day + 7, first + 9 * DAY), maturing.cohorts(first + 7 * DAY, day + 8, first + 9 * DAY)]
    cohorts = [cohort for look in looks for cohort in look]
    assert len(cohorts) == 8
    detectors, told = Detectors(log, trained[0], world.name, ASKED, []), []
    while detectors.read < len(cohorts):
        told += [fact for _, fact in detectors.feed(read_together(cohorts[detectors.read :]))]
    assert told
    assert {type(fact) for fact in told} == {ConceptDriftDetected, ChangeDetected}
    assert next(fact for fact in told if isinstance(fact, ConceptDriftDetected)).direction == "worse"
    told = [fact for fact in told if fact.until < iso(first + 8 * DAY)]
    events = [{"type": "cohort_matured", "payload": orjson.dumps(asdict(c))} for c in cohorts]
    concepts, changes = ([{"type": kind.TYPE, "payload": orjson.dumps(asdict(f))} for f in told if isinstance(f, kind)] for kind in (ConceptDriftDetected, ChangeDetected))
    return log, trained[0], world.name, events, concepts, changes


def test_what_was_told_is_told_again(story):
    log, registry, name, events, told, _ = story
    found = alarms(Forged(log, events + told), registry, name)
    assert found["equal"], found
    assert found["rows"] == 700, "the newest look is left out"


def test_an_alarm_that_was_kept_back_invented_or_changed_is_noticed(story):
    log, registry, name, events, told, _ = story
    changed = [{**told[0], "payload": orjson.dumps({**orjson.loads(told[0]["payload"]), "after": 0.123})}, *told[1:]]
    for forged in (told[1:], told + told[:1], changed):
        assert not alarms(Forged(log, events + forged), registry, name)["equal"]


def configured(asked, at):
    return {"type": "deployment_configured", "payload": orjson.dumps({"settings": {"detectors": asked}, "reason": ""}), "at": at}


def test_alarms_of_detectors_that_were_asked_for_are_raised_again(story):
    log, registry, name, events, told, changes = story
    assert {orjson.loads(c["payload"])["detector"] for c in changes} == {"ddm", "page_hinkley"}
    whole = [*events, *told, *changes]
    for asked in ([], [configured(ASKED, 5)], [configured(ASKED, 5), configured(None, 6)]):
        found = alarms(Forged(log, [*asked, *whole]), registry, name)
        assert found["equal"], found
        assert found["alarms"] == len(told) + len(changes)
        assert found["rebuilt"] == found["live"]
    forged = {**changes[0], "payload": orjson.dumps({**orjson.loads(changes[0]["payload"]), "after": 0.123})}
    for events_ in ([*whole[: -len(changes)], forged, *changes[1:]], [*whole, changes[0]], [*whole, {**forged, "payload": forged["payload"].replace(b'"on":"error"', b'"on":"z"')}]):
        assert not alarms(Forged(log, events_), registry, name)["equal"]


def test_an_alarm_of_a_detector_may_be_kept_back_only_while_it_is_not_asked_for(story):
    log, registry, name, events, told, changes = story
    less = [*events, *told, *changes[1:]]
    assert not alarms(Forged(log, [configured(ASKED, 5), *less]), registry, name)["equal"]
    for asked in ([configured(ASKED, 5), configured(None, 6)], [configured(ASKED, now_us() + DAY)], []):
        assert alarms(Forged(log, [*asked, *less]), registry, name)["equal"]


def test_where_rows_are_gone_it_is_said(story):
    log, registry, name, events, *_ = story
    assert "left_out" in alarms(Forged(log, [*events, {"type": "data_erased", "payload": b"{}"}]), registry, name)
    assert "left_out" in alarms(Forged(log, events), registry, name, since=5)
