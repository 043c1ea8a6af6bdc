"""What the analysis says of one column, and a column as scores and ranks see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.table import Table, plain_text
from models.types import Floats, Kind, Leakage


@dataclass(frozen=True)
class FeatureReport:
    """What the analysis found out about one column."""

    name: str
    kind: Kind
    missing: float
    unique: int
    importance: float = 0.0
    leakage: Leakage = "none"
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    summary: dict[str, Any] = field(default_factory=dict)
    associated: tuple[tuple[str, float], ...] = ()


def column_for_score(table: Table, report: FeatureReport) -> Any:
    """A column as numbers, or as text codes for categories."""
    if report.kind in {"numeric", "boolean"} or (report.kind == "id" and table.is_numeric(report.name)):
        return table.numbers(report.name)
    return table.texts(report.name)


def ranked(values: Any) -> Floats:
    """Numbers as average ranks; texts as level codes; missing is a value of its own."""
    if values.dtype == object:
        _, codes = np.unique(np.array([plain_text(v) or "" for v in values]), return_inverse=True)
        return codes.astype(np.float64)
    filled = np.where(np.isnan(values), np.nanmin(values) - 1 if np.isfinite(values).any() else 0.0, values)
    _, inverse, counts = np.unique(filled, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[inverse])
