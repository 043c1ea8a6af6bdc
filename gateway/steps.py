"""The steps of a prediction that its pipeline is made of: rows made ready, refused or scored, in blocks that let others in between."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from gateway.admission import within
from gateway.asked import Asked, Served
from gateway.errors import ApiError
from models.columns import joined
from models.schema import Encoded, Schema
from models.types import Floats

BLOCK = 1000
MOST_ROW_BYTES = 4 << 20


def sum_of(counts: list[dict[str, int]]) -> dict[str, int]:
    """Counts by name, added up."""
    whole: dict[str, int] = {}
    for part in counts:
        for name, count in part.items():
            whole[name] = whole.get(name, 0) + count
    return whole


def refuse_unusable(asked: Asked, errors: dict[int, str], wrong: dict[str, int]) -> None:
    """422 where no row can be scored, or one is wrong and the caller is strict; 413 for rows that are too large."""
    if asked.size > MOST_ROW_BYTES * len(asked.rows):
        raise ApiError(413, "too_large", "a row may hold four mebibytes on average")
    if errors and (asked.strict or len(errors) == len(asked.rows)):
        details = [{"row": k, "error": text} for k, text in list(errors.items())[:100]]
        first = next(iter(errors.values()))
        refusal = ApiError(422, first.split(":")[0], first, details)
        refusal.wrong = wrong
        raise refusal


async def score_in_blocks(served: Served, encoded: Encoded, deadline: int) -> Floats:
    """Score a large request block by block, so that other requests go in between; 504 where its time is over."""
    parts = []
    for at in range(0, len(encoded.matrix), BLOCK):
        parts.append(served.package.plan.predict(encoded.matrix[at : at + BLOCK]))
        await asyncio.sleep(0)
        within(deadline)
    return np.concatenate(parts)


async def encode_in_blocks(schema: Schema, asked: Asked) -> Encoded:
    """Encode a large request block by block, so that other requests go in between."""
    parts: list[Encoded] = []
    warnings: dict[int, list[str]] = {}
    errors: dict[int, str] = {}
    for at in range(0, len(asked.rows), BLOCK):
        part = schema.encode_rows(asked.rows[at : at + BLOCK], strict=asked.strict)
        parts.append(part)
        warnings |= {at + k: notes for k, notes in part.warnings.items()}
        errors |= {at + k: error for k, error in part.errors.items()}
        await asyncio.sleep(0)
        within(asked.deadline)
    first = parts[0].columns
    columns = None
    if first is not None and all(part.columns is not None and part.columns.keys() == first.keys() for part in parts):
        columns = {name: joined([part.columns[name] for part in parts if part.columns is not None]) for name in first}
    logged = asked.rows if columns is not None else [row for part in parts for row in part.logged]
    return Encoded(np.concatenate([part.matrix for part in parts]), logged, warnings, errors, columns, sum_of([part.wrong for part in parts]))


def columns_of(served: Served, every: Any, chosen: list[int]) -> tuple[Any, Any]:
    """Value and probabilities of each row, as the journal keeps them; `every` row's outputs, as lists or as an array."""
    values: Any
    task = served.package.schema.target.task
    if isinstance(every, np.ndarray):
        values = every[np.arange(len(every)), chosen] if task == "multiclass" else every[:, 0 if task == "regression" else 1].copy()
    elif task == "multiclass":
        values = [p[k] for p, k in zip(every, chosen, strict=True)]
    else:
        place = 0 if task == "regression" else 1
        values = [p[place] for p in every]
    return values, [[]] * len(every) if task == "regression" else every
