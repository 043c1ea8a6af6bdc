"""A replay that is broken off goes on where the log's rows end, and no row comes twice."""

import asyncio

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream import events
from stream.comparison import comparison_answer, replay_comparison
from stream.engine import Raw
from stream.errors import Refused
from stream.events import Event
from stream.jobs import replay as module
from stream.jobs.replay import parts_of, replay
from stream.queries import Window

ALL = {"start": 0, "end": 2**52}


class Outbox:
    """Takes what would go to the broker."""

    def __init__(self):
        self.sent = []

    async def send(self, topic, values, partition):
        assert topic == "predictions"
        self.sent.extend(values)


def replayed(world, package, name):
    async def run():
        box = Outbox()
        told = [step async for step in replay(world.front.writer, box, package, world.name, replay_id=name, partitions=4, **ALL)]
        return box.sent, told

    return asyncio.run(run())


def test_a_replay_goes_on_after_what_the_log_has_whatever_was_under_way(world, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 40)
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    world.new_engine().cycle(world.raws(world.requests(60)))
    package = world.package
    name = f"{world.name}-again"
    whole, told = replayed(world, package, name)
    assert told[-1] == (180, 180)
    assert len(told) > 3
    for cut in (1, 7, 15):
        world.new_engine().cycle([Raw("predictions", world.partition, k, m) for k, m in enumerate(whole[:cut])])
        rest, _ = replayed(world, package, name)
        assert rest == whole[cut:]  # what was under way is sent again under the same identities
    world.new_engine().cycle([Raw("predictions", world.partition, 100 + k, m) for k, m in enumerate(whole[10:] + rest)])
    rows = world.sql(f"SELECT count() AS n, uniqExact(event_id) AS u, uniqExact(association_id) AS a FROM predictions WHERE replay_id = '{name}'")
    assert rows == [{"n": 180, "u": 180, "a": 180}]
    both = world.sql(f"SELECT countIf(r.predicted_value = p.predicted_value) AS same FROM predictions AS r JOIN predictions AS p ON p.association_id = r.association_id AND p.role = 'champion' AND p.deployment = r.deployment WHERE r.replay_id = '{name}'")
    assert both == [{"same": 180}]
    assert replayed(world, package, name)[0] == []


@given(st.lists(st.integers(0, 30), min_size=0, max_size=120).map(sorted))
def test_rows_of_one_moment_stay_together(moments):
    page = pa.table({"recorded": pa.array(moments, pa.int64())})
    parts = parts_of(page)
    assert [m for part in parts for m in part.column("recorded").to_pylist()] == moments
    for one, other in zip(parts, parts[1:], strict=False):
        assert one.column("recorded")[-1].as_py() < other.column("recorded")[0].as_py()
    assert all(np.diff(part.column("recorded").to_numpy()).min(initial=0) >= 0 for part in parts)


def test_what_would_have_been_is_what_the_challenger_was_where_it_shadowed_all_rows(world, trained):
    rng = np.random.default_rng(7)
    world.new_engine().cycle(world.raws(world.requests(120, seed=8)))
    world.new_engine().cycle(world.actuals([[f"a{k}-{j}", str(bool(rng.random() < 0.5)).lower(), None, f"f{k}-{j}"] for k in range(120) for j in range(3)], 200))
    registry = trained[0]
    name = f"{world.name}-instead"
    world.catalog.apply(Event("asked", 5, "test", world.name, events.ReplayRequested(name, world.challenger, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")))
    sent, _ = replayed(world, registry.load(world.challenger), name)
    world.new_engine().cycle([Raw("predictions", world.partition, k, m) for k, m in enumerate(sent)])
    shadow = comparison_answer(world.front.reader, registry, world.catalog, Window(world.name))["challengers"][0]
    instead = replay_comparison(world.front.reader, registry, world.catalog, Window(world.name), name)["challengers"][0]
    assert instead["rows"] == shadow["rows"] == 360
    for metric, values in shadow["metrics"].items():
        found = instead["metrics"][metric]
        assert [found["champion"], found["challenger"], *found["interval"]] == pytest.approx([values["champion"], values["challenger"], *values["interval"]]), metric
    with pytest.raises(Refused):
        replay_comparison(world.front.reader, registry, world.catalog, Window(world.name), "another")
