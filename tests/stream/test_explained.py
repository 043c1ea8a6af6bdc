"""A sample of the answers explained by the worker: each row as the model explains it alone, once, whatever is done again."""

import numpy as np
import pytest

from models.insights.contributions import contributions
from stream import events
from stream.batches import erasure_batches
from stream.engine import Raw
from stream.events import Event
from stream.explainer import drivers
from stream.queries import Window
from tests.stream.conftest import T0


def explain(world, share):
    """Set the share; answers the records' version from then on."""
    world.catalog.apply(Event(f"explain{share}", 9, "test", world.name, events.DeploymentConfigured({"explain": share}, "")))
    return world.catalog.deployment(world.name).now.version


def test_every_answer_is_explained_as_the_model_explains_it_alone_and_once(world):
    version = explain(world, 1.0)
    records = [{**r, "v": version} for r in world.requests(30, rows_each=4, seed=9)]
    engine = world.new_engine()
    raws = world.raws(records)
    engine.cycle(raws)
    engine.cycle(raws)
    world.new_engine().cycle(raws)
    rows = world.sql("SELECT association_id, explained_class, score, typical_score, effects FROM explanations WHERE $d")
    told = {r["association_id"]: r for r in rows}
    assert len(rows) == len(told) == 120
    schema = world.package.schema
    for record in records:
        for name, row in zip(record["a"], record["rows"], strict=True):
            one = contributions(world.package.plan, world.package.baseline, schema.encode_rows([row]).matrix[0], 1, 9)
            assert told[name]["explained_class"] == schema.target.positive
            assert (told[name]["score"], told[name]["typical_score"]) == pytest.approx((one["score"], one["typical_score"]))
            assert told[name]["effects"] == {i["feature"]: pytest.approx(i["contribution"], abs=1e-12) for i in one["strongest"]}
    found = drivers(world.front.reader, world.package, Window(world.name))
    effects = np.array([[r["effects"][name] for name in schema.names] for r in rows])
    assert found["rows"] == 120
    assert {i["name"]: (i["size"], i["mean"]) for i in found["inputs"]} == {n: (pytest.approx(np.abs(effects[:, k]).mean()), pytest.approx(effects[:, k].mean(), abs=1e-12)) for k, n in enumerate(schema.names)}
    assert [i["size"] for i in found["inputs"]] == sorted((i["size"] for i in found["inputs"]), reverse=True)
    oslo = [name for r in records for name, row in zip(r["a"], r["rows"], strict=True) if row["town"] == "Oslo"]
    part = drivers(world.front.reader, world.package, Window(world.name, segment="(features_cat['town'] = 'Oslo')"))
    assert part["rows"] == len(oslo) < 120
    assert next(i["size"] for i in part["inputs"] if i["name"] == "x") == pytest.approx(np.mean([abs(told[name]["effects"]["x"]) for name in oslo]))
    erased = erasure_batches([{"d": world.name, "s": 500, "p": world.partition, "t": T0 + 10**12, "id": "gone", "a": "a2-0", "n": 1}], world.journal)
    engine.cycle([Raw("champion.predictions", world.partition, 99, m) for m in erased])
    assert {r["association_id"] for r in world.sql("SELECT association_id FROM explanations WHERE $d")} == set(told) - {"a2-0"}


def test_a_share_is_the_same_rows_however_the_stream_is_cut_and_none_without_the_setting(world):
    records, version = world.requests(200, rows_each=2, seed=10), explain(world, 0.25)
    before, after = records[:100], [{**r, "v": version} for r in records[100:]]
    world.new_engine().cycle(world.raws(before))  # answered before it was set, whenever they come
    assert world.sql("SELECT count() AS n FROM explanations WHERE $d") == [{"n": 0}]
    world.new_engine().cycle(world.raws(after))
    first = {r["event_id"] for r in world.sql("SELECT event_id FROM explanations WHERE $d")}
    assert 25 <= len(first) <= 80
    again = world.new_engine()
    for record in after:
        again.cycle(world.raws([record]))
    assert {r["event_id"] for r in world.sql("SELECT event_id FROM explanations WHERE $d")} == first
