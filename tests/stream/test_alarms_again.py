"""Alarms proved: a new detector that reads the recorded days raises those that were told, and notices one that was not, or was told otherwise."""

from dataclasses import asdict

import numpy as np
import orjson
import pytest

from stream.association import literal
from stream.concepts import Detectors, matured, read_together
from stream.verify import alarms
from tests.stream.conftest import MINUTE, T0

DAY = 86_400_000_000


class Forged:
    """The log, with events of our own."""

    def __init__(self, log, events):
        self._log, self.events = log, events

    def rows(self, sql, *more):
        return self.events if "cohort_matured" in sql else self._log.rows(sql, *more)

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
    world.new_engine().cycle(world.actuals(facts, 2000))
    log = world.front.reader
    looks = [matured(log, literal(world.name), first, first + 7 * DAY, first + 9 * DAY), matured(log, literal(world.name), first + 7 * DAY, first + 8 * DAY, first + 9 * DAY)]
    cohorts = [cohort for look in looks for cohort in look]
    assert len(cohorts) == 8
    detectors, told = Detectors(log, trained[0], world.name, []), []
    while detectors.read < len(cohorts):
        told += [fact for _, fact in detectors.feed(read_together(cohorts[detectors.read :]))]
    assert told
    assert told[0].direction == "worse"
    events = [{"type": "cohort_matured", "payload": orjson.dumps(asdict(c))} for c in cohorts]
    return log, trained[0], world.name, events, [{"type": "concept_drift_detected", "payload": orjson.dumps(asdict(f))} for f in told]


def test_what_was_told_is_told_again(story):
    log, registry, name, events, told = story
    found = alarms(Forged(log, events + told), registry, name)
    assert found["equal"], found
    assert found["rows"] == 700, "the newest look is left out"


def test_an_alarm_that_was_kept_back_invented_or_changed_is_noticed(story):
    log, registry, name, events, told = story
    changed = [{**told[0], "payload": orjson.dumps({**orjson.loads(told[0]["payload"]), "after": 0.123})}, *told[1:]]
    for forged in (told[1:], told + told[:1], changed):
        assert not alarms(Forged(log, events + forged), registry, name)["equal"]


def test_where_rows_are_gone_it_is_said(story):
    log, registry, name, events, _ = story
    assert "left_out" in alarms(Forged(log, [*events, {"type": "data_erased", "payload": b"{}"}]), registry, name)
    assert "left_out" in alarms(Forged(log, events), registry, name, since=5)
