"""Counts are exact, distances are what others compute, thresholds know the sample size."""

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import chi2_contingency

from models.baseline import baseline_from_json, categorical_bins, freeze, numeric_bins
from models.drift import chi_squared, hellinger, jensen_shannon, kl_divergence, most_null, null_quantile, psi, quadrant_of, status_of, weighed
from models.schema import Feature, Schema, Target


def test_counts_are_what_a_loop_counts():
    rng = np.random.default_rng(0)
    bins = numeric_bins("x", rng.normal(size=5000))
    values = np.append(rng.normal(size=500) * 3, [np.nan, 99.0, -99.0])
    edges = np.array(bins.edges)
    expected = np.zeros(bins.size, dtype=int)
    for v in values:
        if np.isnan(v):
            place = bins.size - 1
        elif v < bins.low:
            place = 0
        elif v > bins.high:
            place = bins.size - 2
        else:
            place = 1 + int(np.sum(edges <= v))
        expected[place] += 1
    assert np.bincount(bins.place(values), minlength=bins.size).tolist() == expected.tolist()
    assert bins.merged(expected).sum() == len(values)


def test_rare_levels_are_other_and_new_ones_unseen():
    feature = Feature("c", "categorical", ("a", "b", "rare"))
    reference = np.array([0.0] * 600 + [1.0] * 398 + [2.0] * 2)
    bins = categorical_bins(feature, reference)
    assert bins.labels == ("a", "b", "other", "unseen", "missing")
    assert bins.reference == (600, 398, 2, 0, 0)
    assert bins.place(np.array([2.0, 3.0, np.nan])).tolist() == [2, 3, 4]


def test_distances_equal_scipys_on_the_same_masses():
    a, b = np.array([10, 40, 50, 7]), np.array([30, 30, 20, 1])
    p, q = (a + 0.5) / (a.sum() + 2), (b + 0.5) / (b.sum() + 2)
    assert jensen_shannon(a, b) == pytest.approx(distance.jensenshannon(p, q, 2))
    assert hellinger(a, b) == pytest.approx(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2))
    assert kl_divergence(a, b) == pytest.approx(np.sum(q * np.log(q / p)))
    assert psi(a, b) == pytest.approx(np.sum((q - p) * np.log(q / p)))
    for c, d in ((a, b), (np.array([5, 0, 9]), np.array([1, 0, 4])), (np.array([3, 0]), np.array([8, 0]))):
        there = (c + d) > 0
        expected = chi2_contingency([c[there], d[there]], correction=False)
        assert chi_squared(c, d) == pytest.approx({"statistic": expected.statistic, "p": expected.pvalue})


def test_a_baseline_counts_groups_apart_and_survives_json():
    rng = np.random.default_rng(0)
    schema = Schema(Target("y", "binary", ("0", "1"), "1"), (Feature("x", "numeric"), Feature("c", "categorical", ("a", "b"))))
    matrix = np.column_stack([rng.normal(size=900), rng.integers(0, 3, 900).astype(float)])
    scores = rng.random(900)
    baseline = freeze(schema, matrix, scores)
    assert baseline_from_json(baseline.to_json()) == baseline
    groups = rng.integers(0, 4, 900)
    counts = baseline.counts(matrix, scores, groups, 4)
    for g in range(4):
        alone = baseline.counts(matrix[groups == g], scores[groups == g], np.zeros((groups == g).sum(), dtype=int), 1)
        assert np.array_equal(counts[g], alone[0])
    assert counts.sum() == 900 * 3


@pytest.mark.parametrize("n", [1, 63, 64, 500, 5000])
def test_the_bins_of_many_variables_at_once_are_those_of_each_alone(n):
    rng = np.random.default_rng(n)
    features = (Feature("x", "numeric"), Feature("few", "numeric"), Feature("c", "categorical", ("a", "b")), Feature("flag", "boolean"), Feature("one", "numeric"))
    columns = lambda m: [rng.normal(size=m), rng.integers(0, 20, m), rng.integers(0, 3, m), rng.integers(0, 2, m), np.full(m, 7.0)]  # noqa: E731
    for chosen in (features, tuple(f for f in features if f.kind != "categorical"), features[2:3]):
        keep = [features.index(f) for f in chosen]
        schema = Schema(Target("y", "binary", ("0", "1"), "1"), chosen)
        baseline = freeze(schema, np.column_stack(columns(900))[:, keep].astype(float), rng.random(900))
        matrix = np.column_stack(columns(n)).astype(float)
        matrix[:, 0] *= 2  # below and above
        matrix[rng.random(matrix.shape) < 0.1] = np.nan
        first = next(b for b in (*baseline.features, baseline.prediction) if b.kind != "categorical")
        matrix[: len(first.edges), 0] = first.edges[:n]  # on the very bounds
        scores = rng.random(n) * 1.2 - 0.1
        found, offset = baseline.places(matrix[:, keep], scores), 0
        for row, bins, values in zip(found, (*baseline.features, baseline.prediction), [*matrix[:, keep].T, scores], strict=True):
            assert np.array_equal(row - offset, bins.place(values)), bins.name
            offset += bins.size


@pytest.mark.parametrize("n", [100, 1000])
def test_an_undrifted_stream_of_fifteen_inputs_hardly_ever_alarms(n):
    rng = np.random.default_rng(n)
    windows, features, alarms = 120, 15, 0
    reference = [numeric_bins(f"f{k}", rng.normal(size=2000)) for k in range(features)]
    for _ in range(windows):
        statuses = []
        for bins in reference:
            counts = np.bincount(bins.place(rng.normal(size=n)), minlength=bins.size)
            a, b = bins.merged(bins.reference), bins.merged(counts)
            statuses.append(status_of(psi(a, b), a, b, features))
        alarms += any(s in {"warning", "failing"} for s in statuses)
    assert alarms / windows <= 0.065


def test_what_undrifted_samples_reach_stays_under_its_bound():
    rng = np.random.default_rng(3)
    for _ in range(300):
        bins = int(rng.integers(2, 60))
        hostile = [rng.dirichlet([rng.choice([0.01, 0.05, 0.3, 5])] * bins), 10.0 ** -rng.uniform(0, 5, bins)][rng.integers(2)]
        m, n = int(10 ** rng.uniform(1, 6)), int(10 ** rng.uniform(2, 7))
        reference, production = (rng.multinomial(size, hostile / hostile.sum()) for size in (m, n))
        features = int(rng.choice([1, 3, 15, 300]))
        assert null_quantile(reference, production, features) <= most_null(bins, m, n, features)


def test_a_real_shift_alarms_and_a_handful_of_rows_says_nothing():
    rng = np.random.default_rng(5)
    bins = numeric_bins("x", rng.normal(size=5000))
    moved = np.bincount(bins.place(rng.normal(size=1000) + 1), minlength=bins.size)
    a, b = bins.merged(bins.reference), bins.merged(moved)
    assert status_of(psi(a, b), a, b, 10) == "failing"
    few = np.bincount(bins.place(rng.normal(size=50) + 1), minlength=bins.size)
    assert status_of(9.9, a, bins.merged(few), 10) == "unknown"


@pytest.mark.parametrize("seed", range(12))
def test_a_value_lies_where_the_definition_says(seed):
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=300), rng.integers(0, 5, 300).astype(float), np.where(rng.random(300) < 0.9, 0.0, rng.normal(size=300))][seed % 3]
    values = np.where(rng.random(300) < 0.1, np.nan, values)
    bins = numeric_bins("x", values)
    asked = np.concatenate([values, 3 * rng.normal(size=100), bins.edges, np.nextafter(bins.edges, -9), [bins.low, bins.high, np.nextafter(bins.low, -9), np.nextafter(bins.high, 9), np.nan]])

    def defined(v):
        if np.isnan(v):
            return "missing"
        if v < bins.low or v > bins.high:
            return "below" if v < bins.low else "above"
        return bins.labels[1 + sum(edge <= v for edge in bins.edges)]

    assert [bins.labels[k] for k in bins.place(asked)] == [defined(v) for v in asked]


def test_an_input_that_is_not_important_counts_a_step_less():
    cases = {("failing", 1.0): "failing", ("failing", 0.49): "warning", ("warning", 0.5): "warning", ("warning", 0.1): "passing", ("passing", 1.0): "passing", ("failing", None): "warning"}
    for (status, importance), expected in cases.items():
        assert weighed([(status, importance), ("passing", 1.0)]) == expected
    assert weighed([("unknown", 1.0), ("unknown", 0.1)]) == "unknown"
    assert [quadrant_of(*case) for case in (("warning", 0.6), ("passing", 0.6), ("failing", 0.2), ("passing", 0.2), ("unknown", 0.2), ("passing", None))] == ["important_drifted", "important_steady", "minor_drifted", "minor_steady", None, None]
