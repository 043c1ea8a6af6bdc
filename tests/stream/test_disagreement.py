"""Where champion and challenger differ: as SciPy and plain NumPy count it from what the two models say themselves."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from models.registry import Registry
from stream.disagreement import explore
from stream.measures import measured
from stream.queries import Window

T0 = 1_760_000_000_000_000


@pytest.fixture
def shadowed(world):
    """Sixty requests that both scored, and what each says of them by itself."""
    records = world.requests(60, rows_each=5, seed=4)
    engine = world.new_engine()
    engine.cycle(world.raws(records))
    rows = [row for r in records for row in r["rows"]]
    registry: Registry = engine._registry
    said = [registry.load(m).plan for m in (world.champion, world.challenger)]
    p, q = (plan.predict(plan.schema.encode_rows(rows).matrix) for plan in said)
    return world, engine, rows, p, q


def explained(values, differences):
    """Eta squared by way of the F statistic."""
    groups = [differences[values == v] for v in sorted(set(values))]
    f, k, n = f_oneway(*groups).statistic, len(groups), len(differences)
    return f * (k - 1) / (f * (k - 1) + n - k)


def test_how_far_how_often_where_and_on_which_rows(shadowed):
    world, engine, rows, p, q = shadowed
    found = explore(world.front.reader, engine._registry, Window(world.name), world.champion, world.challenger, 7)
    differences = np.abs(p - q).max(axis=1)
    assert found["totals"]["rows"] == len(rows)
    assert found["totals"]["mean"] == pytest.approx(differences.mean(), abs=1e-9)
    assert found["totals"]["rate"] == pytest.approx((p.argmax(axis=1) != q.argmax(axis=1)).mean())
    assert sum(c["rows"] for c in found["classes"] if c["champion"] != c["challenger"]) == (p.argmax(axis=1) != q.argmax(axis=1)).sum()
    assert [r["difference"] for r in found["rows"]] == pytest.approx(np.sort(differences)[::-1][:7].tolist())
    worst = rows[int(differences.argmax())]
    stored = world.sql(f"SELECT features_num['x'] AS x FROM predictions WHERE $d AND role = 'champion' AND association_id = '{found['rows'][0]['association_id']}'")
    assert stored == [{"x": worst["x"]}]
    inputs = {i["name"]: i for i in found["inputs"]}
    towns = np.array([r["town"] for r in rows])
    assert inputs["town"]["explains"] == pytest.approx(explained(towns, differences), abs=1e-9)
    assert {g["label"]: (g["rows"], pytest.approx(g["mean"])) for g in inputs["town"]["groups"]} == {("unseen" if t == "Lima" else t): ((towns == t).sum(), differences[towns == t].mean()) for t in set(towns)}
    bins = next(b for b in world.package.baseline.features if b.name == "x")
    x = np.array([r["x"] for r in rows])
    assert inputs["x"]["explains"] == pytest.approx(explained(np.digitize(x, [bins.low, *bins.edges, np.nextafter(bins.high, 9)]), differences), abs=1e-9)
    assert [i["explains"] for i in found["inputs"]] == sorted((i["explains"] for i in found["inputs"]), reverse=True)


def test_a_rule_may_watch_it_and_without_enough_rows_it_is_unknown(shadowed):
    world, engine, rows, p, q = shadowed
    ask = lambda **rule: measured(world.front.reader, engine._registry, engine._follower.catalog, world.name, {"window": "1d", **rule}, T0).value  # noqa: E731
    assert ask(measure="disagreement.mean") == pytest.approx(np.abs(p - q).max(axis=1).mean())
    assert ask(measure="disagreement.rate", model_id=world.challenger) == pytest.approx((p.argmax(axis=1) != q.argmax(axis=1)).mean())
    assert ask(measure="disagreement.rate", least_rows=len(rows) + 1) is None
    assert ask(measure="disagreement.rate", model_id=world.champion) is None


def test_a_segment_and_a_window_cut_it(shadowed):
    world, engine, rows, p, q = shadowed
    registry = engine._registry
    town = np.array([r["town"] for r in rows]) == "Oslo"
    one = explore(world.front.reader, registry, Window(world.name, segment="(features_cat['town'] = 'Oslo')"), world.champion, world.challenger, 1)
    assert (one["totals"]["rows"], one["totals"]["mean"]) == (town.sum(), pytest.approx(np.abs(p - q).max(axis=1)[town].mean()))
    none = explore(world.front.reader, registry, Window(world.name, start=1, end=2), world.champion, world.challenger, 1)
    assert (none["totals"], none["inputs"], none["rows"]) == ({"rows": 0, "mean": None, "rate": None}, [], [])
