"""Every metric equals scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics as sk

from models.metrics import METRICS, metrics_of, score_all
from models.ranking import area_under_roc, average_precision, kolmogorov_smirnov, ranking


def classification(classes, n=800, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    raw = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[y]
    p = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    return y, np.round(p, 2) / np.round(p, 2).sum(axis=1, keepdims=True)  # rounded: there are ties


BINARY = {
    "log_loss": lambda y, p: sk.log_loss(y, np.clip(p, 1e-15, 1)),
    "accuracy": lambda y, p: sk.accuracy_score(y, p.argmax(1)),
    "balanced_accuracy": lambda y, p: sk.balanced_accuracy_score(y, p.argmax(1)),
    "roc_auc": lambda y, p: sk.roc_auc_score(y, p[:, 1]),
    "pr_auc": lambda y, p: sk.average_precision_score(y, p[:, 1]),
    "f1": lambda y, p: sk.f1_score(y, p.argmax(1)),
    "precision": lambda y, p: sk.precision_score(y, p.argmax(1)),
    "recall": lambda y, p: sk.recall_score(y, p.argmax(1)),
    "mcc": lambda y, p: sk.matthews_corrcoef(y, p.argmax(1)),
    "brier": lambda y, p: sk.brier_score_loss(y, p[:, 1]),
    "gini_norm": lambda y, p: 2 * sk.roc_auc_score(y, p[:, 1]) - 1,
    "ks": lambda y, p: max(abs(a - b) for a, b in zip(*sk.roc_curve(y, p[:, 1])[:2], strict=True)),
}
MULTICLASS = {
    "accuracy": BINARY["accuracy"],
    "balanced_accuracy": BINARY["balanced_accuracy"],
    "roc_auc": lambda y, p: sk.roc_auc_score(y, p, multi_class="ovr", average="weighted"),
    "f1": lambda y, p: sk.f1_score(y, p.argmax(1), average="macro"),
    "precision": lambda y, p: sk.precision_score(y, p.argmax(1), average="macro"),
    "recall": lambda y, p: sk.recall_score(y, p.argmax(1), average="macro"),
    "mcc": BINARY["mcc"],
}
REGRESSION = {
    "rmse": sk.root_mean_squared_error,
    "mae": sk.mean_absolute_error,
    "mape": sk.mean_absolute_percentage_error,
    "r2": sk.r2_score,
    "rmsle": sk.root_mean_squared_log_error,
    "poisson_deviance": sk.mean_poisson_deviance,
    "gamma_deviance": sk.mean_gamma_deviance,
    "tweedie_deviance": lambda y, p: sk.mean_tweedie_deviance(y, p, power=1.5),
}


@pytest.mark.parametrize("name", BINARY)
def test_a_binary_metric_equals_scikit_learns(name):
    y, p = classification(2)
    assert METRICS[name].function(y, p) == pytest.approx(BINARY[name](y, p), rel=1e-9)


@pytest.mark.parametrize("name", MULTICLASS)
def test_a_multiclass_metric_equals_scikit_learns(name):
    y, p = classification(4)
    assert METRICS[name].function(y, p) == pytest.approx(MULTICLASS[name](y, p), rel=1e-9)


@pytest.mark.parametrize("name", REGRESSION)
def test_a_regression_metric_equals_scikit_learns(name):
    rng = np.random.default_rng(1)
    y = rng.gamma(2.0, size=500) + 0.1
    p = y * rng.uniform(0.5, 1.5, 500)
    assert METRICS[name].function(y, p) == pytest.approx(REGRESSION[name](y, p), rel=1e-9)


SCORES = {
    "of any sign": lambda rng: rng.normal(size=600).round(1),
    "of any size": lambda rng: 10.0 ** rng.integers(-300, 300, 600),
    "signed zeros and halves": lambda rng: rng.choice([0.0, -0.0, 0.5], 600),
    "whole numbers": lambda rng: rng.integers(0, 30, 600),
}


@pytest.mark.parametrize("kind", SCORES)
def test_scores_of_any_kind_are_ranked_as_scikit_learn_ranks_them(kind):
    rng = np.random.default_rng(2)
    score, positive = SCORES[kind](rng), rng.random(600) < 0.3
    found = ranking(positive, score)
    assert area_under_roc(found) == pytest.approx(sk.roc_auc_score(positive, score), rel=1e-12)
    assert average_precision(found) == pytest.approx(sk.average_precision_score(positive, score), rel=1e-12)
    assert kolmogorov_smirnov(found) == pytest.approx(max(abs(a - b) for a, b in zip(*sk.roc_curve(positive, score)[:2], strict=True)), rel=1e-12)


def test_a_class_that_was_never_trained_is_an_error_and_costs_the_greatest_loss():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    scores = score_all("binary", np.array([-1, 1]), p)
    assert scores["accuracy"] == 0.5
    assert scores["log_loss"] == pytest.approx((-np.log(1e-15) - np.log(0.8)) / 2)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_rows_give_no_numbers_and_no_crash(task):
    p = np.zeros((0, 3)) if task != "regression" else np.zeros(0)
    found = score_all(task, np.zeros(0, dtype=int), p)
    assert set(found) == set(metrics_of(task))
    assert not np.isfinite(found["accuracy" if task != "regression" else "mae"])
