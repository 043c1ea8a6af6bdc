"""Cohorts: which are mature, and that what detectors have read of them stays what it was, whatever was on its way."""

import uuid
from dataclasses import replace

import pytest

from stream.batches import actual_batches
from stream.clock import now_us
from stream.cohorts import SPAN, Maturing, inputs_of, rows_of
from stream.queries import recorded_by
from tests.stream.conftest import MINUTE, T0

FIRST = T0 // SPAN * SPAN
EACH = 60
DAY = FIRST // SPAN
LATE = FIRST + 9 * SPAN  # when the labels of all days have had their time


class Story:
    """Three days of sixty rows each and a row of the fourth, and their actuals, each brought by a journal of its own."""

    def __init__(self, world):
        self.world, self.log, self.labels = world, world.front.reader, uuid.uuid4().hex[:16]
        self.records = world.requests(3 * EACH + 1, rows_each=1, seed=5)
        self.facts = []
        for k, record in enumerate(self.records):
            record["ts"] = [FIRST + (k // EACH) * SPAN + (k % EACH) * MINUTE]
            record["t"] = record["ts"][0]
            fact = [f"a{k}-0", "true" if k % 3 else "false", record["ts"][0] + 60 * MINUTE, f"f{k}"]
            self.facts.append({"k": "a", "d": world.name, "p": world.partition, "t": fact[2], "rows": [fact]})
        self.observed = 0

    def predict(self, first, last):
        self.world.new_engine().cycle(self.world.raws(self.records[first:last]))

    def observe(self, first, last, sequence=None):
        """All of this was recorded long ago, whenever it comes."""
        for k, fact in enumerate(self.facts[first:last], self.observed + 1 if sequence is None else sequence):
            fact["s"] = self.observed = k
        self.world.new_engine().cycle(self.world.raws(self.facts[first:last], lambda records, _: actual_batches(records, self.labels)))

    def cohorts(self, days):
        return Maturing(self.log, self.world.name).cohorts(0, DAY + days, LATE)

    def read(self, cohort):
        return self.log.arrow(rows_of(self.world.name, cohort)).to_pylist()


@pytest.fixture
def story(world):
    return Story(world)


def test_what_a_detector_has_read_stays_whatever_was_on_its_way(story):
    name, place = story.world.name, story.world.partition
    story.predict(0, 2 * EACH - 15)
    story.observe(0, EACH + 20)
    one, two = story.cohorts(2)
    assert (one.start, one.end, one.rows, one.matched, one.after) == (FIRST, FIRST + SPAN, EACH, EACH, 0)
    assert (two.start, two.end, two.rows, two.matched, two.after) == (FIRST + SPAN, FIRST + 2 * SPAN, EACH - 15, 20, FIRST + SPAN)
    assert one.position == two.position == {f"{story.world.journal}/{place}": 2 * EACH - 15, f"{story.labels}/{place}": EACH + 20}
    then = story.read(one), story.read(two), story.log.rows(inputs_of(name, two, "x"))
    assert [len(found) for found in then] == [EACH, 20, EACH - 15]
    story.predict(2 * EACH - 15, len(story.records))
    story.observe(EACH + 20, len(story.facts))
    assert (story.read(one), story.read(two), story.log.rows(inputs_of(name, two, "x"))) == then
    by_time = replace(two, position=None)
    assert len(story.read(by_time)) == EACH, "a record time takes in what was under way: the fault this guards against"
    assert recorded_by(two.cut) in rows_of(name, by_time), "events of before are read as they were"


def test_an_actual_that_is_corrected_later_is_read_as_it_was(story):
    story.predict(0, EACH + 1)
    story.observe(0, EACH)
    (one,) = story.cohorts(1)
    then = story.read(one)
    wrong = story.facts[0]["rows"][0]
    story.facts[EACH]["rows"] = [[wrong[0], "true", wrong[2] + 1, "corrected"]]
    assert wrong[1] == "false"
    story.observe(EACH, EACH + 1)
    assert story.read(one) == then
    assert story.read(story.cohorts(1)[0]) != then


def test_rows_that_the_position_does_not_have_are_left_to_the_next_look(story):
    story.predict(0, EACH + 1)
    story.observe(1, EACH, sequence=2)  # the first is missing, so nobody can say that nothing is under way
    assert story.world.sql("SELECT count() AS n FROM outcomes WHERE $d AND role = 'champion'") == [{"n": EACH - 1}]
    (one,) = story.cohorts(1)
    assert (one.rows, one.matched, list(one.position)) == (EACH, 0, [f"{story.world.journal}/{story.world.partition}"])
    assert Maturing(story.log, story.world.name).cohorts(0, DAY + 1, 0) == []
    story.observe(0, 1, sequence=1)
    (one,) = Maturing(story.log, story.world.name).cohorts(0, DAY + 1, 0)
    assert (one.rows, one.matched) == (EACH, EACH)


def test_a_day_whose_labels_had_their_time_waits_while_some_still_come(story):
    story.predict(0, len(story.records))
    story.observe(0, EACH)
    story.observe(2 * EACH, 3 * EACH + 1)  # the outcomes' clock stands on the fourth day; the second has no label yet
    story.facts[3 * EACH]["rows"][0][2] = LATE
    maturing = Maturing(story.log, story.world.name)
    looked = maturing.look(0)
    assert [(c.start, c.matched) for c in looked] == [(FIRST, EACH)]
    story.observe(EACH, EACH + 20)
    assert maturing.look(looked[-1].end) == [], "a third of a day came since the look before"
    story.observe(EACH + 20, EACH + 30)
    assert maturing.look(looked[-1].end) == []
    more = maturing.look(looked[-1].end)
    assert [(c.start, c.rows, c.matched) for c in more] == [(FIRST + SPAN, EACH, 30), (FIRST + 2 * SPAN, EACH, EACH)]
    assert maturing.look(more[-1].end) == [], "the fourth day is not over"
    assert now_us() >= more[0].cut > looked[0].cut
