"""The worker's cycle against a real log: every event counts once, whatever comes in whatever order."""

import asyncio
import dataclasses
import random
import time
import uuid

import numpy as np
import pyarrow as pa
import pytest

from models.errors import PackageError
from models.online import read_learner
from models.registry import Registry
from stream import events, learners, queries, verify
from stream.batches import decode, erasure_batches
from stream.broker import Message
from stream.clickhouse import EventLog
from stream.control import Follower, Recorder
from stream.courier import Courier
from stream.dead_letters import DeadLetters
from stream.engine import Raw, split
from stream.errors import LogUnavailable, Malformed, NotYet, Refused
from stream.events import Event
from stream.learners import Learners
from stream.publisher import Publisher
from stream.queries import Window
from stream.snapshots import snapshot

MINUTE = 60_000_000
T0 = 1_760_000_000_000_000


def test_messages_that_come_again_change_nothing(world):
    records = world.requests(20)
    raws = world.raws(records)
    engine = world.new_engine()
    engine.cycle(raws + raws)
    engine.cycle(raws)
    world.new_engine().cycle(world.raws(records[5:15]))  # a worker that starts again, the journal grouped otherwise
    assert world.sql("SELECT role, count() AS n, uniqExact(event_id) AS u FROM predictions WHERE $d GROUP BY role ORDER BY role") == [
        {"role": "challenger", "n": 60, "u": 60},
        {"role": "champion", "n": 60, "u": 60},
    ]
    assert np.array_equal(world.counts(), world.expected_counts(records))


def test_a_cycle_that_died_before_it_confirmed_is_done_again_without_double_counting(world):
    records = world.requests(12)
    engine = world.new_engine()
    engine._confirm = lambda: (_ for _ in ()).throw(RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        engine.cycle(world.raws(records))
    world.new_engine().cycle(world.raws(records))
    assert np.array_equal(world.counts(), world.expected_counts(records))
    assert world.sql(f"SELECT sequence FROM log_progress WHERE source = '{world.journal}/{world.partition}'") == [{"sequence": 12}]


def test_a_window_that_ends_within_a_minutes_first_second_has_that_minute(world):
    records = world.requests(4)
    begun = -(-T0 // MINUTE) * MINUTE
    for record in records:
        record["ts"] = [begun + 700_000] * len(record["rows"])
    world.new_engine().cycle(world.raws(records))
    windows = [Window(world.name, begun - MINUTE, end) for end in (begun, begun + 1, begun + 700_001)]
    found = [queries.drift_counts(world.front.reader, window, world.champion)[1] for window in windows]
    whole = int(world.expected_counts(records).sum())
    assert [[sum(row["counts"]) for row in rows] for rows in found] == [[], [whole], [whole]]


def test_progress_never_passes_a_gap(world):
    records = world.requests(10)
    engine = world.new_engine()
    engine.cycle(world.raws(records[:3]))
    engine.cycle(world.raws(records[6:]))
    progress = f"SELECT sequence FROM log_progress WHERE source = '{world.journal}/{world.partition}'"
    assert world.sql(progress) == [{"sequence": 3}]
    engine.cycle(world.raws(records[3:6]))
    assert world.sql(progress) == [{"sequence": 10}]
    assert np.array_equal(world.counts(), world.expected_counts(records))


@pytest.mark.parametrize("order", range(4))
def test_actuals_before_after_twice_corrected_and_retracted_end_in_the_same_outcomes(world, order):
    records = world.requests(6)
    facts = [
        ("a0-0", "true", T0 + 1, "f1"),
        ("a0-0", "true", T0 + 1, "f1"),  # twice
        ("a1-1", "true", T0 + 1, "f2"),
        ("a1-1", "false", T0 + 2, "f3"),  # corrected later
        ("a2-2", "true", T0 + 5, "f4"),
        ("a2-2", "false", T0 + 3, "f5"),  # an older fact that comes late
        ("a3-0", "true", T0 + 1, "f6"),
        ("a3-0", None, T0 + 2, "f7"),  # retracted
        ("unknown-id", "true", T0, "f8"),
    ]
    raws = world.raws(records) + world.actuals(facts, 100)
    random.Random(order).shuffle(raws)
    engine = world.new_engine()
    for raw in raws:
        engine.cycle([raw])
    found = world.sql("SELECT association_id, actual_class, count() AS n FROM outcomes WHERE $d GROUP BY ALL ORDER BY association_id")
    assert found == [
        {"association_id": "a0-0", "actual_class": "true", "n": 2},
        {"association_id": "a1-1", "actual_class": "false", "n": 2},
        {"association_id": "a2-2", "actual_class": "true", "n": 2},
    ]
    assert world.sql("SELECT count() AS n FROM actuals WHERE $d") == [{"n": 8}]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_same_actual_received_twice_counts_from_its_first_receipt_whichever_comes_first(world, order, trained):
    world.new_engine().cycle(world.raws(world.requests(2)))
    copies = [world.actuals([("a0-0", "true", T0, "twice")], 10), world.actuals([("a0-0", "true", T0, "twice")], 70)]
    for k in order:
        world.new_engine().cycle(copies[k])
    found = world.sql("SELECT DISTINCT toUnixTimestamp64Micro(actual_received_at) AS t FROM outcomes WHERE $d")
    assert found == [{"t": T0 + 10**9 + 10}]
    assert verify.outcomes(world.front.writer, world.name)["equal"]


def test_an_actual_belongs_to_every_prediction_of_its_id(world):
    records = world.requests(4)
    for record in records:
        record["a"] = ["same"] * 3
    engine = world.new_engine()
    engine.cycle(world.raws(records) + world.actuals([("same", "true", None, "x")], 50))
    assert world.sql("SELECT role, count() AS n FROM outcomes WHERE $d GROUP BY role ORDER BY role") == [{"role": "challenger", "n": 12}, {"role": "champion", "n": 12}]


@pytest.mark.parametrize("odd", ["it's, \\ \"quoted\" [1]", "line\nbreak\t\x00nul", "Zürich 東京 🚆", "{d} %(x)s $1", "'); DROP TABLE actuals_log; --"])
def test_whatever_stands_in_an_association_id_it_joins(world, odd):
    records = world.requests(2, rows_each=1)
    records[0]["a"] = [odd]
    engine = world.new_engine()
    engine.cycle(world.actuals([(odd, "true", None, "early")], 50))
    engine.cycle(world.raws(records))
    assert world.sql("SELECT DISTINCT association_id AS a FROM outcomes WHERE $d") == [{"a": odd}]
    engine.cycle(world.actuals([("a1-0", "true", None, "late")], 60))
    assert world.sql("SELECT count() AS n FROM outcomes WHERE $d") == [{"n": 4}]


def test_the_stored_row_is_what_was_asked_and_answered(world):
    records = world.requests(1, rows_each=2)
    records[0]["rows"][1] = {"x": None, "town": "it's \\ \"Lima\"", "extra": True}
    world.new_engine().cycle(world.raws(records))
    rows = world.sql("SELECT features, features_num, features_cat, predicted_value, probabilities, toUnixTimestamp64Micro(occurred_at) AS at FROM predictions WHERE $d AND role = 'champion' ORDER BY event_id")
    assert rows[0]["features_num"] == {"x": records[0]["rows"][0]["x"]}
    assert rows[1]["features_num"] == {"extra": 1}
    assert rows[1]["features_cat"] == {"town": "it's \\ \"Lima\""}
    assert rows[0]["probabilities"] == records[0]["q"][0]
    assert rows[0]["predicted_value"] == records[0]["y"][0]
    assert rows[0]["at"] == T0


def test_a_message_that_cannot_be_read_is_reported_and_stops_nothing(world):
    records = world.requests(2)
    report = world.new_engine().cycle([Raw("predictions", world.partition, 7, b"junk"), *world.raws(records)])
    assert [(raw.offset, "not a batch" in reason) for raw, reason in report.bad] == [(7, True)]
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND role = 'champion'") == [{"n": 6}]
    with pytest.raises(Malformed):
        decode(pa.ipc.new_stream.__doc__.encode() if pa.ipc.new_stream.__doc__ else b"x")


def test_the_recorder_appends_what_the_fold_accepts_once_and_chains_it(front):
    before = front.reader.rows("SELECT count() AS n FROM events")[0]["n"]
    proposals = [Event(uuid.uuid4().hex, 5, "t", "", events.ProjectCreated(uuid.uuid4().hex, "n", "f", {})) for _ in range(3)]
    recorder = Recorder(front.writer)
    assert recorder.record(proposals[:2]) == 2
    assert Recorder(front.writer).record(proposals) == 1
    refused = Event(uuid.uuid4().hex, 5, "t", "none", events.ChampionChanged("m", "r"))
    assert Recorder(front.writer).record([refused]) == 0
    rows = front.reader.rows("SELECT sequence, hash FROM events ORDER BY sequence")
    assert [r["sequence"] for r in rows] == list(range(1, before + 4))
    assert len({r["hash"] for r in rows}) == len(rows)
    assert verify.chain(front.reader)["equal"]


def test_the_chain_holds_over_events_whose_type_has_got_fields_since(front, monkeypatch):
    Recorder(front.writer).record([Event(uuid.uuid4().hex, 5, "t", "", events.ProjectCreated(uuid.uuid4().hex, "ü", "f", {"a": 1.5}))])

    @dataclasses.dataclass(frozen=True)
    class Newer(events.ProjectCreated):
        more: list[str] = dataclasses.field(default_factory=list)

    monkeypatch.setitem(events.FACTS, "project_created", Newer)
    assert verify.chain(front.reader)["equal"]


class Sink:
    """A producer that keeps what it is given."""

    def __init__(self):
        self.sent = []

    async def send(self, topic, values, partition=None, key=None):
        self.sent.extend((topic, v) for v in values)


def test_a_command_that_was_refused_stays_refused_after_a_restart(front, tmp_path):
    a, b = uuid.uuid4().hex * 2, uuid.uuid4().hex * 2
    name = f"d{uuid.uuid4().hex[:8]}"

    def model(m):
        return Event(uuid.uuid4().hex, 1, "t", "", events.ModelRegistered(m, "p", "linear", "binary", "y", "log_loss", {}))

    def change(m):
        return Event(uuid.uuid4().hex, 1, "t", name, events.ChampionChanged(m, "why"))

    topic = [model(a), model(b), Event(uuid.uuid4().hex, 1, "t", name, events.DeploymentCreated(a)), change(a), change(b)]
    for proposal in topic:  # the second last is refused: it is champion already
        Recorder(front.writer).record([proposal])
    live = Follower("", None, front.reader)
    asyncio.run(live._load_log())
    for proposal in topic:
        live._take(proposal)
    assert live.catalog.deployments[name].now.champion == b
    assert len(live.catalog.deployments[name].versions) == 2
    assert Recorder(front.writer).record(topic) == 0, "nor does the log take it a second time"
    cached = Follower("", None, EventLog("http://127.0.0.1:9"), tmp_path / "cache")
    for proposal in topic:
        cached._take(proposal)
    again = Follower("", None, EventLog("http://127.0.0.1:9"), tmp_path / "cache")
    again._load_cache()
    for proposal in topic:
        again._take(proposal)
    assert again.catalog == cached.catalog


def test_an_event_that_cannot_be_applied_is_refused_and_not_fatal(front):
    follower = Follower("", None, front.reader)
    follower._take(Event("x", 1, "t", "nowhere", events.ChallengerAdded("m" * 64, None)))
    assert isinstance(follower._seen["x"], Refused)
    with pytest.raises(Malformed, match="fraction"):
        events.decode(b'{"event_id":"1","type":"challenger_added","occurred_at":1,"actor":"a","deployment":"d","payload":{"model_id":"m","fraction":null}}')


def test_a_record_that_cannot_be_encoded_is_put_aside_alone(world, tmp_path):
    async def publish():
        sink = Sink()
        publisher = Publisher(tmp_path / "journal", sink, world.front.reader, lambda word: None)
        records = world.requests(3)
        records[1]["ts"] = [1 << 80] * 3
        await publisher._send(records, world.journal)
        return [v for topic, v in sink.sent if topic == "predictions"], [topic for topic, _ in sink.sent]

    messages, topics = asyncio.run(publish())
    assert "champion.dead-letters" in topics
    engine = world.new_engine()
    engine.cycle([Raw("predictions", world.partition, k, m) for k, m in enumerate(messages)])
    assert world.sql("SELECT count() AS n FROM predictions WHERE $d AND role = 'champion'") == [{"n": 6}]
    assert world.sql(f"SELECT sequence FROM log_progress WHERE source = '{world.journal}/{world.partition}'") == [{"sequence": 3}]


def test_whole_numbers_beyond_a_doubles_precision_are_taken(world):
    records = world.requests(1, rows_each=2)
    records[0]["rows"][0]["big"] = 2**63 + 1
    records[0]["rows"][1]["big"] = None
    world.new_engine().cycle(world.raws(records))
    rows = world.sql("SELECT features_num['big'] AS b FROM predictions WHERE $d AND role = 'champion' ORDER BY event_id LIMIT 1")
    assert float(rows[0]["b"]) == float(2**63 + 1)


def test_a_message_of_many_records_is_split_by_record(world):
    raws = split(world.raws(world.requests(5))[0])
    assert [decode(r.value).sequences.tolist() for r in raws] == [[k] * 3 for k in range(1, 6)]


def test_a_worker_that_has_not_read_a_version_yet_waits_for_it(world):
    records = world.requests(2)
    for record in records:
        record["v"] = 99
    engine = world.new_engine()
    with pytest.raises(NotYet):
        engine.cycle(world.raws(records))
    engine.challengers.patient = False
    engine.cycle(world.raws(records))
    assert world.sql("SELECT role, count() AS n FROM predictions WHERE $d GROUP BY role") == [{"role": "champion", "n": 6}]


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"{", b'{"deployment": "d"}', b'{"deployment": 5, "association_id": "a", "actual": 1}', b'{"deployment": "d", "association_id": "a", "actual": [1]}',
     b'{"deployment": "d", "association_id": "a", "actual": 1, "timestamp": 1e13}', b'{"deployment": "d", "association_id": "a", "actual": 1, "timestamp": "1066-10-14"}',
     b'{"deployment": "d", "association_id": "", "actual": 1}', b"\xff\xfe"],
)
def test_the_courier_puts_a_bad_actual_aside_and_carries_the_others(value):
    async def carry():
        sink = Sink()
        courier = Courier(sink, DeadLetters(sink, "t"), 4)
        good = b'{"deployment": "d", "association_id": "a", "actual": true}'
        await courier.carry("c", [Message("actuals", 0, 0, 1_700_000_000_000, value), Message("actuals", 0, 1, 1_700_000_000_000, good), Message("actuals", 0, 2, 10**19, good)])
        return courier.carried, [t for t, _ in sink.sent]

    carried, topics = asyncio.run(carry())
    assert carried == 1
    assert topics.count("champion.dead-letters") == 2


def test_verify_finds_a_count_and_an_outcome_that_were_changed(world, trained):
    engine = world.new_engine()
    engine.cycle(world.raws(world.requests(8)) + world.actuals([("a0-0", "true", None, "v1"), ("a1-1", "false", None, "v2")], 50))
    log, registry = world.front.writer, trained[0]
    for part in (verify.drift(log, registry, world.name), verify.outcomes(log, world.name)):
        assert part["equal"], part
    log.command(f"INSERT INTO drift_log SELECT * REPLACE (version + 1 AS version, arrayMap(c -> c + 1, counts) AS counts) FROM drift_log WHERE deployment = '{world.name}' AND baseline_id != '@arrivals' LIMIT 1")
    assert not verify.drift(log, registry, world.name)["equal"]
    log.command(f"INSERT INTO outcomes_log SELECT * REPLACE ('other' AS actual_class, rank + 1 AS rank) FROM outcomes_log WHERE deployment = '{world.name}' LIMIT 1")
    assert not verify.outcomes(log, world.name)["equal"]


def with_learner(world, kind="hoeffding_tree"):
    engine = world.new_engine()
    catalog = engine._follower.catalog
    learner_id = f"online-{world.journal[:8]}{kind[:3]}"
    catalog.apply(Event(f"born{learner_id}", 9, "t", world.name, events.OnlineChallengerAdded(learner_id, kind, read_learner(kind, {"grace_period": 20} if "tree" in kind or "forest" in kind else {}, world.package.schema.target))))
    return engine, learner_id


def test_an_online_challenger_is_scored_as_it_was_and_taught_in_the_stored_order(world):
    engine, learner_id = with_learner(world)
    records = [{**r, "v": 3} for r in world.requests(60)]
    engine.cycle(world.raws(records[:30]))
    scored = world.sql(f"SELECT probabilities FROM predictions WHERE $d AND model_id = '{learner_id}'")
    assert len(scored) == 90
    assert all(s["probabilities"] == [0.5, 0.5] for s in scored)  # born knowing nothing
    facts = [(f"a{k}-{j}", "true" if records[k]["rows"][j]["x"] > 0 else "false", None, f"l{k}-{j}") for k in range(30) for j in range(3)]
    engine.cycle(world.actuals(facts, 100))
    engine.cycle(world.actuals(facts[:10], 300))  # again: taught once
    learned = world.sql("SELECT n, event_id FROM learned WHERE $d ORDER BY n")
    assert [r["n"] for r in learned] == list(range(1, 91))
    assert len({r["event_id"] for r in learned}) == 90
    engine.cycle(world.actuals([("a0-0", "false" if facts[0][1] == "true" else "true", T0 + 10**12, "corrected")], 400))
    assert world.sql("SELECT max(n) AS n FROM learned WHERE $d") == [{"n": 91}]  # a correction is a new lesson
    engine.cycle(world.raws(records[30:]))
    live = world.sql(f"SELECT association_id, probabilities FROM predictions WHERE $d AND model_id = '{learner_id}' AND request_id = 'r45' ORDER BY event_id")
    rebuilt = world.new_engine()._learners.get(world.name, learner_id)
    assert rebuilt.learnt == 91
    base = rebuilt.schema.encode_rows(records[45]["rows"]).matrix
    assert [r["probabilities"] for r in live] == rebuilt.predict(base).tolist()  # bit for bit
    assert live[0]["probabilities"] != [0.5, 0.5]


def test_a_learner_whose_worker_died_between_the_lesson_and_the_log_learns_it_once(world):
    engine, learner_id = with_learner(world, "linear")
    records = [{**r, "v": 3} for r in world.requests(10)]
    engine.cycle(world.raws(records))
    facts = [(f"a{k}-0", "true", None, f"k{k}") for k in range(10)]
    engine._confirm = lambda: (_ for _ in ()).throw(RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        engine.cycle(world.actuals(facts, 100))
    fresh = world.new_engine()
    fresh.cycle(world.actuals(facts, 100))
    assert world.sql("SELECT count() AS rows, max(n) AS last FROM learned WHERE $d") == [{"rows": 10, "last": 10}]
    assert fresh._learners.get(world.name, learner_id).learnt == 10


@pytest.mark.parametrize("kind", ["linear", "naive_bayes", "hoeffding_tree", "adaptive_random_forest"])
def test_a_learner_from_a_checkpoint_is_the_learner_that_was_taught_from_the_first_lesson_on(world, kind, monkeypatch):
    monkeypatch.setattr(learners, "CHECKPOINT", 20)
    engine, learner_id = with_learner(world, kind)
    records = [{**r, "v": 3} for r in world.requests(30)]
    engine.cycle(world.raws(records))
    facts = [(f"a{k}-{j}", "true" if records[k]["rows"][j]["x"] > 0 else "false", None, f"c{k}-{j}") for k in range(30) for j in range(3)]
    for at in range(0, 90, 15):
        engine.cycle(world.actuals(facts[at : at + 15], 100 + at))
    artifacts, name = engine._registry.artifacts, learners.checkpoint_of(world.name, learner_id)
    kept, base = artifacts.read(name), world.package.schema.encode_rows(records[0]["rows"]).matrix
    taught = []
    teach = Learners._teach

    def counted(learner, found):
        taught.append(len(found))
        teach(learner, found)

    monkeypatch.setattr(Learners, "_teach", staticmethod(counted))

    def again(data):
        artifacts.write(name, data)
        taught.clear()
        found = world.new_engine()._learners.get(world.name, learner_id)
        assert found.learnt == 90
        return sum(taught), found.predict(base).tolist()

    whole = again(b"")
    assert whole[0] == 90
    short = again(kept)
    assert short[0] < 20
    assert short[1] == whole[1] == engine._learners.get(world.name, learner_id).predict(base).tolist()
    damaged = kept[:-1] + bytes([kept[-1] ^ 1])
    stranger = engine._learners.get(world.name, learner_id).sealed(b"another installation's key")
    assert again(damaged) == again(stranger) == whole
    ahead = engine._learners.get(world.name, learner_id)
    ahead.learnt = 10**6  # of a log that was lost
    assert again(ahead.sealed(engine._registry.key)) == whole


def test_a_frozen_learner_is_a_package_that_answers_the_same_and_is_read_only_with_its_key(world):
    engine, learner_id = with_learner(world, "hoeffding_tree")
    records = [{**r, "v": 3} for r in world.requests(50)]
    facts = [(f"a{k}-{j}", "true" if records[k]["rows"][j]["x"] > 0 else "false", None, f"c{k}-{j}") for k in range(50) for j in range(3)]
    with pytest.raises(Refused) as young:
        snapshot(world.front.reader, engine._registry, engine._follower, world.name, learner_id)
    assert young.value.code == "too_young"
    for at in range(0, 50, 10):
        engine.cycle(world.raws(records[at : at + 10]))
        engine.cycle(world.actuals(facts[3 * at : 3 * at + 30], 100 + at))
    fact = snapshot(world.front.reader, engine._registry, engine._follower, world.name, learner_id)
    package = engine._registry.load(fact.model_id)
    learner = engine._learners.get(world.name, learner_id)
    base = package.schema.encode_rows([row for r in records for row in r["rows"]]).matrix
    assert package.plan.predict(base).tolist() == learner.predict(base).tolist()
    assert package.plan.predict_one(base[0].tolist()).tolist() == learner.predict(base[:1])[0].tolist()
    before = package.plan.predict(base).tolist()
    learner.learn(base, ["false"] * len(base))
    assert package.plan.predict(base).tolist() == before  # frozen
    # its scores are of what it answered before it knew the outcome
    honest = world.sql(f"SELECT avg(predicted_class = actual_class) AS a FROM outcomes WHERE $d AND model_id = '{learner_id}'")[0]["a"]
    assert package.metadata["metrics"]["accuracy"] == pytest.approx(honest)
    with pytest.raises(PackageError) as strange:
        Registry(engine._registry.artifacts, b"another key").load(fact.model_id)
    assert strange.value.code == "unreadable_state"


def test_erased_lessons_are_gone_and_a_learner_goes_on_after_the_gap(world):
    engine, learner_id = with_learner(world, "linear")
    engine.cycle(world.raws([{**r, "v": 3} for r in world.requests(6)]))
    engine.cycle(world.actuals([(f"a{k}-0", "true", None, f"g{k}") for k in range(6)], 100))
    gone = [Raw("champion.actuals", world.partition, 1, m) for m in erasure_batches([{"d": world.name, "s": 500, "p": world.partition, "t": T0 + 10**12, "id": "gone", "a": "a2-0", "n": 2}], world.journal)]
    artifacts, kept = engine._registry.artifacts, learners.checkpoint_of(world.name, learner_id)
    artifacts.write(kept, engine._learners.get(world.name, learner_id).sealed(engine._registry.key))
    engine.cycle(gone)
    assert artifacts.read(kept) == b""
    assert [r["n"] for r in world.sql("SELECT n FROM learned WHERE $d ORDER BY n")] == [1, 2, 4, 5, 6]
    fresh = world.new_engine()
    fresh.cycle(world.actuals([("a0-1", "true", None, "after")], 600))
    assert world.sql("SELECT max(n) AS n, count() AS rows FROM learned WHERE $d") == [{"n": 7, "rows": 6}]


def test_a_learner_that_diverges_is_suspended_with_its_reason(world):
    engine, learner_id = with_learner(world, "linear")
    engine.cycle(world.raws([{**r, "v": 3} for r in world.requests(3)]))
    engine._learners.get(world.name, learner_id).predict = lambda base: np.full((len(base), 2), np.nan)
    report = engine.cycle(world.actuals([("a0-0", "true", None, "s")], 100))
    assert report.suspended == [(world.name, learner_id, 0, "it diverged: its predictions are no numbers")]


def test_a_learner_that_outgrows_its_memory_is_suspended_with_its_reason(world, monkeypatch):
    monkeypatch.setattr(learners, "LOOK_EVERY", 2)
    monkeypatch.setattr(learners, "MOST_MEMORY", 4 << 20)
    engine, learner_id = with_learner(world, "hoeffding_tree")
    engine.cycle(world.raws([{**r, "v": 3} for r in world.requests(3)]))
    assert engine.cycle(world.actuals([(f"a0-{k}", "true", None, f"s{k}") for k in range(2)], 100)).suspended == []  # a small one may go on
    monkeypatch.setattr(learners, "MOST_MEMORY", 1 << 10)
    report = engine.cycle(world.actuals([(f"a1-{k}", "true", None, f"t{k}") for k in range(2)], 200))
    assert report.suspended == [(world.name, learner_id, 0, "it outgrew 0 MiB")]


@pytest.mark.parametrize("wrong", ["broken", "slow", "damaged"])
def test_a_challenger_that_breaks_or_is_slow_is_suspended_once_and_stops_nothing(world, wrong, monkeypatch):
    engine = world.new_engine()
    package = engine.package(world.challenger)
    if wrong == "broken":
        whole = type(package.plan).predict

        def predict(plan, base):
            if plan is package.plan:
                raise FloatingPointError("no number")
            return whole(plan, base)

        monkeypatch.setattr(type(package.plan), "predict", predict)
    elif wrong == "slow":
        monkeypatch.setattr("stream.challengers.SLOW_AFTER", 0.0)
        monkeypatch.setattr("stream.challengers.SLOW", 1e-9)
    else:
        engine._packages[world.challenger] = None
    records = world.requests(10)
    reports = [engine.cycle(world.raws(records[:5])), engine.cycle(world.raws(records[5:]))]
    told = [s for report in reports for s in report.suspended]
    assert len(told) == 1
    assert told[0][:3] == (world.name, world.challenger, 2)
    assert {"broken": "no number", "slow": "ms a row", "damaged": "cannot be loaded"}[wrong] in told[0][3]
    monkeypatch.undo()
    counts = {r["role"]: r["n"] for r in world.sql("SELECT role, count() AS n FROM predictions WHERE $d GROUP BY role")}
    assert counts == {"champion": 30, **({"challenger": 15} if wrong == "slow" else {})}


def test_a_suspension_is_told_although_the_log_was_away_in_its_cycle(world):
    engine = world.new_engine()
    engine._packages[world.challenger] = None
    confirm, engine._confirm = engine._confirm, lambda: (_ for _ in ()).throw(LogUnavailable("away"))
    with pytest.raises(LogUnavailable):
        engine.cycle(world.raws(world.requests(4)))
    engine._confirm = confirm
    assert len(engine.cycle(world.raws(world.requests(4))).suspended) == 1


def test_a_challenger_that_is_slow_to_load_is_not_slow(world, monkeypatch):
    monkeypatch.setattr("stream.challengers.SLOW_AFTER", 0.4)
    monkeypatch.setattr("stream.challengers.SLOW", 0.01)
    engine = world.new_engine()
    load = engine._registry.load

    def slowly(model_id):
        time.sleep(0.5)
        return load(model_id)

    monkeypatch.setattr(engine._registry, "load", slowly)
    assert engine.cycle(world.raws(world.requests(3))).suspended == []
