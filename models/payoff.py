"""What predictions are worth: a value, in money, for each pair of what came true and what was said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models.errors import DataError
from models.types import Floats

Payoff = dict[str, dict[str, float]]


def read_payoff(data: Any, classes: tuple[str, ...]) -> Payoff:
    """{actual: {predicted: value}}; a pair that is left out is worth nothing. DataError names what is wrong."""
    if not isinstance(data, dict) or not all(isinstance(row, dict) for row in data.values()):
        raise DataError("wrong_payoff", "payoff is an object {actual: {predicted: value}}")
    for label in [*data, *(label for row in data.values() for label in row)]:
        if label not in classes:
            raise DataError("wrong_payoff", f"{label!r} is no class; these are: {', '.join(classes)}")
    for row in data.values():
        for value in row.values():
            if type(value) not in {int, float} or not math.isfinite(value):
                raise DataError("wrong_payoff", f"a value is a finite number, not {value!r}")
    return {actual: {said: float(value) for said, value in row.items()} for actual, row in data.items()}


def values_of(payoff: Payoff, labels: tuple[str, ...], actual: Any, said: Any) -> Floats:
    """The worth of each row, by the indices of what came true and what was said among `labels`; NaN where an actual is none of them."""
    table = np.array([[payoff.get(a, {}).get(s, 0.0) for s in labels] for a in labels])
    return np.where(actual < 0, np.nan, table[actual, said])


def worth_of(values: Floats) -> dict[str, Any]:
    """What rows are worth together and each; rows whose actual is of no known class do not count."""
    known = values[np.isfinite(values)]
    return {"total": float(known.sum()), "per_row": float(known.mean()) if len(known) else None, "rows": len(known)}
