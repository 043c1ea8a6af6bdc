"""A deployment with a champion and a challenger against a real log, without broker and processes."""

import random
import uuid

import numpy as np
import pytest

from models.autopilot import run
from models.baseline import drift_score
from models.blueprints import REPOSITORY
from models.packaging import save_all
from models.preparation import Options
from models.registry import Artifacts, Registry
from stream import events
from stream.batches import actual_batches, prediction_batches
from stream.engine import Engine, Raw
from stream.events import Event
from stream.projections.catalog import Catalog
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
    registry = Registry(Artifacts(tmp_path_factory.mktemp("artifacts").as_uri()), b"a test's key")
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
        self.front, self.catalog, self.name, self.champion, self.challenger = front, catalog, name, champion, challenger
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
