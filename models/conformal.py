"""Prediction intervals: split conformal, from held-out residuals (Vovk et al. 2005; Lei et al. 2018)."""

from __future__ import annotations

import math
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


def half_width(residuals: dict[str, Any], level: float) -> float | None:
    """Half of the interval that covers a new row with this probability; None where the rows are too few."""
    rows = int(residuals.get("rows", 0))
    if not rows or math.ceil((rows + 1) * level) > rows:
        return None
    share = math.ceil((rows + 1) * level) / rows
    values = residuals["values"]
    return float(values[min(math.ceil(share * STEPS), STEPS)])


def realised(parts: list[tuple[Floats, dict[str, Any]]]) -> dict[str, float]:
    """The share of rows that came inside their interval, by level; of each model the |errors| of its rows and its held-out residuals. A level for which none has enough of these is left out."""
    found = {}
    for level in LEVELS:
        known = [errors <= half for errors, residuals in parts if (half := half_width(residuals, level)) is not None and len(errors)]
        if known:
            found[str(level)] = float(np.concatenate(known).mean())
    return found
