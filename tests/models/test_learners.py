"""Online models: the same rows in the same order give the same bits; nonsense is refused."""

import numpy as np
import pytest

from models.errors import DataError
from models.online import LEARNERS, Learner, read_learner
from models.schema import Feature, Schema, Target

FEATURES = (Feature("x", "numeric"), Feature("t", "categorical", ("a", "b")))
TARGETS = {
    "binary": Target("y", "binary", ("no", "yes"), "yes"),
    "multiclass": Target("y", "multiclass", ("a", "b", "c")),
    "regression": Target("y", "regression", mean=1.5),
}
RNG = np.random.default_rng(0)
BASE = np.column_stack([RNG.normal(size=600), RNG.integers(0, 3, 600).astype(float)])
BASE[::50, 0] = np.nan
LABELS = {
    "binary": ["yes" if v > 0 else "no" for v in np.nan_to_num(BASE[:, 0])],
    "multiclass": [["a", "b", "c"][int(v)] for v in BASE[:, 1]],
    "regression": (2 * np.nan_to_num(BASE[:, 0])).tolist(),
}
CASES = [(k, t) for k in LEARNERS for t in TARGETS if (k, t) != ("naive_bayes", "regression")]


@pytest.mark.parametrize(("kind", "task"), CASES)
def test_a_learner_learns_and_is_the_same_bits_however_its_rows_are_cut(kind, task):
    schema = Schema(TARGETS[task], FEATURES)
    one, other = (Learner(kind, read_learner(kind, {}, schema.target), schema) for _ in range(2))
    before = one.predict(BASE[:3])
    assert np.allclose(before, 1.5 if task == "regression" else 1 / len(schema.target.classes))
    one.learn(BASE, LABELS[task])
    for at in range(0, 600, 77):
        other.learn(BASE[at : at + 77], LABELS[task][at : at + 77])
    assert one.learnt == other.learnt == 600
    assert np.array_equal(one.predict(BASE), other.predict(BASE))
    if task == "binary":
        assert np.mean((one.predict(BASE)[:, 1] > 0.5) == (np.array(LABELS[task]) == "yes")) > 0.9
    if task == "regression":
        assert np.mean(np.abs(one.predict(BASE)[:, 0] - np.array(LABELS[task]))) < 1.0


def test_labels_that_are_none_of_the_classes_are_passed_over_and_counted():
    schema = Schema(TARGETS["binary"], FEATURES)
    learner = Learner("linear", read_learner("linear", {}, schema.target), schema)
    learner.learn(BASE[:3], ["maybe", None, "yes"])
    assert learner.learnt == 3
    values = Learner("linear", read_learner("linear", {}, TARGETS["regression"]), Schema(TARGETS["regression"], FEATURES))
    values.learn(BASE[:3], [None, float("nan"), 1.0])
    assert np.isfinite(values.predict(BASE[:3])).all()


@pytest.mark.parametrize(("kind", "parameters"), [("svm", {}), ("linear", {"loss": "x"}), ("linear", {"learning_rate": 9}), ("linear", []), ("adaptive_random_forest", {"trees": 1000}), ("hoeffding_tree", {"seed": True})])
def test_a_learner_that_is_not_on_the_list_is_refused(kind, parameters):
    with pytest.raises(DataError) as found:
        read_learner(kind, parameters, TARGETS["binary"])
    assert found.value.code == "wrong_learner"
    with pytest.raises(DataError):
        read_learner("naive_bayes", {}, TARGETS["regression"])
