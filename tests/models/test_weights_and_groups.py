"""Weights count a row as so many; groups stay on one side of every cut."""

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as sk
from sklearn.linear_model import LogisticRegression

from models.autopilot import Result, run
from models.blueprints import REPOSITORY
from models.errors import DataError
from models.metrics import METRICS, metrics_of
from models.partition import make_partition
from models.preparation import Options, prepare
from models.table import Table

RNG = np.random.default_rng(3)


def table(n=600, **more):
    x = RNG.normal(size=n)
    y = (x + RNG.normal(size=n) > 0).astype(int)
    return Table(pa.table({"x": x, "z": RNG.normal(size=n), "y": y, **more}))


@pytest.mark.parametrize("name", sorted(metrics_of("binary") | metrics_of("multiclass")))
@pytest.mark.parametrize("classes", [2, 3])
def test_whole_weights_are_the_same_as_repeated_rows_for_every_classification_metric(name, classes):
    y = RNG.integers(0, classes, 200)
    p = np.round(RNG.dirichlet(np.ones(classes), 200), 2)
    w = RNG.integers(1, 5, 200)
    rows = np.repeat(np.arange(200), w)
    assert METRICS[name].function(y, p, w.astype(float)) == pytest.approx(METRICS[name].function(y[rows], p[rows]), rel=1e-9)


@pytest.mark.parametrize("name", sorted(metrics_of("regression")))
def test_whole_weights_are_the_same_as_repeated_rows_for_every_regression_metric(name):
    y, p, w = RNG.gamma(2, size=200) + 0.1, RNG.gamma(2, size=200) + 0.1, RNG.integers(1, 5, 200)
    rows = np.repeat(np.arange(200), w)
    assert METRICS[name].function(y, p, w.astype(float)) == pytest.approx(METRICS[name].function(y[rows], p[rows]), rel=1e-9)


def test_weighted_auc_equals_scikit_learns():
    y, s, w = RNG.integers(0, 2, 500), np.round(RNG.random(500), 1), RNG.random(500)
    assert METRICS["roc_auc"].function(y, np.column_stack([1 - s, s]), w) == pytest.approx(sk.roc_auc_score(y, s, sample_weight=w), rel=1e-9)
    assert METRICS["pr_auc"].function(y, np.column_stack([1 - s, s]), w) == pytest.approx(sk.average_precision_score(y, s, sample_weight=w), rel=1e-9)


@pytest.mark.parametrize("blueprint", list(REPOSITORY), ids=lambda b: b.name)
def test_every_blueprint_learns_what_the_weights_say(blueprint):
    """The same inputs with opposite labels: the heavy ones win."""
    x = np.repeat(RNG.normal(size=400), 2)
    y = np.tile([0, 1], 400)
    heavy = np.where(y == 1, 9.0, 1.0)
    data = prepare(Table(pa.table({"x": x, "y": y, "w": heavy})), Options("y", weight="w"))
    member = blueprint.fit(data.schema, data.base, data.y, 0, data.weights)
    least = 0.57 if blueprint.name == "neural_network" else 0.8  # it stops early, and decays strongly
    assert least < member.predict(data.base)[:, 1].mean() < 0.97
    plain = blueprint.fit(data.schema, data.base, data.y, 0)
    assert 0.4 < plain.predict(data.base)[:, 1].mean() < 0.6


def test_the_linear_model_is_scikit_learns_with_its_sample_weight():
    w = RNG.random(600) + 0.1
    data = prepare(table(w=w), Options("y", weight="w"))
    linear = next(b for b in REPOSITORY if b.name == "linear")
    from models.encoders import dense_pieces, design

    x = design(dense_pieces(data.schema, data.base), data.base)
    other = LogisticRegression(C=linear.strength, max_iter=200).fit(x, data.y, sample_weight=w)
    assert np.allclose(linear.fit(data.schema, data.base, data.y, 0, data.weights).predict(data.base), other.predict_proba(x), atol=1e-9)


def test_the_leaderboard_scores_with_weights_and_the_weight_is_no_input():
    w = np.where(np.arange(600) % 3 == 0, 0.0, RNG.random(600) + 0.5)
    result = next(step for step in run(table(w=w), Options("y", weight="w"), tuple(b for b in REPOSITORY if b.name in {"constant", "linear"})) if isinstance(step, Result))
    assert any("200 rows of weight 0" in note for note in result.notes)
    entry = next(e for e in result.entries if e.blueprint == "linear" and not e.recommended)
    assert entry.plan.schema.names == ["x", "z"]
    assert np.isfinite(entry.validation)


@pytest.mark.parametrize("bad", [[-1.0], [None], [float("nan")]])
def test_a_weight_that_is_none_is_refused(bad):
    with pytest.raises(DataError) as found:
        prepare(table(w=pa.array([1.0] * 599 + bad)), Options("y", weight="w"))
    assert found.value.code == "wrong_weight"


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_group_is_never_on_both_sides(task):
    groups = np.array([f"g{k}" for k in RNG.integers(0, 40, 1000)], dtype=object)
    y = RNG.integers(0, 2, 1000) if task == "binary" else RNG.normal(size=1000)
    found = make_partition(y, task, None, holdout=0.2, gap=0, seed=1, groups=groups)
    assert not set(groups[found.development]) & set(groups[found.holdout])
    assert 0.1 < len(found.holdout) / 1000 < 0.3
    assert sorted([*found.development, *found.holdout]) == list(range(1000))
    for train, validate in found.folds:
        assert not set(groups[train]) & set(groups[validate])
        assert set(train) | set(validate) == set(found.development)


def test_forward_in_time_the_groups_that_are_validated_leave_training():
    times = np.arange(1000) * 3_600_000_000
    groups = np.array([f"g{k // 30}" for k in range(1000)], dtype=object)
    found = make_partition(RNG.integers(0, 2, 1000), "binary", times, holdout=0.2, gap=0, seed=1, groups=groups)
    for train, validate in [*found.folds, (found.development, found.holdout)]:
        assert not set(groups[train]) & set(groups[validate])
        assert times[train].max() < times[validate].min()


def test_too_few_groups_are_refused():
    with pytest.raises(DataError) as found:
        make_partition(np.arange(100) % 2, "binary", None, holdout=0.2, gap=0, seed=0, groups=np.array(["a", "b"] * 50, dtype=object))
    assert found.value.code == "too_few_groups"
    with pytest.raises(DataError):
        make_partition(np.arange(100) % 2, "binary", np.arange(100) * 10**9, holdout=0.2, gap=0, seed=0, groups=np.array(["a", "b"] * 50, dtype=object))


def test_a_row_without_a_group_is_a_group_of_its_own():
    groups = [None if k % 10 == 0 else f"g{k % 40}" for k in range(600)]
    data = prepare(table(shop=pa.array(groups)), Options("y", group="shop"))
    assert data.partition.kind == "group"
    held = {groups[k] for k in data.partition.holdout} - {None}
    assert not held & {groups[k] for k in data.partition.development}


def test_a_group_column_is_no_input_and_the_partition_says_so():
    groups = np.array([f"shop {k}" for k in RNG.integers(0, 30, 600)])
    data = prepare(table(shop=groups), Options("y", group="shop"))
    assert data.partition.kind == "group"
    assert "shop" not in data.schema.names
