"""The worker's cycle against a real log: every event counts once, whatever comes in whatever order."""

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
from models.table import from_rows
from stream import events
from stream.batches import actual_batches, decode, prediction_batches
from stream.control import Recorder
from stream.engine import Engine, Raw
from stream.errors import Malformed
from stream.events import Event
from stream.projections.catalog import Catalog

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
