"""Data quality: what is expected of a window, and what is too much."""

import numpy as np
import pytest

from models.baseline import freeze
from models.quality import chance_of, found_problems, quality_of
from models.schema import Feature, Schema, Target

SCHEMA = Schema(Target("y", "binary", ("0", "1"), "1"), (Feature("x", "numeric"), Feature("c", "categorical", ("a", "b"))))


def frozen(rows=4000, missing=0.05, seed=0):
    rng = np.random.default_rng(seed)
    base = np.column_stack([rng.normal(size=rows), rng.integers(0, 2, rows).astype(float)])
    base[rng.random(rows) < missing, 0] = np.nan
    return freeze(SCHEMA, base, np.full(rows, 0.5)), rng


def window(rng, rows=1000, missing=0.05):
    base = np.column_stack([rng.normal(size=rows), rng.integers(0, 2, rows).astype(float)])
    base[rng.random(rows) < missing, 0] = np.nan
    return base


def judged(baseline, base):
    counts = baseline.counts(base, np.full(len(base), 0.5), np.zeros(len(base), dtype=np.int64), 1)[0]
    return {bins.name: quality_of(bins, c, 2) for bins, c in baseline.split(counts)[:-1]}


@pytest.mark.parametrize(("reference", "of", "production", "rows"), [(5, 100, 9, 80), (0, 1000, 2, 500), (300, 1000, 70, 200)])
def test_the_chance_is_that_of_drawing_a_rate_and_then_the_rows(reference, of, production, rows):
    rng = np.random.default_rng(1)
    draws = rng.binomial(rows, rng.beta(reference + 0.5, of - reference + 0.5, size=400_000))
    assert chance_of(reference, of, production, rows) == pytest.approx((draws >= production).mean(), abs=0.003)


def test_windows_like_the_reference_hardly_ever_alarm_and_more_missing_values_do():
    baseline, rng = frozen()
    alarms = [judged(baseline, window(rng))["x"]["status"] != "passing" for _ in range(300)]
    assert sum(alarms) <= 15
    assert judged(baseline, window(rng, missing=0.09))["x"]["status"] == "warning"
    found = judged(baseline, window(rng, missing=0.30))["x"]
    assert found["status"] == "failing"
    assert found["problems"]["missing"]["reference"] == pytest.approx(0.05, abs=0.02)
    assert found["problems"]["missing"]["production"] == pytest.approx(0.30, abs=0.06)


def test_values_out_of_range_and_unseen_levels_are_told_apart():
    baseline, rng = frozen()
    base = window(rng, rows=400)
    base[:60, 0], base[60:100, 0], base[:200, 1] = 99.0, -99.0, 2.0
    found = judged(baseline, base)
    assert found["x"]["problems"]["out_of_range"]["rows"] == 100
    assert found["c"]["problems"]["unseen"]["rows"] == 200
    assert [f["status"] for f in found.values()] == ["failing", "failing"]


def test_a_handful_of_rows_says_nothing_and_counts_are_those_of_the_bins():
    baseline, rng = frozen()
    assert judged(baseline, np.full((99, 2), np.nan))["x"]["status"] == "unknown"
    bins = baseline.features[0]
    counts = np.arange(bins.size)
    assert found_problems(bins, counts)["out_of_range"] == (0, counts[-2])


def test_large_windows_are_judged_as_the_exact_sum_judges_them():
    from scipy.stats import betabinom

    rng = np.random.default_rng(5)
    for _ in range(40):
        of, rows = int(rng.integers(200, 5000)), int(rng.integers(50_001, 90_000))
        reference = int(rng.integers(0, of // 4))
        production = int(rows * min(reference / of + rng.uniform(0.0, 0.03), 1.0))
        exact = betabinom.sf(production - 1, rows, reference + 0.5, of - reference + 0.5)
        assert chance_of(reference, of, production, rows) == pytest.approx(exact, rel=0.05, abs=1e-4)
