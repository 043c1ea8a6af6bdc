"""Prediction intervals: split conformal, from held-out residuals (Vovk et al. 2005; Lei et al. 2018).

Where outcomes move away from the held-out ones, the share that a level leaves outside can follow them
(Gibbs and Candès 2021): after each cohort it shrinks by as much as too many rows came outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.types import Floats

STEPS = 200
LEVELS = (0.5, 0.8, 0.9, 0.95)


def residual_quantiles(y: Any, held: Floats) -> dict[str, Any]:
    """What an interval needs: how many held-out rows there were, and quantiles of their |residuals|."""
    found = np.abs(np.asarray(y, dtype=np.float64) - held.reshape(-1))
    found = np.sort(found[np.isfinite(found)])
    at = np.minimum(np.ceil(np.linspace(0, 1, STEPS + 1) * len(found)).astype(int), max(len(found) - 1, 0))
    return {"rows": len(found), "values": [float(v) for v in found[at]]} if len(found) else {"rows": 0, "values": []}


def half_width(residuals: dict[str, Any], level: float, outside: Mapping[str, float] | None = None) -> float | None:
    """Half of the interval that covers a new row with this probability; None where the rows are too few.

    With the shares that levels leave `outside` by now it is at most the widest that held-out rows know: where these cannot say more, neither is more said.
    """
    rows = int(residuals.get("rows", 0))
    if not rows or math.ceil((rows + 1) * level) > rows:
        return None
    if outside:
        level = min(max(in_force(outside, level), 0.0), 1.0)
    share = min(math.ceil((rows + 1) * level) / rows, 1.0)
    values = residuals["values"]
    return float(values[min(math.ceil(share * STEPS), STEPS)])


def frozen() -> dict[str, float]:
    """The share of rows that each level leaves outside, before any is adapted."""
    return {str(level): 1.0 - level for level in LEVELS}


def missed(errors: Floats, residuals: dict[str, Any], outside: Mapping[str, float]) -> dict[str, float]:
    """The share of rows, by their |errors| (n,), that came outside of each level's interval; a level without enough residuals is left out."""
    halves = {str(level): half_width(residuals, level, outside) for level in LEVELS}
    return {name: float((errors > half).mean()) for name, half in halves.items() if half is not None}


def adapted(outside: Mapping[str, float], came: Mapping[str, float], step: float) -> dict[str, float]:
    """The shares left outside after a cohort of which the shares `came` outside: Gibbs and Candès's update, a cohort at a time.

    >>> adapted({"0.5": 0.5}, {"0.5": 0.75}, 0.2)
    {'0.5': 0.45}
    """
    return {name: share + step * (1.0 - float(name) - came.get(name, 1.0 - float(name))) for name, share in outside.items()}


def in_force(outside: Mapping[str, float], level: float) -> float:
    """The coverage to ask the residuals for so that `level` is kept: between adapted levels in proportion.

    >>> in_force({"0.5": 0.5, "0.8": 0.1}, 0.8), in_force({}, 0.8)
    (0.9, 0.8)
    """
    known = sorted((float(name), 1.0 - share) for name, share in outside.items())
    return float(np.interp(level, [0.0, *(k for k, _ in known), 1.0], [0.0, *(v for _, v in known), 1.0]))


def realised(parts: list[tuple[Floats, dict[str, Any], Mapping[str, float]]]) -> dict[str, float]:
    """The share of rows that came inside their interval, by level; of each part the |errors| of its rows, its model's held-out residuals, and the shares left outside when it was answered (empty: as held out). A level for which none has enough of these is left out."""
    found = {}
    for level in LEVELS:
        known = [errors <= half for errors, residuals, outside in parts if (half := half_width(residuals, level, outside)) is not None and len(errors)]
        if known:
            found[str(level)] = float(np.concatenate(known).mean())
    return found
