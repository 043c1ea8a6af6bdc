"""Training sets from the log: which rows, how much each counts, and the same bytes again."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.errors import DataError
from models.registry import Artifacts
from stream.jobs.training_set import EVENT_TIME, WEIGHT, Choice, build, read_choice, rebuild
from stream.projections.catalog import Project
from stream.trainer import inherited

DAY = 86_400_000_000
T0 = 1_760_000_000_000_000
LATER = T0 + 10**15


@pytest.fixture
def filled(world):
    """200 requests of one row, one every six hours; odd ones end as true, the outcome a day later."""
    records = world.requests(200, rows_each=1)
    for k, record in enumerate(records):
        record["a"], record["ts"], record["h"] = [f"a{k}"], [T0 + k * DAY // 4], [{3: "r:override", 5: "r:refer"}.get(k, "")]
    facts = [(f"a{k}", "true" if k % 2 else "false", T0 + k * DAY // 4 + DAY, f"f{k}", k == 7) for k in range(200)]
    world.new_engine().cycle(world.raws(records) + world.actuals(facts, 500))
    return world


def made(world, tmp_path, **choice):
    artifacts = Artifacts((tmp_path / "sets").as_uri())
    name, record = build(world.front.reader, artifacts, world.package, world.name, cut_off=LATER, start=0, choice=Choice(**choice))
    assert rebuild(world.front.reader, artifacts, world.package, record)["equal"]
    return pyarrow.parquet.read_table(io.BytesIO(artifacts.read(name))), record


def ids_of(table):
    return set(table.column("champion_association_id").to_pylist())


def test_all_matched_rows_are_there_once_in_their_order(filled, tmp_path):
    table, record = made(filled, tmp_path)
    assert ids_of(table) == {f"a{k}" for k in range(200)}
    assert table.column(EVENT_TIME).to_pylist() == sorted(table.column(EVENT_TIME).to_pylist())
    assert record["rows_by_source"] == {"production": 200}
    assert record["label_delay_seconds"] == 86_400
    assert WEIGHT not in table.column_names


def test_of_several_predictions_of_one_id_the_newest_stands_for_all(world, tmp_path):
    records = world.requests(6, rows_each=1)
    for k, record in enumerate(records):
        record["a"], record["ts"] = [f"a{k % 3}"], [T0 + k]
    world.new_engine().cycle(world.raws(records) + world.actuals([(f"a{k}", "true", None, f"f{k}") for k in range(3)], 500))
    table, record = made(world, tmp_path)
    assert table.num_rows == 3
    assert record["left_out"] == 3
    assert table.column("x").to_pylist() == [r["rows"][0]["x"] for r in records[3:]]


@pytest.mark.parametrize(("word", "gone"), [("overridden", "a3"), ("referred", "a5"), ("acted_on", "a7")])
def test_rows_that_were_interfered_with_are_left_out_on_request(filled, tmp_path, word, gone):
    table, record = made(filled, tmp_path, exclude=(word,))
    assert ids_of(table) == {f"a{k}" for k in range(200)} - {gone}
    assert record["left_out"] == 1


def test_an_actual_says_whether_it_was_acted_on(filled):
    assert filled.sql("SELECT association_id AS a FROM actuals WHERE $d AND acted_on") == [{"a": "a7"}]


def test_each_half_life_halves_what_a_row_counts(filled, tmp_path):
    table, _ = made(filled, tmp_path, half_life=10 * 86_400)
    weights = table.column(WEIGHT).to_numpy()
    assert weights[-1] == 1.0
    assert np.allclose(weights[:-40] * 2, weights[40:])  # forty rows are ten days


def test_a_stratified_set_takes_about_as_many_rows_of_each_tenth_of_the_time(world, tmp_path):
    """Nine rows in ten come on the last day."""
    records = world.requests(20, rows_each=100)
    for k, record in enumerate(records):
        days = [k * 9 // 20 + (9 if j % 10 else 0) for j in range(100)]
        record["a"], record["ts"] = [f"a{k}-{j}" for j in range(100)], [T0 + min(d, 9) * DAY + k * 1000 + j for j, d in enumerate(days)]
    world.new_engine().cycle(world.raws(records) + world.actuals([(f"a{k}-{j}", "true", None, f"f{k}-{j}") for k in range(20) for j in range(100)], 500))
    table, record = made(world, tmp_path, rows=150)
    days = (np.array(table.column(EVENT_TIME).cast("int64")) - T0) // DAY
    assert record["left_out"] == 0
    assert (days == 9).sum() < 40  # of 1,800
    assert (days < 9).sum() > 80  # of 200


@pytest.mark.parametrize("bad", [{"exclude": ["bad luck"]}, {"half_life": -1}, {"rows": "many"}])
def test_a_choice_that_makes_no_sense_is_refused(bad):
    with pytest.raises(DataError):
        read_choice(bad)


def test_a_retraining_takes_over_what_its_user_chose_and_not_what_a_run_before_it_did():
    """The champion may come of a retraining itself: its weights, its recipe alone and its measured gap are not the user's."""
    user = {"target": "y", "weight": "w", "group": "shop", "exclude": ["a"], "source": "http://db", "query": "SELECT 1"}
    first = Project("p1", "n", "f", user, "", 1)
    assert inherited(first) == user
    made = {**user, "weight": WEIGHT, "keep": "linear", "blueprints": ["linear"], "gap_seconds": 77, "gap_measured": True, "training_set": {"weight": "w", "model_id": "m"}}
    assert inherited(Project("p2", "n", "f", made, "d", 2)) == user
    chosen = {**user, "gap_seconds": 60.0}
    assert inherited(Project("p3", "n", "f", chosen, "", 3)) == chosen


def test_a_weight_that_production_does_not_log_is_kept_of_the_original_set(filled, tmp_path):
    artifacts = Artifacts((tmp_path / "sets").as_uri())
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"x": [0.1, 0.2], "town": ["Oslo", "Rome"], "y": [True, False], "w": [3.0, 0.5]}), sink)
    artifacts.write("original", sink.getvalue())
    name, record = build(filled.front.reader, artifacts, filled.package, filled.name, cut_off=LATER, start=0, original="original", options={"weight": "w"})
    table = pyarrow.parquet.read_table(io.BytesIO(artifacts.read(name)))
    assert table.column(WEIGHT).to_pylist() == [3.0, 0.5] + [1.0] * 200
    assert rebuild(filled.front.reader, artifacts, filled.package, record)["equal"]
