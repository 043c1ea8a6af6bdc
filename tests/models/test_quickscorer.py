"""Trees as tables answer what LightGBM's own walk answers, bit for bit."""

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor

from models.native import FEW, TreePredictor
from models.trees import forest_text, histogram_boosting_text

COLUMNS = 4


def data(seed, rows=800):
    """Two numeric columns (one with holes), a categorical one of 40 codes, a constant one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, COLUMNS)).round(2)
    x[:, 1][rng.random(rows) < 0.1] = np.nan
    x[:, 2] = rng.integers(0, 40, rows)
    x[:, 3] = 1.0
    return x, np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) ** 2 + x[:, 2] % 3 + rng.normal(size=rows)


def booster_text(seed, objective, leaves, **more):
    x, y = data(seed)
    labels = {"regression": y, "binary": y > 2, "multiclass": np.digitize(y, [1, 2, 3])}[objective]
    parameters = {"objective": objective, "num_leaves": leaves, "verbose": -1, "min_data_per_group": 5, "min_data_in_leaf": 3, "num_threads": 1, "seed": seed, **more}
    if objective == "multiclass":
        parameters["num_class"] = 4
    return lightgbm.train(parameters, lightgbm.Dataset(x, labels.astype(float), categorical_feature=[2]), 12).model_to_string()


def odd_rows(text, rng):
    """Rows at, just above and just below thresholds, missing, infinite, codes never seen and cut ones."""
    cuts = [float(v) for line in text.splitlines() if line.startswith("threshold=") for v in line[10:].split()] or [0.0]
    pool = np.array([*cuts, *np.nextafter(cuts, np.inf), *np.nextafter(cuts, -np.inf), np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300])
    x = rng.choice(pool, size=(700, COLUMNS))
    x[:, 2] = rng.choice(np.array([*range(45), np.nan, -1.0, -0.5, 2.7, 1e9, 63.0]), size=700)
    return x


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), objective=st.sampled_from(["regression", "binary", "multiclass"]), leaves=st.sampled_from([2, 5, 31, 32, 33, 64]))
def test_boosted_trees_of_any_task_and_size_with_any_values(seed, objective, leaves):
    text = booster_text(seed, objective, leaves)
    model = TreePredictor(text, COLUMNS, averaged=False)
    assert model.tabled
    x = odd_rows(text, np.random.default_rng(seed))
    for rows in (FEW, 255, 256, 257, 512, 513, 700):
        assert np.array_equal(model.many(x[:rows]), model.walked(x[:rows]))


def test_forests_and_histogram_boosting():
    x, y = data(3)
    x = np.nan_to_num(x)
    forest = forest_text(RandomForestRegressor(15, max_leaf_nodes=40, random_state=0).fit(x, y), COLUMNS)
    boosting = histogram_boosting_text(HistGradientBoostingClassifier(max_iter=15, random_state=0).fit(data(3)[0], np.digitize(y, [1, 2])), COLUMNS)
    for text, averaged in ((forest, True), (boosting, False)):
        model = TreePredictor(text, COLUMNS, averaged=averaged)
        assert model.tabled
        odd = odd_rows(text, np.random.default_rng(0))
        assert np.array_equal(model.many(odd), model.walked(odd))


@pytest.mark.parametrize("text", [booster_text(1, "regression", 65), booster_text(1, "regression", 8, linear_tree=True), booster_text(1, "regression", 8, zero_as_missing=True)])
def test_what_does_not_fit_the_tables_is_walked(text):
    model = TreePredictor(text, COLUMNS, averaged=False)
    x = odd_rows(text, np.random.default_rng(0))
    x[~np.isfinite(x)] = 0.0
    assert not model.tabled
    assert np.array_equal(model.many(x), model.walked(x))


def test_a_model_of_constants_is_a_table_too():
    text = lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(np.zeros((50, COLUMNS)), np.ones(50)), 2).model_to_string()
    model = TreePredictor(text, COLUMNS, averaged=False)
    assert np.array_equal(model.many(np.zeros((300, COLUMNS))), model.walked(np.zeros((300, COLUMNS))))
