"""Random forests and extremely randomised trees, on smoothed level means, rounded to float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.blueprints.base import positive
from models.encoders import medians, target_encoded
from models.members import Member, TreesMember, tree_inputs
from models.schema import Schema
from models.trees import forest_text
from models.types import Floats

LINKS = {"binary": "positive", "multiclass": "shares", "regression": "identity"}


@dataclass(frozen=True)
class RandomForest:
    """Breiman's forest with leaves large enough to give probabilities."""

    name: str = "random_forest"
    family: str = "random forest"
    most_rows: int = 60_000
    trees: int = 60
    share: float | str = "sqrt"
    estimator: str = "RandomForest"

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
        """Train and write the trees as text."""
        import sklearn.ensemble

        tables, encoded = target_encoded(schema, base, positive(schema, y), seed, weights)
        fill = medians(encoded)
        inputs = tree_inputs(encoded, [None] * len(tables), fill, single=True)
        regression = schema.target.task == "regression"
        kind = getattr(sklearn.ensemble, self.estimator + ("Regressor" if regression else "Classifier"))
        model = kind(
            n_estimators=self.trees,
            min_samples_leaf=max(2, min(100, len(y) // 200)),
            max_features=self.share,
            n_jobs=2,
            random_state=seed,
        ).fit(inputs, y, sample_weight=weights)
        return TreesMember(
            forest_text(model, inputs.shape[1]),
            LINKS[schema.target.task],
            tables,
            averaged=True,
            single=True,
            fill=fill,
        )


@dataclass(frozen=True)
class ExtraTrees(RandomForest):
    """Geurts, Ernst and Wehenkel's extremely randomised trees."""

    name: str = "extra_trees"
    family: str = "extremely randomised trees"
    most_rows: int = 200_000
    share: float | str = 0.5
    estimator: str = "ExtraTrees"
