"""Trees as tables, in C and in NumPy, answer what LightGBM's own walk answers, bit for bit."""

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor

from models import compiled
from models.native import TreePredictor
from models.quickscorer import FEW
from models.trees import forest_text, histogram_boosting_text

COLUMNS = 4
FORMS = pytest.mark.parametrize("form", ["c", "numpy"])


def predictor(text, form, *, averaged=False):
    """The trees in one of the two forms of the look-ups."""
    if form == "c" and not compiled.BUILT:
        pytest.skip("no C compiler was found when Champion was installed")
    with pytest.MonkeyPatch.context() as patch:
        if form == "numpy":
            patch.setattr(compiled, "BUILT", False)
        return TreePredictor(text, COLUMNS, averaged=averaged)


def same_bits(model, x):
    """Whether many rows, any memory order and single rows have the bits of LightGBM's walk."""
    walked = model.walked(x)
    forms = (x, np.asfortranarray(x), np.hstack([x, x])[:, : x.shape[1]], np.frombuffer(b"0123" + x.tobytes(), offset=4).reshape(x.shape))
    return all(model.many(rows).tobytes() == walked.tobytes() for rows in forms) and all(model.one(row).tobytes() == walked[i].tobytes() for i, row in enumerate(x[:20].tolist()))


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


@FORMS
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), objective=st.sampled_from(["regression", "binary", "multiclass"]), leaves=st.sampled_from([2, 5, 31, 32, 33, 64]))
def test_boosted_trees_of_any_task_and_size_with_any_values(form, seed, objective, leaves):
    text = booster_text(seed, objective, leaves)
    model = predictor(text, form)
    assert model.tabled
    x = odd_rows(text, np.random.default_rng(seed))
    for rows in (1, 2, FEW, 255, 256, 257, 512, 513, 700):
        assert same_bits(model, x[:rows])


@FORMS
def test_forests_and_histogram_boosting(form):
    x, y = data(3)
    x = np.nan_to_num(x)
    forest = forest_text(RandomForestRegressor(15, max_leaf_nodes=40, random_state=0).fit(x, y), COLUMNS)
    boosting = histogram_boosting_text(HistGradientBoostingClassifier(max_iter=15, random_state=0).fit(data(3)[0], np.digitize(y, [1, 2])), COLUMNS)
    for text, averaged in ((forest, True), (boosting, False)):
        model = predictor(text, form, averaged=averaged)
        assert model.tabled
        assert same_bits(model, odd_rows(text, np.random.default_rng(0)))


@pytest.mark.parametrize("text", [booster_text(1, "regression", 65), booster_text(1, "regression", 8, linear_tree=True), booster_text(1, "regression", 8, zero_as_missing=True)])
def test_what_does_not_fit_the_tables_is_walked(text):
    model = TreePredictor(text, COLUMNS, averaged=False)
    x = odd_rows(text, np.random.default_rng(0))
    x[~np.isfinite(x)] = 0.0
    assert not model.tabled
    assert same_bits(model, x)


@FORMS
def test_a_model_of_constants_is_a_table_too(form):
    text = lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(np.zeros((50, COLUMNS)), np.ones(50)), 2).model_to_string()
    assert same_bits(predictor(text, form), np.zeros((300, COLUMNS)))


@FORMS
def test_no_rows_have_no_scores(form):
    assert predictor(booster_text(2, "multiclass", 8), form).many(np.zeros((0, COLUMNS))).shape == (0, 4)


@pytest.mark.skipif(not compiled.BUILT, reason="no C compiler was found when Champion was installed")
def test_the_form_in_c_refuses_what_it_cannot_read():
    tables = predictor(booster_text(2, "multiclass", 8), "c")._tables
    plan, matrix, out = tables._compiled._plan, np.zeros((5, COLUMNS)), np.zeros((5, 4))
    compiled.score(plan, matrix, out)
    wrong = [
        (plan[:64], matrix, out), (plan[:-64], matrix, out), (b"", matrix, out), (plan.tobytes()[1:] + b"0", matrix, out),
        (plan, matrix[:, :2], out), (plan, matrix.astype(np.float32), out), (plan, matrix.ravel(), out), (plan, matrix.astype(object), out), (plan, b"12345678", out),
        (plan, matrix, out[:4]), (plan, matrix, np.zeros((5, 3))), (plan, matrix, np.zeros((4, 5)).T), (plan, matrix, bytes(160)), (plan, None, out), (plan, matrix),
    ]
    for arguments in wrong:
        with pytest.raises((ValueError, TypeError, BufferError)):
            compiled.score(*arguments)
