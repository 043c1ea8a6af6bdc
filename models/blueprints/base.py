"""What every blueprint is."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from models.members import Member
from models.schema import Schema
from models.types import Floats, Ints


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

    def fit(self, schema: Schema, base: Floats, y: Any, seed: int) -> Member:
        """Train on a base matrix and class indices or values."""
        ...


def positive(schema: Schema, y: Any) -> Floats:
    """What target encoding averages: 1 for the positive class (of several, the class index), or the value."""
    return np.asarray(y == 1 if schema.target.task == "binary" else y, dtype=np.float64)


def complete(y: Ints, classes: int) -> bool:
    """Whether every class is present."""
    return len(np.unique(y)) == classes
