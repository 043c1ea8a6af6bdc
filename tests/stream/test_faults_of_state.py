"""Snapshots lost, outside sources over several folds, erased rows, letters sent again: truth stays."""

import asyncio
import base64
import io
import json

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream import events, verify
from stream.batches import erasure_batches, mark, prediction_batches
from stream.broker import Message
from stream.courier import Courier
from stream.dead_letters import DeadLetters, Letter, keep, send_again
from stream.engine import Raw
from stream.erasure import ASSOCIATION, digest_of
from stream.errors import Overtaken, Refused, Superseded
from stream.events import Event
from stream.projections.drift import DriftFold
from stream.topics import ACTUALS, CONTROL, JOINABLE, PREDICTIONS

T0 = 1_760_000_000_000_000


def lose(world, how):
    """The snapshot goes, or is damaged."""
    log = world.front.writer
    if how == "lost":
        log.command(f"ALTER TABLE drift_log DELETE WHERE partition_id = {world.partition} AND deployment = ''", {"mutations_sync": 2})
    elif how == "damaged":
        log.command(f"INSERT INTO drift_log SELECT * REPLACE ('{{\"x' AS position, version + 1 AS version) FROM drift_log FINAL WHERE partition_id = {world.partition} AND deployment = ''")
    else:
        log.command(f"ALTER TABLE drift_log DELETE WHERE partition_id = {world.partition}", {"mutations_sync": 2})


@pytest.mark.parametrize("how", ["lost", "damaged", "all buckets lost"])
def test_a_lost_snapshot_costs_time_never_truth(world, how):
    records = world.requests(30)
    first, rest = records[:18], records[12:]
    world.new_engine().cycle(world.raws(first) + world.actuals([("a1-0", "true", None, "s1")], 100))
    lose(world, how)
    world.new_engine().cycle(world.raws(rest))
    assert np.array_equal(world.counts(), world.expected_counts(records))
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND role = 'champion'") == [{"n": 90}]
    fold = DriftFold(world.partition, 4, world.front.reader)
    assert fold.ranges[f"{world.journal}/{world.partition}"].ranges == [[1, 30], [100, 100]]
    lose(world, how)  # and once more: the second rebuild is newer than the first
    world.new_engine().cycle(world.raws(records))
    assert np.array_equal(world.counts(), world.expected_counts(records))


def test_a_join_that_was_under_way_when_the_snapshot_was_lost_is_made(world):
    engine = world.new_engine()
    engine.cycle(world.raws(world.requests(4)))
    engine._join = lambda *_: (_ for _ in ()).throw(RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        engine.cycle(world.actuals([("a1-0", "true", None, "j1")], 5))
    lose(world, "lost")
    world.new_engine().cycle(world.raws(world.requests(4)))
    assert world.sql("SELECT association_id, role FROM outcomes WHERE $d ORDER BY role") == [{"association_id": "a1-0", "role": r} for r in ("challenger", "champion")]


class Sink:
    """What was sent, by topic and partition."""

    def __init__(self):
        self.sent = []

    async def send(self, topic, values, partition=None, key=None):
        self.sent.extend((topic, partition, value) for value in values)


def test_an_outside_partition_is_confirmed_only_when_every_place_has_its_rows(world):
    sink = Sink()
    courier = Courier(sink, DeadLetters(sink, "t"), 4)
    outside = f"c{world.journal}"
    messages = [Message(ACTUALS, 2, k, 1_700_000_000_000, orjson.dumps({"deployment": f"{world.name}-{k % 7}", "association_id": f"a{k}", "actual": 1})) for k in range(40)]
    asyncio.run(courier.carry(outside, messages))
    by_place = {p: [Raw(JOINABLE, p, k, v) for k, (t, q, v) in enumerate(sink.sent) if t == JOINABLE and q == p] for p in range(4)}
    asked = f"SELECT sequence FROM log_progress WHERE source = '{outside}:actuals:2'"
    for place, raws in by_place.items():
        assert world.front.reader.rows(asked) == []
        world.new_engine().cycle(raws)
        del place
    assert world.front.reader.rows(asked) == [{"sequence": 40}]
    world.new_engine().cycle([Raw(JOINABLE, 0, 99, mark(f"{outside}:actuals:2", 80))])
    assert world.front.reader.rows(asked) == [{"sequence": 40}]  # the other places are not there yet
    assert world.front.reader.rows(f"SELECT count() AS n FROM actuals WHERE startsWith(deployment, '{world.name}-')") == [{"n": 40}]


def erasure(world, association, sequence, at=T0 + 10**12):
    return [Raw(JOINABLE, world.partition, sequence, m) for m in erasure_batches([{"d": world.name, "s": sequence, "p": world.partition, "t": at, "id": f"er{sequence}", "a": association, "n": 1}], world.journal)]


def test_erased_rows_are_gone_everywhere_and_the_numbers_fit_those_that_remain(world, trained):
    records = world.requests(20)
    log, registry = world.front.writer, trained[0]
    table = pa.table({ASSOCIATION: ["a3-1", "a3-2", None], "x": [1.0, 2.0, 3.0]})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    registry.artifacts.write("training-sets/t.parquet", buffer.getvalue())
    engine = world.new_engine()
    catalog = engine._follower.catalog
    catalog.apply(Event("p", 1, "t", world.name, events.ProjectCreated("tp" + world.name, "n", "f", {"training_set": {"file": "training-sets/t.parquet"}})))
    engine.cycle(world.raws(records) + world.actuals([("a3-1", "true", None, "e1"), ("a3-2", "true", None, "e2")], 100))
    asyncio.run(keep(log, [Message("t", 0, 0, 0, Letter("actuals", 0, 7, "no", b'{"association_id": "a3-1"}').encode(T0))]))
    report = engine.cycle(erasure(world, "a3-1", 200))
    for name in ("predictions", "actuals", "outcomes"):
        assert log.rows(f"SELECT count() AS n FROM {name} WHERE deployment = '{world.name}' AND association_id = 'a3-1'") == [{"n": 0}]
    assert log.rows("SELECT count() AS n FROM dead_letters WHERE position(base64Decode(payload), 'a3-1') > 0") == [{"n": 0}]
    assert world.sql("SELECT count() AS n FROM outcomes WHERE $d AND role = 'champion'") == [{"n": 1}]
    left = [{**r, "rows": [row for j, row in enumerate(r["rows"]) if not (k == 3 and j == 1)]} for k, r in enumerate(records)]
    assert np.array_equal(world.counts(), world.expected_counts(left))
    assert verify.drift(log, registry, world.name)["equal"]
    assert verify.outcomes(log, world.name)["equal"]
    kept = pyarrow.parquet.read_table(io.BytesIO(registry.artifacts.read("training-sets/t.parquet")))
    assert kept.column(ASSOCIATION).to_pylist() == ["a3-2", None]
    assert json.loads(registry.artifacts.read("training-sets/t.parquet.erased.json")) == {"rows_erased": 1}
    (name, fact), = report.erased
    assert name == world.name
    assert "a3-1" not in repr(fact)
    assert fact.digest == digest_of(fact.salt, "a3-1")
    # the request comes again, and so do the rows from a journal that was behind
    engine.cycle(erasure(world, "a3-1", 200))
    late = [{**records[3], "s": 900, "id": "late"}]
    engine.cycle([Raw(PREDICTIONS, world.partition, 1, data) for data in prediction_batches(late, "another")])
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND association_id = 'a3-1'") == [{"n": 0}]
    again = [{**records[3], "s": 901, "t": T0 + 2 * 10**12}]  # a new request under the same id is a new row
    engine.cycle([Raw(PREDICTIONS, world.partition, 2, data) for data in prediction_batches(again, "another")])
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND association_id = 'a3-1' AND role = 'champion'") == [{"n": 1}]


@pytest.mark.parametrize(
    ("payload", "goes"),
    [
        (b'{"deployment": "$d", "association_id": "1", "actual": [1]}', True),
        (b'{"association_id": "1"}', True),
        (b'{"deployment": "$d", "association_id": 1, "actual": [1]}', True),
        (b'{"deployment": "$d", "association_id": "1', True),
        (b'{"deployment": "another", "association_id": "1", "actual": [1]}', False),
        (b'{"deployment": "$d", "association_id": "11", "actual": 1}', False),
        (b'{"deployment": "$d", "association_id": "2", "actual": 1', True),  # what cannot be read and holds the id as a word goes, too
        (b'{"deployment": "$d", "association_id": "2", "actual": 0', False),
        (b"nonsense 21 and 12", False),
    ],
)
def test_only_letters_about_the_erased_id_go(world, payload, goes):
    letter = Letter("actuals", 0, abs(hash((world.name, payload))) % 10**9, "no", payload.replace(b"$d", world.name.encode()))
    asyncio.run(keep(world.front.writer, [Message("t", 0, 0, 0, letter.encode(T0))]))
    world.new_engine().cycle(erasure(world, "1", 200))
    found = world.front.reader.rows("SELECT count() AS n FROM dead_letters WHERE letter_id = {id:String}", {"id": letter.letter_id})
    assert found == [{"n": 0 if goes else 1}]


def test_the_event_of_a_dead_letter_holds_nothing_of_what_it_held():
    sink = Sink()
    asyncio.run(DeadLetters(sink, "t").put(Letter(ACTUALS, 0, 1, "why", b'{"association_id": "somebody"}')))
    told = next(value for topic, _, value in sink.sent if topic == CONTROL)
    assert b"somebody" not in told
    assert events.decode(told).fact.letters


def test_late_rows_are_kept_out_by_one_salt_however_many_ids_were_erased(world):
    engine = world.new_engine()
    facts = [fact for k in range(5) for _, fact in engine.cycle(erasure(world, f"a{k}-0", 300 + k)).erased]
    assert len({fact.salt for fact in facts}) == 1
    engine.cycle(world.raws(world.requests(6)))  # all recorded before the erasures
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND role = 'champion'") == [{"n": 13}]


@pytest.mark.parametrize("step", ["erase", "_consumers", "_matrices"])
def test_a_crash_between_the_steps_of_an_erasure_leaves_no_row_and_no_count(world, trained, step):
    records = world.requests(6, rows_each=1)
    records[0]["c"] = "who asked for nothing else"
    engine = world.new_engine()
    engine.cycle(world.raws(records))
    setattr(engine._eraser, step, lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError):
        engine.cycle(erasure(world, "a0-0", 50))
    world.new_engine().cycle(erasure(world, "a0-0", 50))
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND association_id = 'a0-0'") == [{"n": 0}]
    assert verify.drift(world.front.writer, trained[0], world.name)["equal"]
    assert verify.arrivals(world.front.writer, world.name)["equal"]


def test_all_of_a_deployment_can_be_erased(world, trained):
    world.new_engine().cycle(world.raws(world.requests(5)) + world.actuals([("a3-1", "true", None, "w1")], 100))
    world.new_engine().cycle(erasure(world, "", 300))
    for name in ("predictions", "actuals", "outcomes", "association_index", "consumers"):
        assert world.sql(f"SELECT count() AS n FROM {name} WHERE $d") == [{"n": 0}]
    assert verify.drift(world.front.writer, trained[0], world.name)["equal"]
    assert verify.arrivals(world.front.writer, world.name)["equal"]


def test_a_letter_is_kept_and_sent_again_under_a_source_of_its_own(world):
    raws = world.raws(world.requests(3))
    engine = world.new_engine()
    engine.skip(raws[0])  # put aside: its sequences are passed over
    engine.cycle(raws)
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d") == [{"n": 0}]
    letter = Letter(PREDICTIONS, world.partition, 0, "why", raws[0].value)
    message = Message("champion.dead-letters", 0, 0, 0, letter.encode(T0))
    asyncio.run(keep(world.front.writer, [message, message, Message("t", 0, 1, 0, b"nonsense")]))
    rows = world.front.reader.rows("SELECT * FROM dead_letters WHERE letter_id = {id:String}", {"id": letter.letter_id})
    assert [(r["reason"], r["size"], base64.b64decode(r["payload"])) for r in rows] == [("why", len(raws[0].value), raws[0].value)]
    sink = Sink()
    asyncio.run(send_again(sink, rows + rows))
    engine.cycle([Raw(t, p, k, v) for k, (t, p, v) in enumerate(sink.sent)])
    assert world.sql("SELECT role, count() AS n FROM predictions WHERE $d GROUP BY role ORDER BY role") == [{"role": "challenger", "n": 9}, {"role": "champion", "n": 9}]
    assert world.counts().sum() == 9 * 3


def test_a_letter_that_cannot_be_sent_again_says_why():
    whole = {"letter_id": "l", "partition_id": 0, "size": 3, "payload": base64.b64encode(b"abc").decode()}
    for row, code in (({**whole, "topic": "journal x"}, "not_replayable"), ({**whole, "topic": ACTUALS, "size": 99_999}, "not_whole")):
        with pytest.raises(Refused) as found:
            asyncio.run(send_again(Sink(), [row]))
        assert found.value.code == code


def test_an_engine_that_saw_more_is_never_replaced_by_one_that_saw_less(world):
    """A worker that wakes after its session was lost writes an older version."""
    records = world.requests(20)
    asleep = world.new_engine()
    asleep.cycle(world.raws(records[:5]))
    world.new_engine().cycle(world.raws(records))
    with pytest.raises(Superseded):
        asleep.cycle(world.raws(records[5:8]))  # wakes with what it had fetched
    assert np.array_equal(world.counts(), world.expected_counts(records))
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND role = 'champion'") == [{"n": 60}]


def test_a_worker_that_writes_after_another_took_its_partition_over_harms_nothing(world):
    """The zombie is ahead in one topic and behind in the other, as two topics allow; it wakes at the worst moment."""
    records = world.requests(40)
    zombie, owner = world.new_engine(), world.new_engine()
    zombie.cycle(world.raws(records[:10]))
    fold = zombie._folds[world.partition]
    unsaved, fold.unsaved = fold.unsaved, list
    zombie.cycle(world.raws(records[10:20]) + world.actuals([(f"a{k}-0", "true", None, f"z{k}") for k in range(30)], 500))
    owner.cycle(world.raws(records[10:14]))
    fold.unsaved = unsaved
    fold.save()  # the zombie's insert arrives now
    for at in range(14, 40, 4):
        for again in range(3):
            try:
                owner.cycle(world.raws(records[at : at + 4]))
                break
            except Overtaken:
                owner.forget()
                assert again < 2
    owner._folds[world.partition].check()
    assert np.array_equal(world.counts(), world.expected_counts(records))
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND role = 'champion'") == [{"n": 120}]


def test_a_late_write_that_no_later_row_touches_is_noticed_too(world):
    records = world.requests(20)
    zombie, owner = world.new_engine(), world.new_engine()
    zombie.cycle(world.raws(records[:10]))
    fold = zombie._folds[world.partition]
    unsaved, fold.unsaved = fold.unsaved, list
    zombie.cycle(world.raws(records[10:20]))
    owner.cycle(world.raws(records[10:12]))
    fold.unsaved = unsaved
    fold.save()
    with pytest.raises(Overtaken):
        owner._folds[world.partition].check()


def test_a_worker_that_sees_a_later_owner_writes_no_more(world):
    records = world.requests(12)
    first, second = world.new_engine(), world.new_engine()
    first.cycle(world.raws(records[:4]))
    second.cycle(world.raws(records[4:8]))
    first._folds[world.partition]._looked = 0.0
    with pytest.raises(Superseded):
        first.cycle(world.raws(records[8:]))
    second.cycle(world.raws(records[8:]))
    assert np.array_equal(world.counts(), world.expected_counts(records))


def test_a_process_that_stood_still_does_not_write(world):
    engine = world.new_engine()
    engine.holds = lambda: False
    with pytest.raises(Superseded):
        engine.cycle(world.raws(world.requests(4)))
    assert DriftFold(world.partition, 4, world.front.reader).ranges == {}


def test_a_mark_that_came_by_another_broker_than_it_speaks_of_confirms_nothing(world):
    """The broker is replaced while the courier carries: the rows before were lost with it, the mark goes to the new one."""
    engine = world.new_engine()
    engine.cluster = "new"
    asked = f"SELECT source, sequence FROM log_progress WHERE endsWith(source, ':actuals:{world.partition}') ORDER BY source"
    for place in range(4):
        engine.cycle([Raw(JOINABLE, place, 1, mark(f"old:actuals:{world.partition}", 200)), Raw(JOINABLE, place, 2, mark(f"new:actuals:{world.partition}", 7))])
    assert world.front.reader.rows(asked) == [{"source": f"new:actuals:{world.partition}", "sequence": 7}]
