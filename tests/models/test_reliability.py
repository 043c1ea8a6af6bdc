"""Reliability groups against scikit-learn's calibration curve, SciPy's intervals and the expected calibration error."""

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from models.metrics import METRICS
from models.reliability import reliability


def drawn(classes, n=3000):
    rng = np.random.default_rng(7)
    p = rng.dirichlet(np.linspace(1, 2, classes), n)
    y = np.array([rng.choice(classes, p=row) for row in p])
    y[:40] = -1  # a class that was never trained
    return y, p


def test_two_classes_have_the_groups_of_scikit_learn_with_wilsons_intervals():
    y, p = drawn(2)
    found = reliability("binary", y, p)
    actual, predicted = calibration_curve(y == 1, p[:, 1], n_bins=10)
    assert [g["actual"] for g in found] == pytest.approx(actual)
    assert [g["predicted"] for g in found] == pytest.approx(predicted)
    for g in found:
        assert g["interval"] == pytest.approx(stats.binomtest(round(g["actual"] * g["rows"]), g["rows"]).proportion_ci(method="wilson"))


@pytest.mark.parametrize("classes", [2, 4])
def test_the_groups_gaps_are_the_calibration_error(classes):
    y, p = drawn(classes)
    found = reliability("binary" if classes == 2 else "multiclass", y, p)
    assert sum(g["rows"] for g in found) == len(y)
    assert sum(g["rows"] * abs(g["predicted"] - g["actual"]) for g in found) / len(y) == pytest.approx(METRICS["ece"].function(y, p))


def test_several_classes_are_judged_by_the_one_that_was_chosen():
    y, p = drawn(4)
    sure = p.max(axis=1)
    inside = (sure >= 0.5) & (sure < 0.6)
    group = next(g for g in reliability("multiclass", y, p) if 0.5 <= g["predicted"] < 0.6)
    assert (group["rows"], group["actual"]) == (inside.sum(), pytest.approx((p.argmax(axis=1) == y)[inside].mean()))


def test_values_have_groups_of_as_many_rows_with_the_intervals_of_their_means():
    rng = np.random.default_rng(8)
    p = rng.gamma(2.0, size=1000)
    y = p + rng.normal(0, 0.3, 1000)
    order, found = np.argsort(p), reliability("regression", y, p)
    assert [g["rows"] for g in found] == [100] * 10
    for k, g in enumerate(found):
        values = y[order[100 * k : 100 * (k + 1)]]
        assert (g["predicted"], g["actual"]) == (pytest.approx(p[order[100 * k : 100 * (k + 1)]].mean()), pytest.approx(values.mean()))
        assert g["interval"] == pytest.approx(stats.norm.interval(0.95, values.mean(), stats.sem(values)))


def test_equal_predictions_stay_together_and_one_value_alone_has_no_interval():
    found = reliability("regression", np.array([1.0, 2.0, 3.0, 9.0]), np.array([5.0, 5.0, 5.0, 6.0]))
    assert [(g["rows"], g["predicted"], g["actual"]) for g in found] == [(3, 5.0, 2.0), (1, 6.0, 9.0)]
    assert found[1]["interval"] is None
    assert reliability("regression", np.zeros(0), np.zeros(0)) == []
