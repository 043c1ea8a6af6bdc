"""The worker's cycle against a real log: every event counts once, whatever comes in whatever order."""

import asyncio
import random
import uuid

import numpy as np
import pyarrow as pa
import pytest

from models.autopilot import run
from models.baseline import drift_score
from models.blueprints import REPOSITORY
from models.packaging import save_all
from models.preparation import Options
from models.registry import Artifacts, Registry
from stream import events, verify
from stream.batches import actual_batches, decode, prediction_batches
from stream.broker import Message
from stream.clickhouse import EventLog
from stream.control import Follower, Recorder
from stream.courier import Courier
from stream.dead_letters import DeadLetters
from stream.engine import Engine, Raw, split
from stream.errors import Malformed, NotYet, Refused
from stream.events import Event
from stream.projections.catalog import Catalog
from stream.publisher import Publisher
from tests.support import from_rows

MINUTE = 60_000_000
T0 = 1_760_000_000_000_000


class Known:
    """A follower that has folded what it was given."""

    def __init__(self, catalog):
        self.catalog = catalog


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [{"x": float(x), "town": str(t), "y": bool(x + (t == "Rome") > 0.5)} for x, t in zip(rng.normal(size=400), rng.choice(["Oslo", "Rome"], 400), strict=True)]
    table, options = from_rows(rows), Options("y")
    registry = Registry(Artifacts(tmp_path_factory.mktemp("artifacts").as_uri()))
    result = list(run(table, options, tuple(b for b in REPOSITORY if b.name in {"constant", "linear", "lightgbm"})))[-1]
    board = save_all(registry, table, result, options, {"project_id": "p"})
    return registry, [m["model_id"] for m in board if m["blueprint"] in {"linear", "lightgbm"}][-2:]


@pytest.fixture
def world(front, trained):
    registry, (champion, challenger) = trained
    name = f"d{uuid.uuid4().hex[:8]}"
    catalog = Catalog()
    for k, (fact, deployment) in enumerate(
        [
            (events.ModelRegistered(champion, "p", "linear", "binary", "y", "log_loss", {}), ""),
            (events.ModelRegistered(challenger, "p", "lightgbm", "binary", "y", "log_loss", {}), ""),
            (events.DeploymentCreated(champion, ""), name),
            (events.ChallengerAdded(challenger), name),
        ]
    ):
        catalog.apply(Event(f"e{k}", k, "test", deployment, fact))
    return World(front, registry, catalog, name, champion, challenger)


class World:
    def __init__(self, front, registry, catalog, name, champion, challenger):
        self.front, self.name, self.champion, self.challenger = front, name, champion, challenger
        self.package = registry.load(champion)
        self.journal = uuid.uuid4().hex[:16]
        self.partition = random.Random(name).randrange(1000, 10**6)  # a partition nobody else has
        self.new_engine = lambda: Engine(front.writer, registry, Known(catalog))

    def requests(self, count, rows_each=3, seed=0):
        rng = np.random.default_rng(seed)
        records = []
        for k in range(count):
            rows = [{"x": float(rng.normal()), "town": str(rng.choice(["Oslo", "Rome", "Lima"]))} for _ in range(rows_each)]
            base = self.package.schema.encode_rows(rows).matrix
            p = self.package.plan.predict(base)
            ids = [f"a{k}-{j}" for j in range(rows_each)]
            records.append(
                {"k": "p", "d": self.name, "v": 2, "m": self.champion, "id": f"r{k}", "s": k + 1, "p": self.partition, "t": T0 + k, "ts": [T0 + k * MINUTE // 2] * rows_each,
                 "a": ids, "rows": rows, "y": p[:, 1].tolist(), "k1": self.package.plan.classes_of(p), "q": p.tolist(), "lat": 5.0, "c": "me"}
            )
        return records

    def raws(self, records, encoder=prediction_batches):
        return [Raw("predictions", self.partition, k, data) for k, data in enumerate(encoder(records, self.journal))]

    def actuals(self, triples, first):
        records = [{"k": "a", "d": self.name, "s": first + k, "p": self.partition, "t": T0 + 10**9 + first + k, "rows": [t]} for k, t in enumerate(triples)]
        return self.raws(records, actual_batches)

    def sql(self, query):
        return self.front.reader.rows(query.replace("$d", f"deployment = '{self.name}'"))

    def counts(self):
        rows = self.sql("SELECT sumForEach(counts) AS c FROM drift_counts WHERE $d")
        return np.array(rows[0]["c"])

    def expected_counts(self, records):
        rows = [row for r in records for row in r["rows"]]
        base = self.package.schema.encode_rows(rows).matrix
        score = drift_score(self.package.schema.target, self.package.plan.predict(base))
        return self.package.baseline.counts(base, score, np.zeros(len(rows), dtype=int), 1)[0]


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


def test_an_actual_belongs_to_every_prediction_of_its_id(world):
    records = world.requests(4)
    for record in records:
        record["a"] = ["same"] * 3
    engine = world.new_engine()
    engine.cycle(world.raws(records) + world.actuals([("same", "true", None, "x")], 50))
    assert world.sql("SELECT role, count() AS n FROM outcomes WHERE $d GROUP BY role ORDER BY role") == [{"role": "challenger", "n": 12}, {"role": "champion", "n": 12}]


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
        publisher = Publisher(tmp_path / "journal", sink, world.front.reader, partitions=1, most=1 << 20, fsync=False)
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
    engine.patient = False
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
    log.command(f"INSERT INTO drift_log SELECT * REPLACE (version + 1 AS version, arrayMap(c -> c + 1, counts) AS counts) FROM drift_log WHERE deployment = '{world.name}' LIMIT 1")
    assert not verify.drift(log, registry, world.name)["equal"]
    log.command(f"INSERT INTO outcomes_log SELECT * REPLACE ('other' AS actual_class, rank + 1 AS rank) FROM outcomes_log WHERE deployment = '{world.name}' LIMIT 1")
    assert not verify.outcomes(log, world.name)["equal"]
