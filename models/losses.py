"""The accuracy of a regression before the actuals: direct loss estimation (NannyML's DLE).

Two small models learn the loss, |y - f(x)| and its square, from rows that no fit of f has seen, their inputs and f(x).
What they expect of new rows, averaged, is the expected error. It sees where the model is weak, so a shift of the inputs;
it assumes that P(y | x) has not changed: it sees no concept drift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.blueprints.boosting import LightGBM
from models.members import Member, load_member
from models.schema import Feature, Schema, Target
from models.types import Floats

RECIPE = LightGBM("losses", leaves=15, rate=0.05, rounds=100, least=50, most_rows=100_000)
LEAST = 200
NAMES = ("absolute", "squared")
TARGET = Target("loss", "regression")


@dataclass(frozen=True)
class Losses:
    """What a model's error is expected to be, row by row."""

    absolute: Member
    squared: Member

    def expected(self, base: Floats, said: Floats) -> Floats:
        """Expected absolute and squared losses (n, 2) of base rows (n, F) and what the model said of them (n,)."""
        inputs = np.column_stack([base, said])
        return np.maximum(np.column_stack([self.absolute.predict(inputs)[:, 0], self.squared.predict(inputs)[:, 0]]), 0.0)

    def files(self) -> dict[str, bytes]:
        """What `load_losses` reads."""
        return {f"losses/{name}/{path}": data for name, member in zip(NAMES, (self.absolute, self.squared), strict=True) for path, data in member.files().items()}


def learn_losses(schema: Schema, base: Floats, y: Any, said: Floats, seed: int) -> Losses | None:
    """Learn from held-out rows (the newest last); None where they are too few."""
    good = np.isfinite(y) & np.isfinite(said)
    if good.sum() < LEAST:
        return None
    rows = np.nonzero(good)[0][-RECIPE.most_rows :]
    own = replace(schema, target=TARGET, features=(*schema.features, Feature("(prediction)", "numeric")))
    inputs, errors = np.column_stack([base[rows], said[rows]]), np.abs(np.asarray(y, dtype=np.float64)[rows] - said[rows])
    return Losses(*(RECIPE.fit(own, inputs, loss, seed) for loss in (errors, errors**2)))


def load_losses(files: dict[str, bytes]) -> Losses | None:
    """Read what `files` wrote; None where a package has none."""
    found = [{path.removeprefix(f"losses/{name}/"): data for path, data in files.items() if path.startswith(f"losses/{name}/")} for name in NAMES]
    return Losses(*map(load_member, found)) if all(found) else None


def errors_of_losses(losses: Floats) -> dict[str, float]:
    """Expected metrics of rows with expected losses (n, 2)."""
    return {"mae": float(losses[:, 0].mean()), "rmse": float(np.sqrt(losses[:, 1].mean()))} if len(losses) else {}
