"""Rows of two times told apart: what no input shows alone is seen, and undrifted rows are not told apart."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models.multivariate import standard_error, tell_apart
from models.schema import Feature, Schema, Target

SCHEMA = Schema(Target("y", "binary", ("no", "yes"), "yes"), (Feature("a", "numeric"), Feature("b", "numeric"), Feature("town", "categorical", ("Oslo", "Rome"))))


def rows(rng, n, correlation):
    a = rng.normal(size=n)
    return np.column_stack([a, correlation * a + np.sqrt(1 - correlation**2) * rng.normal(size=n), rng.integers(0, 2, n)])


def test_a_correlation_that_is_gone_is_seen_although_each_input_stays_as_it_was():
    rng = np.random.default_rng(1)
    found = tell_apart(SCHEMA, rows(rng, 3000, 0.9), rows(rng, 3000, 0.0))
    assert found.status == "failing"
    assert found.low > 0.7
    assert min(found.importance["a"], found.importance["b"]) > 5 * found.importance["town"]
    assert list(found.importance.values()) == sorted(found.importance.values(), reverse=True)


def test_samples_of_one_kind_are_told_apart_in_few_of_the_cases():
    rng = np.random.default_rng(2)
    told = [tell_apart(SCHEMA, rows(rng, 600, 0.5), rows(rng, 200, 0.5), seed=k) for k in range(40)]
    assert {t.status for t in told} == {"passing"}
    assert sum(t.low > 0.5 for t in told) <= 5


def test_a_level_never_seen_and_missing_values_are_told():
    rng = np.random.default_rng(3)
    window = rows(rng, 500, 0.5)
    window[:250, 2], window[250:, 0] = 2.0, np.nan
    found = tell_apart(SCHEMA, rows(rng, 2000, 0.5), window)
    assert found.auc > 0.9


def test_too_few_rows_are_unknown():
    rng = np.random.default_rng(4)
    assert tell_apart(SCHEMA, rows(rng, 1000, 0), rows(rng, 99, 0)).status == "unknown"


def test_the_interval_is_as_wide_as_repeated_samples_say():
    rng = np.random.default_rng(5)
    drawn = [roc_auc_score([0] * 300 + [1] * 150, np.concatenate([rng.normal(0, 1, 300), rng.normal(0.7, 1, 150)])) for _ in range(400)]
    assert standard_error(float(np.mean(drawn)), 300, 150) == pytest.approx(np.std(drawn), rel=0.15)
