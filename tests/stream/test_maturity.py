"""Accuracy of a window whose outcomes are still coming: its early ones say nothing of the others, so nothing is judged by them."""

import uuid

import pytest

from stream.batches import actual_batches
from stream.clock import iso
from stream.comparison import comparison_answer
from stream.measures import measured
from stream.monitoring import accuracy_answer
from stream.queries import Window, had_their_time
from tests.stream.conftest import MINUTE, T0

DAY = 24 * 60 * MINUTE
FIRST = T0 // DAY * DAY
EACH = 400
EARLY, LATE = 120 * MINUTE, DAY


class Ripening:
    """Three days of rows; nine outcomes of ten are known after two hours and one after a day, but of the third day only each third row's is, and all of those are wrong."""

    def __init__(self, world):
        self.world, self.engine, self.sent, self.labels = world, world.new_engine(), 0, uuid.uuid4().hex[:16]
        self.records = world.requests(3 * EACH, rows_each=1, seed=9)
        for k, record in enumerate(self.records):
            record["ts"] = [FIRST + k // EACH * DAY + k % EACH * MINUTE]
            record["t"] = record["ts"][0]
        self.engine.cycle(world.raws(self.records))

    def observe(self, rows, *, right):
        facts = []
        for k in rows:
            said = self.records[k]["k1"][0]
            label = said if right else {"true": "false", "false": "true"}[said]
            known = self.records[k]["t"] + (LATE if right and k % 10 == 9 else EARLY)
            self.sent += 1
            facts.append({"k": "a", "d": self.world.name, "p": self.world.partition, "s": self.sent, "t": known, "rows": [[f"a{k}-0", label, known, f"f{k}"]]})
        self.engine.cycle(self.world.raws(facts, lambda records, _: actual_batches(records, self.labels)))

    def ask(self, measure, until=None):
        return measured(self.world.front.reader, self.engine._registry, self.engine._follower.catalog, self.world.name, {"measure": measure, "window": "1d"}, FIRST + 9 * DAY, until)

    def answer(self, day):
        window = Window(self.world.name, FIRST + day * DAY, FIRST + (day + 1) * DAY)
        return accuracy_answer(self.world.front.reader, self.engine._registry, self.engine._follower.catalog, window)


@pytest.fixture
def ripening(world):
    story = Ripening(world)
    story.observe(range(2 * EACH), right=True)
    story.observe(range(2 * EACH, 3 * EACH, 3), right=False)
    return story


def test_a_rule_waits_for_the_outcomes_of_its_window_and_looks_at_what_had_its_time_until_then(ripening):
    last = FIRST + 2 * DAY + 399 * MINUTE
    assert had_their_time(ripening.world.front.reader, ripening.world.name) == last + EARLY - LATE
    found = ripening.ask("accuracy.accuracy")
    assert found.value == 1.0, "the day before, whose outcomes are all in"
    assert found.window["to"] == iso(last + EARLY - LATE)
    assert ripening.ask("accuracy.match_rate").value == pytest.approx(1 / 3, abs=0.01), "what is waited for is no secret"
    assert ripening.ask("accuracy.accuracy", until=last).value is None, "of the past of a rehearsal there is no other window"
    ripening.observe([k for k in range(2 * EACH, 3 * EACH) if (k - 2 * EACH) % 3], right=True)
    assert ripening.ask("accuracy.accuracy").value == pytest.approx(2 / 3, abs=0.01)


def test_the_status_of_a_window_is_unknown_while_its_outcomes_still_come(ripening):
    found = ripening.answer(2)
    assert (found["totals"]["mature"], found["status"], found["totals"]["matched"]) == (False, "unknown", 134)
    assert found["totals"]["metrics"]["accuracy"]["value"] == 0.0, "the number is there, the judgement is not"
    before = ripening.answer(1)
    assert before["totals"]["mature"] is True
    assert before["status"] != "unknown"
    ripening.observe([k for k in range(2 * EACH, 3 * EACH) if (k - 2 * EACH) % 3 == 1], right=False)
    ripening.observe([k for k in range(2 * EACH, 3 * EACH) if (k - 2 * EACH) % 3 == 2], right=True)
    later = ripening.answer(2)
    assert (later["totals"]["mature"], later["status"]) == (True, "failing")
    assert later["totals"]["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3, abs=0.01)


def test_what_maturity_is_made_of_are_selects_of_their_own(ripening):
    log, totals = ripening.world.front.reader, ripening.answer(2)["totals"]
    (rows,), (clock,) = log.rows(totals["rows_sql"]), log.rows(totals["mature_sql"])
    assert (int(rows["rows"]), totals["rows"] - totals["matched"]) == (totals["rows"], totals["waiting"])
    assert int(clock["known"]) - int(clock["delay"]) == had_their_time(log, ripening.world.name) < int(rows["last"])
    story = accuracy_answer(log, ripening.engine._registry, ripening.engine._follower.catalog, Window(ripening.world.name), whole_story=True)["totals"]
    assert log.rows(story["label_delay_sql"])[0]["known"] == [story["label_delay_seconds"]["known_p50"], story["label_delay_seconds"]["known_p95"]]


def test_rows_that_never_have_an_outcome_are_waited_for_as_long_as_others_take(ripening):
    assert ripening.answer(2)["totals"]["mature"] is False
    extra = ripening.world.requests(3 * EACH + 10, rows_each=1, seed=9)[3 * EACH :]
    for k, record in enumerate(extra):
        record["ts"], record["t"] = [FIRST + 4 * DAY + k * MINUTE], FIRST + 4 * DAY
    ripening.engine.cycle(ripening.world.raws(extra))
    ripening.records += extra
    ripening.observe(range(3 * EACH, 3 * EACH + 10), right=True)
    found = ripening.answer(2)["totals"]
    assert (found["mature"], found["match_rate"]) == (True, pytest.approx(1 / 3, abs=0.01))


def test_models_are_compared_on_the_rows_whose_outcomes_had_their_time(ripening):
    world = ripening.world
    asked = lambda day: comparison_answer(world.front.reader, ripening.engine._registry, world.catalog, Window(world.name, FIRST, FIRST + day * DAY))  # noqa: E731
    whole = asked(2)
    assert (whole["mature_until"], whole["challengers"][0]["rows"]) == (None, 2 * EACH)
    found = asked(3)
    last = FIRST + 2 * DAY + 399 * MINUTE
    assert found["mature_until"] == iso(last + EARLY - LATE)
    assert found["challengers"][0] == whole["challengers"][0], "the early outcomes of the third day, all of them wrong, are not compared"
