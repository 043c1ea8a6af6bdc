"""Adapted intervals proved: what a steward told of each day is what the recorded days give again; a share that was changed, kept back or invented is noticed."""

import uuid
from dataclasses import asdict

import numpy as np
import orjson
import pytest

from models.autopilot import run
from models.blueprints import REPOSITORY
from models.packaging import save_all
from models.preparation import Options
from models.registry import Artifacts, Registry
from stream import events
from stream.cohorts import Maturing, read_together
from stream.concepts import Detectors
from stream.events import ConceptDriftDetected, Event, IntervalsAdapted
from stream.projections.catalog import Catalog
from stream.verify import alarms
from tests.stream.conftest import MINUTE, T0, World
from tests.stream.test_alarms_again import DAY, Forged
from tests.support import from_rows

DAYS, EACH, STEP = 6, 100, 0.2


class Values(World):
    """A deployment that predicts a number."""

    def requests(self, count, rows_each=1, seed=0):
        rng = np.random.default_rng(seed)
        records = []
        for k in range(count):
            rows = [{"x": float(rng.normal())}]
            p = self.package.plan.predict(self.package.schema.encode_rows(rows).matrix)
            records.append({"k": "p", "d": self.name, "v": 1, "m": self.champion, "id": f"r{k}", "s": k + 1, "p": self.partition, "t": T0 + k, "ts": [T0 + k], "a": [f"a{k}"], "rows": rows, "y": p[:, 0].tolist(), "k1": [""], "q": [[]], "lat": 5.0, "c": "me"})
        return records


@pytest.fixture(scope="module")
def told(front, tmp_path_factory):
    """Six days, on the fourth of which the errors double; the log, the registry, the deployment, its cohorts and what is said of them."""
    rng, registry = np.random.default_rng(1), Registry(Artifacts(tmp_path_factory.mktemp("artifacts").as_uri()), b"a test's key")
    table, options = from_rows([{"x": x, "y": 2 * x + rng.normal()} for x in rng.normal(size=600).tolist()]), Options("y")
    result = list(run(table, options, tuple(b for b in REPOSITORY if b.name in {"constant", "linear"})))[-1]
    champion = [m["model_id"] for m in save_all(registry, table, result, options, {"project_id": "p"}) if m["blueprint"] == "linear"][-1]
    catalog, name = Catalog(), f"v{uuid.uuid4().hex[:8]}"
    catalog.apply(Event("e0", 0, "test", "", events.ModelRegistered(champion, "p", "linear", "regression", "y", "rmse", {})))
    catalog.apply(Event("e1", 1, "test", name, events.DeploymentCreated(champion, "")))
    world = Values(front, registry, catalog, name, champion, "")
    records, first, facts = world.requests(DAYS * EACH), T0 // DAY * DAY, []
    for k, record in enumerate(records):
        record["ts"] = [first + k // EACH * DAY + k % EACH * MINUTE]
        actual = 2 * record["rows"][0]["x"] + rng.normal() * (1 if k // EACH < 3 else 2)
        facts.append([f"a{k}", str(actual), record["ts"][0] + MINUTE, f"f{k}"])
    world.new_engine().cycle(world.raws(records))
    world.new_engine().cycle(world.actuals(facts, len(records) + 1))
    maturing, day = Maturing(front.reader, name), first // DAY
    cohorts = [*maturing.cohorts(first, day + DAYS - 1, first + 9 * DAY), *maturing.cohorts(first + (DAYS - 1) * DAY, day + DAYS, first + 9 * DAY)]
    detectors, said = Detectors(front.reader, registry, name, [], [STEP]), []
    while detectors.read < len(cohorts):
        said += [fact for _, fact in detectors.feed(read_together(cohorts[detectors.read :]))]
    return front.reader, registry, name, cohorts, said


def proved(told, facts, steps=(STEP,)):
    log, registry, name, cohorts, _ = told
    whole = [*({"type": "deployment_configured", "payload": orjson.dumps({"settings": {"adaptive_intervals": step}, "reason": ""})} for step in steps), *({"type": f.TYPE, "payload": orjson.dumps(asdict(f))} for f in [*cohorts, *facts])]
    return alarms(Forged(log, whole), registry, name)


def test_what_was_told_of_each_day_is_told_again(told):
    _, _, _, cohorts, said = told
    adapted = [fact for fact in said if isinstance(fact, IntervalsAdapted)]
    assert [fact.rows for fact in adapted] == [EACH] * DAYS == [c.matched for c in cohorts]
    assert adapted[3].missed["0.9"] > adapted[2].missed["0.9"] + 0.1
    assert adapted[5].outside["0.9"] < adapted[2].outside["0.9"]
    found = proved(told, said[:-1] if said[-1].until == adapted[-1].until else said)
    assert found["equal"], found
    assert found["rows"] == (DAYS - 1) * EACH
    assert {type(fact) for fact in said} <= {IntervalsAdapted, ConceptDriftDetected}


def test_a_share_that_was_changed_kept_back_or_invented_is_noticed(told):
    said = told[4]
    first = next(k for k, fact in enumerate(said) if isinstance(fact, IntervalsAdapted))
    changed = IntervalsAdapted(**{**asdict(said[first]), "outside": {**said[first].outside, "0.9": 0.1234}})
    for forged in ([*said[:first], changed, *said[first + 1 :]], [*said[:first], *said[first + 1 :]], [*said, said[first]]):
        assert not proved(told, forged)["equal"]


def test_of_a_step_that_is_not_asked_for_any_more_a_share_may_be_missing_but_none_may_be_wrong(told):
    said = told[4]
    first = next(k for k, fact in enumerate(said) if isinstance(fact, IntervalsAdapted))
    assert proved(told, [*said[:first], *said[first + 1 :]], steps=(STEP, None))["equal"]
    changed = IntervalsAdapted(**{**asdict(said[first]), "rows": 1})
    assert not proved(told, [*said[:first], changed, *said[first + 1 :]], steps=(STEP, None))["equal"]
