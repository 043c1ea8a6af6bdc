"""The repository of recipes: one family a file, each a `Blueprint` that fits a `Member`."""

from __future__ import annotations

from models.blueprints.base import Blueprint
from models.blueprints.boosting import HistogramBoosting, LightGBM
from models.blueprints.forest import ExtraTrees, RandomForest
from models.blueprints.linear import Constant, Linear
from models.blueprints.neural import NeuralNetwork

REPOSITORY: tuple[Blueprint, ...] = (
    Constant(),
    Linear(name="linear_strong", strength=0.01),
    Linear(name="linear", strength=1.0),
    LightGBM(name="lightgbm", leaves=15, rate=0.05, rounds=150, least=200),
    LightGBM(name="lightgbm_deep", leaves=31, rate=0.05, rounds=200, least=50),
    HistogramBoosting(),
    RandomForest(),
    ExtraTrees(),
    NeuralNetwork(),
)

QUICK = tuple(b for b in REPOSITORY if b.name in {"constant", "linear_strong", "lightgbm", "extra_trees"})

__all__ = ["QUICK", "REPOSITORY", "Blueprint"]
