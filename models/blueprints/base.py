"""What every blueprint is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from models.errors import TrainingError
from models.members import Member, SubsetMember
from models.schema import Schema
from models.types import Floats, TaskType


class Blueprint(Protocol):
    """A recipe: preprocessing and estimator with parameters; fitted, it is a member of a model."""

    @property
    def name(self) -> str:
        """Unique in the repository."""
        ...

    @property
    def family(self) -> str:
        """What kind of estimator it is, in words."""
        ...

    @property
    def most_rows(self) -> int:
        """Above this many rows it learns from a seeded sample (time-ordered data: the newest)."""
        ...

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
        """Train on a base matrix and class indices or values, a row counting as much as its weight."""
        ...


def positive(schema: Schema, y: Any) -> Floats:
    """What target encoding averages: 1 for the positive class (of several, the class index), or the value."""
    return np.asarray(y == 1 if schema.target.task == "binary" else y, dtype=np.float64)


def fitted(blueprint: Blueprint, schema: Schema, base: Floats, y: Any, seed: int, weights: Floats | None = None) -> Member:
    """Train a blueprint, on the classes that the rows have: those that they lack get probability 0.

    TrainingError where there are fewer than two.
    """
    target = schema.target
    if target.task == "regression":
        return blueprint.fit(schema, base, y, seed, weights)
    present, codes = np.unique(y, return_inverse=True)
    if len(present) == len(target.classes):
        return blueprint.fit(schema, base, y, seed, weights)
    if len(present) < 2:  # noqa: PLR2004
        raise TrainingError("one_class", "the rows are all of one class")
    names = tuple(target.classes[k] for k in present)
    task: TaskType = "binary" if len(present) == 2 else "multiclass"  # noqa: PLR2004
    part = replace(schema, target=replace(target, task=task, classes=names, positive=names[1] if task == "binary" else ""))
    return SubsetMember(blueprint.fit(part, base, codes.astype(np.int64), seed, weights), present.tolist(), len(target.classes))
