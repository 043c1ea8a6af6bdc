"""Gradient boosting: LightGBM, and scikit-learn's histogram boosting written as LightGBM text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.blueprints.base import positive
from models.encoders import arrays_of, code_tables, target_encoded
from models.members import Member, TreesMember, tree_inputs
from models.schema import Schema
from models.trees import histogram_boosting_text
from models.types import Floats

LINKS = {"binary": "sigmoid", "multiclass": "softmax", "regression": "identity"}
THREADS = 2


@dataclass(frozen=True)
class LightGBM:
    """LightGBM on level codes as native categoricals, with strong leaves."""

    name: str
    leaves: int
    rate: float
    rounds: int
    least: int
    family: str = "gradient boosting (LightGBM)"
    most_rows: int = 400_000
    most_levels: int = 250

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
        """Train and keep LightGBM's own text."""
        import lightgbm

        tables = code_tables(schema, base, most=self.most_levels)
        inputs = tree_inputs(base, arrays_of(tables), None, single=False)
        objective = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}[schema.target.task]
        least = max(5, min(self.least, len(y) // 50))
        parameters: dict[str, Any] = {
            "objective": objective,
            "num_leaves": self.leaves,
            "learning_rate": self.rate,
            "min_data_in_leaf": least,
            "min_data_per_group": least,
            "cat_smooth": 100.0,
            "cat_l2": 50.0,
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": THREADS,
            "verbose": -1,
        }
        if objective == "multiclass":
            parameters["num_class"] = len(schema.target.classes)
        categories = [j for j, table in enumerate(tables) if table is not None]
        data = lightgbm.Dataset(inputs, label=y, weight=weights, categorical_feature=categories, params=parameters)
        text = lightgbm.train(parameters, data, num_boost_round=self.rounds).model_to_string()
        return TreesMember(text, LINKS[schema.target.task], tables)


@dataclass(frozen=True)
class HistogramBoosting:
    """scikit-learn's HistGradientBoosting on smoothed level means."""

    name: str = "histogram_boosting"
    family: str = "histogram gradient boosting (scikit-learn)"
    most_rows: int = 200_000
    rounds: int = 100

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
        """Train and write the trees as text."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        tables, inputs = target_encoded(schema, base, positive(schema, y), seed, weights)
        regression = schema.target.task == "regression"
        kind = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
        model = kind(
            max_iter=self.rounds,
            learning_rate=0.05,
            max_leaf_nodes=15,
            min_samples_leaf=max(5, min(200, len(y) // 50)),
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        ).fit(inputs, y, sample_weight=weights)
        return TreesMember(histogram_boosting_text(model, inputs.shape[1]), LINKS[schema.target.task], tables)
