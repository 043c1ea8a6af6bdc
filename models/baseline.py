"""The frozen reference that drift is measured against: bins of every input and of the prediction.

All bins of a deployment's inputs lie side by side in one integer array; the prediction's come last.
A numeric input has, in this order: below the reference, its bins, above it, missing. A categorical
one: its levels, other, unseen, missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from models.schema import Feature, Schema, Target
from models.types import Floats, Ints

FEW = 20
DECILES = 10
LEVEL_SHARE = 0.01
MOST_LEVELS = 30
PREDICTION = "prediction"
CACHED = 1 << 20  # comparisons at a time
UNITS = 40  # a prediction is added up in units of 2**-40 of the reference's scale
BEYOND = 2.0**50  # units past which a value is counted, not added


@dataclass(frozen=True)
class Bins:
    """One variable's frozen bins and how many reference rows fell into each."""

    name: str
    kind: str
    labels: tuple[str, ...]
    edges: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    table: tuple[int, ...] = ()
    reference: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many integers this variable takes."""
        return len(self.labels)

    def place(self, values: Floats) -> Ints:
        """The bin of each base value (see `models.schema`)."""
        if self.kind == "categorical":
            table = _table(self.table)
            return np.asarray(table[np.where(np.isnan(values), len(table) - 1, values).astype(np.int64)])
        return np.asarray(_bounds(self.edges, self.low, self.high).searchsorted(values, side="right"))

    def merged(self, counts: Any) -> Ints:
        """Counts as PSI wants them: numeric outer bins take what lies beyond the reference."""
        counts = np.asarray(counts, dtype=np.int64)
        if self.kind == "categorical":
            return np.asarray(counts)
        inner = counts[1:-2].copy()
        inner[0] += counts[0]
        inner[-1] += counts[-2]
        return np.asarray(np.append(inner, counts[-1]), dtype=np.int64)


@lru_cache(maxsize=8192)
def _bounds(edges: tuple[float, ...], low: float, high: float) -> Floats:
    """Where each bin begins, without the first: one search finds below, inner, above and missing, for NaN sorts last."""
    return np.array([low, *edges, np.nextafter(high, np.inf), np.nan])


@lru_cache(maxsize=8192)
def _table(table: tuple[int, ...]) -> Ints:
    """The bin of each level."""
    return np.array(table, dtype=np.int64)


@dataclass(frozen=True)
class Baseline:
    """Bins for every input in the schema's order, and for the prediction."""

    features: tuple[Bins, ...]
    prediction: Bins

    @property
    def size(self) -> int:
        """The length of the count array."""
        return sum(b.size for b in self.features) + self.prediction.size

    @cached_property
    def _variables(self) -> tuple[Bins, ...]:
        return (*self.features, self.prediction)

    @cached_property
    def _offsets(self) -> Ints:
        """Where each variable begins in the count array, (V, 1)."""
        return np.cumsum([0, *(b.size for b in self._variables[:-1])])[:, None]

    @cached_property
    def _numeric(self) -> tuple[Ints, Floats, Any]:
        """The places of the numeric variables, their bounds side by side (NaN where one has fewer: nothing reaches it), their last bins."""
        numeric = [j for j, b in enumerate(self._variables) if b.kind != "categorical"]
        found = [_bounds(b.edges, b.low, b.high)[:-1] for b in (self._variables[j] for j in numeric)]
        bounds = np.full((len(found), max(map(len, found), default=0)), np.nan)
        for row, own in zip(bounds, found, strict=True):
            row[: len(own)] = own
        return np.array(numeric, dtype=np.int64), bounds, np.array([[len(own) + 1] for own in found], dtype=np.int8)

    def places(self, matrix: Floats, scores: Floats) -> Ints:
        """The flat bin index of every value: (inputs + 1, n), a variable a row; the same as each variable's `place`.

        A number's bin is how many bounds it reaches: all numbers of some rows are compared with all bounds at once, so many rows at a time
        that what is compared stays in the processor's cache.
        """
        numeric, bounds, last = self._numeric
        columns = np.empty((len(self._variables), len(matrix)))  # a variable after the other in memory, which concatenate would not give
        columns[:-1], columns[-1] = matrix.T, scores
        out = np.empty(columns.shape, dtype=np.int64)
        values = columns if len(numeric) == len(columns) else columns[numeric]
        step = max(CACHED // max(bounds.size, 1), 64)
        for at in range(0, len(scores) if len(numeric) else 0, step):
            some = values[:, at : at + step]
            reached = (some[:, None, :] >= bounds[:, :, None]).view(np.int8).sum(axis=1, dtype=np.int8)
            np.copyto(reached, last, where=np.isnan(some))
            if values is columns:
                np.add(reached, self._offsets, out=out[:, at : at + step])
            else:
                out[numeric, at : at + step] = reached + self._offsets[numeric]
        for j, bins in enumerate(self._variables):
            if bins.kind == "categorical":
                np.add(bins.place(columns[j]), self._offsets[j], out=out[j])
        return out

    def counts(self, matrix: Floats, scores: Floats, groups: Ints, size: int) -> Ints:
        """Integer counts (size, bins): row r counts in groups[r]."""
        flat = self.places(matrix, scores)
        if size > 1:
            flat += groups * self.size
        return np.bincount(flat.ravel(), minlength=size * self.size).reshape(size, self.size)

    @cached_property
    def unit(self) -> float:
        """What predictions are added up in, a power of two: sums of whole units are the same in any order.

        A probability's is 2**-40; a value's the same of the greatest value of the reference.
        """
        bins = self.prediction
        scale = 1.0 if bins.kind == "categorical" else max(abs(bins.low), abs(bins.high))
        return float(2.0 ** (np.frexp(scale)[1] - UNITS)) if np.isfinite(scale) and scale > 0 else 2.0**-UNITS

    def sums(self, values: Floats, groups: Ints, size: int) -> Ints:
        """Rows, their predicted values in units, and how many were too large to be added: (size, 3)."""
        whole = np.abs(values) < BEYOND * self.unit  # not of what is no number
        out = np.zeros((size, 3), dtype=np.int64)
        out[:, 0] = np.bincount(groups, minlength=size)
        np.add.at(out[:, 1], groups[whole], np.rint(values[whole] / self.unit).astype(np.int64))
        out[:, 2] = np.bincount(groups[~whole], minlength=size)
        return out

    def split(self, counts: Any) -> list[tuple[Bins, Ints]]:
        """A count array as one slice a variable, the prediction last."""
        out, offset = [], 0
        for bins in (*self.features, self.prediction):
            out.append((bins, np.asarray(counts[offset : offset + bins.size], dtype=np.int64)))
            offset += bins.size
        return out

    def against(self, counts: Any) -> Baseline:
        """The same bins with other counts for their reference."""
        *features, prediction = [replace(bins, reference=tuple(found.tolist())) for bins, found in self.split(counts)]
        return Baseline(tuple(features), prediction)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `baseline_from_json` reads."""
        return {"features": [vars(b) for b in self.features], "prediction": vars(self.prediction)}


def baseline_from_json(data: dict[str, Any]) -> Baseline:
    """Read what `Baseline.to_json` wrote."""
    return Baseline(tuple(bins_from_json(b) for b in data["features"]), bins_from_json(data["prediction"]))


def bins_from_json(data: dict[str, Any]) -> Bins:
    """Read what `vars` of bins wrote."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Bins(**values)


def freeze(schema: Schema, matrix: Floats, scores: Floats) -> Baseline:
    """Freeze bins from training rows, and the prediction's from out-of-fold scores.

    `scores` is what `drift_score` gives: the positive class's probability, the class, or the value.
    """
    features = tuple(
        categorical_bins(f, matrix[:, j]) if f.kind == "categorical" else numeric_bins(f.name, matrix[:, j])
        for j, f in enumerate(schema.features)
    )
    if schema.target.task == "multiclass":
        classes = Feature(PREDICTION, "categorical", schema.target.classes)
        return Baseline(features, categorical_bins(classes, scores))
    return Baseline(features, numeric_bins(PREDICTION, scores))


def with_prediction(baseline: Baseline, target: Target, scores: Floats) -> Baseline:
    """The same inputs with the prediction's bins frozen from other scores."""
    if target.task == "multiclass":
        return Baseline(baseline.features, categorical_bins(Feature(PREDICTION, "categorical", target.classes), scores))
    return Baseline(baseline.features, numeric_bins(PREDICTION, scores))


def drift_score(target: Target, output: Floats) -> Floats:
    """What of a prediction is watched: positive probability, class index or value, (n,)."""
    if target.task == "regression":
        return output.reshape(-1)
    if target.task == "binary":
        return output[:, 1]
    from models.metrics import decide

    return decide(output).astype(np.float64)


def numeric_bins(name: str, values: Floats, bins: int = DECILES) -> Bins:
    """Quantile bins, deciles if not said otherwise; one bin a value where there are at most twenty, or no more than bins."""
    known = values[np.isfinite(values)]
    if not len(known):
        known = np.zeros(1)
    distinct = np.unique(known)
    if len(distinct) <= (FEW if bins == DECILES else bins):
        edges = distinct[1:]
        inner = [number_text(v) for v in distinct]
    else:
        edges = np.unique(np.quantile(known, np.arange(1, bins) / bins))
        bounds = [distinct[0], *edges, distinct[-1]]
        inner = [f"{number_text(a)} to {number_text(b)}" for a, b in zip(bounds, bounds[1:], strict=False)]
    labels = ("below", *inner, "above", "missing")
    return _with_reference(Bins(name, "numeric", labels, tuple(edges.tolist()), float(distinct[0]), float(distinct[-1])), values)


def categorical_bins(feature: Feature, values: Floats) -> Bins:
    """A bin for each level with 1 % of the reference (30 at most), then other, unseen, missing."""
    codes = values[~np.isnan(values)].astype(np.int64)
    size = len(feature.levels)
    counts = np.bincount(codes, minlength=size + 1)[:size]
    order = sorted(range(size), key=lambda i: (-counts[i], i))[:MOST_LEVELS]
    own = [i for i in order if counts[i] >= LEVEL_SHARE * max(len(values), 1)]
    labels = (*(feature.levels[i] for i in own), "other", "unseen", "missing")
    table = [len(own)] * size + [len(own) + 1, len(own) + 2]
    for place, level in enumerate(own):
        table[level] = place
    return _with_reference(Bins(feature.name, "categorical", labels, table=tuple(table)), values)


def _with_reference(bins: Bins, values: Floats) -> Bins:
    counts = np.bincount(bins.place(values), minlength=bins.size)
    return replace(bins, reference=tuple(counts.tolist()))


def number_text(value: float) -> str:
    """A short spelling for labels."""
    return f"{value:.4g}"
