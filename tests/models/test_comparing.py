"""When a challenger is better: the blocks' p-value, Holm's adjustment and McNemar's test against SciPy and the closed test."""

import itertools

import numpy as np
import pytest
from scipy import stats

from models.comparing import block_p, bootstrap, holm, interval_of, mcnemar
from stream.comparison import judged


def test_the_blocks_p_value_is_students_and_agrees_with_their_interval():
    rng = np.random.default_rng(1)
    for _ in range(200):
        blocks = rng.normal(rng.normal(0, 0.5), 1, 5).tolist()
        low, high = interval_of(blocks)
        assert block_p(blocks) == pytest.approx(stats.ttest_1samp(blocks, 0).pvalue)
        assert (block_p(blocks) < 0.05) == (low > 0 or high < 0)
    assert (block_p([0.0] * 5), block_p([0.25] * 5)) == (1.0, 0.0)


def test_holms_adjustment_is_the_closed_test_with_bonferroni():
    rng = np.random.default_rng(2)
    for size in (1, 2, 3, 5):
        p = rng.random(size) ** 3
        closed = [max(min(1.0, len(s) * min(p[j] for j in s)) for n in range(1, size + 1) for s in itertools.combinations(range(size), n) if k in s) for k in range(size)]
        assert holm(p.tolist()) == pytest.approx(closed)


def test_mcnemars_test_is_the_exact_one_of_the_rows_that_only_one_had_right():
    rng = np.random.default_rng(3)
    first, second = rng.random(4000) < 0.8, rng.random(4000) < 0.81
    found = mcnemar(first, second)
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    assert (found["only_champion_right"], found["only_challenger_right"]) == (b, c)
    assert found["p_value"] == pytest.approx(stats.binomtest(b, b + c).pvalue)
    assert mcnemar(first, first)["p_value"] == 1.0


def compared(*blocks):
    return judged([{"metrics": {"log_loss": {"interval": interval_of(b), "p_value": block_p(b)}, "accuracy": {"champion": 0.5}}} for b in blocks])


def test_what_is_better_alone_need_not_be_among_several_and_less_is_better_where_it_is():
    slight = [-0.010, -0.012, -0.001, -0.014, -0.004]
    (alone,) = compared(slight)
    assert alone["metrics"]["log_loss"]["better"] is True
    assert alone["metrics"]["log_loss"]["p_adjusted"] == alone["metrics"]["log_loss"]["p_value"] < 0.05
    assert "better" not in alone["metrics"]["accuracy"], "a metric that a block does not define is not judged"
    assert [one["metrics"]["log_loss"]["better"] for one in compared(slight, [0.01, -0.01, 0.02, 0.0, -0.01], [0.0, 0.01, -0.02, 0.01, 0.0])] == [False] * 3
    assert [one["metrics"]["log_loss"]["better"] for one in compared([-0.10, -0.11, -0.10, -0.09, -0.10], slight)] == [True, True]
    assert compared([-v for v in slight])[0]["metrics"]["log_loss"]["better"] is False


@pytest.mark.parametrize("size", [300, 40_000])
def test_the_bootstraps_interval_is_scipys_also_where_a_draw_takes_a_part_of_the_rows(size):
    differences = np.random.default_rng(4).exponential(1.0, size) - 0.9
    low, high = bootstrap(lambda rows: float(differences[rows].mean()), size)
    theirs = stats.bootstrap((differences,), np.mean, n_resamples=2000, batch=200, method="percentile", random_state=np.random.default_rng(5)).confidence_interval
    width = theirs.high - theirs.low
    assert (low, high) == (pytest.approx(theirs.low, abs=0.12 * width), pytest.approx(theirs.high, abs=0.12 * width))
    assert bootstrap(lambda rows: float(differences[rows].mean()), size) == [low, high], "its draws are seeded"


def test_a_number_that_a_draw_does_not_define_has_no_interval():
    assert bootstrap(lambda rows: float("nan") if len(set(rows.tolist())) < 5 else 1.0, 5) is None


def test_money_is_adjusted_for_several_challengers_too():
    payoff = lambda *means: {"metrics": {}, "payoff": {"interval": interval_of(list(means)), "p_value": block_p(list(means))}}  # noqa: E731
    slight, none = (0.010, 0.012, 0.001, 0.014, 0.004), (0.01, -0.01, 0.02, 0.0, -0.01)
    assert judged([payoff(*slight)])[0]["payoff"]["better"] is True
    assert [one["payoff"]["better"] for one in judged([payoff(*slight), payoff(*none), payoff(*none)])] == [False] * 3
