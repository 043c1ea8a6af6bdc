"""Regularised linear models on one-hot levels (and, binned, on quantile bins), and the constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.encoders import dense_pieces, design, split_tables
from models.members import DenseMember, Member
from models.schema import Schema
from models.types import Floats

LINKS = {"binary": "sigmoid", "multiclass": "softmax", "regression": "identity"}


@dataclass(frozen=True)
class Constant:
    """The base rate, or the mean: what every other model has to beat."""

    name: str = "constant"
    family: str = "constant"
    most_rows: int = 10_000_000

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
        """Remember the shares of the classes or the mean."""
        del base, seed
        if schema.target.task == "regression":
            bias = np.array([float(np.average(y, weights=weights))])
        else:
            share = np.bincount(y, weights=weights, minlength=len(schema.target.classes)) + 0.5
            share = share / share.sum()
            bias = np.array([np.log(share[1] / share[0])]) if len(share) == 2 else np.log(share)  # noqa: PLR2004
        return DenseMember(LINKS[schema.target.task], [], [], bias)


@dataclass(frozen=True)
class Linear:
    """Logistic or ridge regression; `strength` is the inverse of the L2 penalty."""

    name: str
    strength: float
    family: str = "linear model on one-hot levels and bins"
    most_rows: int = 400_000

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
        """Fit on the sparse design and cut the weights into tables."""
        from sklearn.linear_model import LogisticRegression, Ridge

        pieces = dense_pieces(schema, base)
        x = design(pieces, base)
        if schema.target.task == "regression":
            scale = float(np.std(y)) or 1.0
            ridge = Ridge(alpha=1.0 / self.strength, solver="lsqr", random_state=seed).fit(x, y / scale, sample_weight=weights)
            weights, bias = (ridge.coef_ * scale).reshape(-1, 1), np.array([float(ridge.intercept_) * scale])
        else:
            logistic = LogisticRegression(C=self.strength, max_iter=200).fit(x, y, sample_weight=weights)
            weights, bias = logistic.coef_.T, np.asarray(logistic.intercept_)
            weights, bias = all_classes(schema, logistic.classes_, weights, bias)
        return DenseMember(LINKS[schema.target.task], pieces, split_tables(pieces, weights), bias)


def all_classes(schema: Schema, present: Any, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """Columns for every class, also for one that the training rows lack."""
    size = len(schema.target.classes)
    if size == 2 or len(present) == size:  # noqa: PLR2004
        return weights, bias
    if len(present) == 2:  # noqa: PLR2004 - scikit-learn gives one column for two classes
        weights, bias = np.column_stack([0 * weights, weights]), np.append(0.0, bias)
    full, level = np.zeros((len(weights), size)), np.full(size, bias.min() - 10.0)
    full[:, present], level[present] = weights, bias
    return full, level
