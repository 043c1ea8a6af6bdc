"""The interval of a metric over five blocks of time is Student's."""

import math

import numpy as np
import pytest
from scipy import stats

from models.comparing import interval_of
from stream.monitoring import metric_status


def test_it_is_scipys():
    blocks = [0.71, 0.68, 0.74, 0.70, 0.66]
    assert interval_of(blocks) == pytest.approx(stats.t.interval(0.95, 4, np.mean(blocks), stats.sem(blocks)))


@pytest.mark.parametrize("blocks", [None, [], [0.7, math.nan, 0.7, 0.7, 0.7]])
def test_without_five_defined_blocks_there_is_none_and_the_status_is_unknown(blocks):
    assert interval_of(blocks) is None
    assert metric_status("accuracy", 0.5, 0.9, blocks, 1000) == "unknown"


def test_worse_by_a_tenth_fails_only_where_the_interval_excludes_the_baseline():
    steady, wild = [0.80, 0.81, 0.79, 0.80, 0.80], [0.5, 1.0, 0.6, 0.99, 0.91]
    assert metric_status("accuracy", 0.8, 0.9, steady, 1000) == "failing"
    assert metric_status("accuracy", 0.8, 0.9, wild, 1000) == "passing"
    assert metric_status("log_loss", 0.8, 0.9, steady, 1000) == "passing", "lower is better"
