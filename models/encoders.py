"""Fitted inputs of the families: level tables for trees, look-ups and scales for dense models."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from models.members import index_of, scaled, tree_inputs
from models.schema import Schema
from models.types import Floats

SMOOTHING = 50.0
LEAST_LEVEL = 20
FOLDS = 5
NAN = float("nan")


def target_encoded(schema: Schema, base: Floats, y: Floats, seed: int, weights: Floats | None = None) -> tuple[list[list[float] | None], Floats]:
    """Level tables from all rows, and the training inputs with each row's means taken without its fold.

    In-sample means leak the target into training: on the flights they cost 0.007 of log loss.
    """
    tables = target_tables(schema, base, y, weights)
    inputs = tree_inputs(base, arrays_of(tables), None, single=False)
    fold = np.random.default_rng(seed).integers(0, FOLDS, len(base))
    for k in range(FOLDS):
        test = fold == k
        if test.any() and not test.all():
            part = arrays_of(target_tables(schema, base[~test], y[~test], None if weights is None else weights[~test]))
            inputs[test] = tree_inputs(base[test], part, None, single=False)
    return tables, inputs


def target_tables(schema: Schema, base: Floats, y: Floats, weights: Floats | None = None) -> list[list[float] | None]:
    """For each categorical the smoothed mean target a level; unseen and missing get their own or the mean."""
    each = np.ones(len(y)) if weights is None else weights * (len(y) / weights.sum())
    mean = float(np.average(y, weights=each))
    tables: list[list[float] | None] = []
    for j, feature in enumerate(schema.features):
        if feature.kind != "categorical":
            tables.append(None)
            continue
        size = len(feature.levels)
        codes = np.where(np.isnan(base[:, j]), size + 1, base[:, j]).astype(np.int64)
        sums = np.bincount(codes, weights=y * each, minlength=size + 2)
        counts = np.bincount(codes, weights=each, minlength=size + 2)
        tables.append(((sums + SMOOTHING * mean) / (counts + SMOOTHING)).tolist())
    return tables


def code_tables(schema: Schema, base: Floats, *, most: int, least: int = LEAST_LEVEL) -> list[list[float] | None]:
    """For each categorical its frequent levels' codes; rare, unseen and missing become NaN."""
    tables: list[list[float] | None] = []
    for j, feature in enumerate(schema.features):
        if feature.kind != "categorical":
            tables.append(None)
            continue
        size = len(feature.levels)
        known = base[:, j][~np.isnan(base[:, j])].astype(np.int64)
        counts = np.bincount(known, minlength=size + 1)[:size]
        keep = [i for i in np.argsort(-counts, kind="stable")[:most] if counts[i] >= least]
        table = [NAN] * (size + 2)
        for code, level in enumerate(keep):
            table[level] = float(code)
        tables.append(table)
    return tables


def arrays_of(tables: list[list[float] | None]) -> list[Any]:
    """Tables as arrays."""
    return [None if t is None else np.array(t) for t in tables]


def medians(inputs: Floats) -> list[float]:
    """Each column's median, 0 where it has no value: what forests see for missing."""
    out = []
    for j in range(inputs.shape[1]):
        column = inputs[:, j]
        known = column[np.isfinite(column)]
        out.append(float(np.median(known)) if len(known) else 0.0)
    return out


def dense_pieces(schema: Schema, base: Floats, *, bins: int = 10, most_levels: int = 5000) -> list[dict[str, Any]]:
    """How base columns enter a dense model: one-hot of levels and of quantile bins, and scaled numbers."""
    pieces: list[dict[str, Any]] = []
    least = max(2, min(LEAST_LEVEL, len(base) // 200))
    for j, feature in enumerate(schema.features):
        values = base[:, j]
        known = values[~np.isnan(values)]
        if feature.kind == "categorical":
            size = len(feature.levels)
            counts = np.bincount(known.astype(np.int64), minlength=size + 1)[:size]
            order = np.argsort(-counts, kind="stable")[:most_levels]
            keep = sorted(int(i) for i in order if counts[i] >= least)
            place = {level: k for k, level in enumerate(keep)}
            index = [place.get(i, len(keep)) for i in range(size)] + [len(keep), len(keep) + 1]
            pieces.append({"kind": "index", "column": j, "edges": None, "index": index, "size": len(keep) + 2})
            continue
        scale = float(known.std()) if len(known) else 0.0
        center = float(known.mean()) if len(known) else 0.0
        pieces.append({"kind": "number", "column": j, "center": center, "scale": scale or 1.0, "size": 2})
        if len(np.unique(known)) > 2:  # noqa: PLR2004
            edges = np.unique(np.quantile(known, np.arange(1, bins) / bins)).tolist()
            pieces.append({"kind": "index", "column": j, "edges": edges, "index": None, "size": len(edges) + 2})
    return pieces


def design(pieces: list[dict[str, Any]], base: Floats) -> sp.csr_matrix:
    """The sparse design matrix whose columns are the pieces' table rows, in order."""
    rows = np.arange(len(base))
    blocks = []
    for piece in pieces:
        values = base[:, piece["column"]]
        if piece["kind"] == "index":
            block = sp.csr_matrix((np.ones(len(base)), (rows, index_of(piece, values))), shape=(len(base), piece["size"]))
        else:
            block = sp.csr_matrix(np.column_stack(scaled(piece, values)))
        blocks.append(block)
    return sp.hstack(blocks, format="csr")


def split_tables(pieces: list[dict[str, Any]], weights: Floats) -> list[Floats]:
    """Cut first-layer weights (columns, H) into the pieces' tables."""
    tables, at = [], 0
    for piece in pieces:
        tables.append(np.ascontiguousarray(weights[at : at + piece["size"]]))
        at += piece["size"]
    return tables
