"""How drift is looked at: against what, with which bins, from which PSI on. A look at the past with other bins is answered from the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from models import drift
from models.baseline import Baseline, numeric_bins
from models.errors import DataError
from models.multivariate import MOST_ROWS
from models.registry import Registry
from models.table import read_table
from models.types import Floats
from stream.errors import Malformed
from stream.projections.catalog import Catalog
from stream.recount import package_of

FEWEST, MOST = 2, 100
KEPT = 16
RECUT: dict[tuple[str, int], Baseline] = {}


@dataclass(frozen=True)
class Look:
    """The reference as it was asked for, the PSI from which an input is warning or failing, and other bins than the frozen ones."""

    reference: str = ""
    warning: float = drift.WARNING
    failing: float = drift.FAILING
    baseline: Baseline | None = None


FROZEN = Look()


def look_of(registry: Registry, catalog: Catalog, model_id: str, *, reference: str = "", bins: str = "", warning: str = "", failing: str = "") -> Look:
    """A look of a query's texts, empty ones as by default; Malformed where one cannot be, DataError where other bins have nothing to be cut from."""
    if bins and not (bins.isascii() and bins.isdigit() and FEWEST <= int(bins) <= MOST):
        raise Malformed(f"bins is a number from {FEWEST} to {MOST}, not {bins!r}")
    try:
        low, high = float(warning or drift.WARNING), float(failing or drift.FAILING)
    except ValueError as error:
        raise Malformed(f"warning and failing are PSI values, not {warning!r} and {failing!r}") from error
    if not (math.isfinite(high) and 0 < low <= high):
        raise Malformed(f"0 < warning <= failing, not {low:g} and {high:g}")
    return Look(reference, low, high, recut(registry, catalog, model_id, int(bins)) if bins else None)


def recut(registry: Registry, catalog: Catalog, model_id: str, bins: int) -> Baseline:
    """A model's baseline with so many quantile bins a numeric input, cut from its training rows; categories and prediction stay as they were frozen."""
    if (model_id, bins) not in RECUT:
        package = package_of(registry, model_id)
        matrix = trained_on(registry, catalog, model_id)
        features = tuple(b if b.kind == "categorical" else numeric_bins(b.name, matrix[:, j], bins) for j, b in enumerate(package.baseline.features))
        if len(RECUT) >= KEPT:
            RECUT.pop(next(iter(RECUT)))
        RECUT[(model_id, bins)] = replace(package.baseline, features=features)
    return RECUT[(model_id, bins)]


def trained_on(registry: Registry, catalog: Catalog, model_id: str) -> Floats:
    """A seeded sample of the rows of a model's project; DataError where no project of it is kept."""
    model = catalog.models.get(model_id)
    project = catalog.projects.get(model.project_id) if model else None
    if project is None or not project.file:
        raise DataError("no_reference", "the rows that this model was trained on are not here: give a reference window")
    table = read_table(registry.artifacts.read(project.file))
    chosen = np.sort(np.random.default_rng(20261123).permutation(len(table))[:MOST_ROWS])
    return package_of(registry, model_id).schema.encode_table(table.take(chosen))
