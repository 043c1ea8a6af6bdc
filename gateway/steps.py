"""The steps of a prediction that its pipeline is made of: rows made ready, refused or scored, in blocks that let others in between."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from gateway.admission import within
from gateway.asked import Asked, Served
from gateway.errors import ApiError
from models.schema import Encoded, Schema
from models.types import Floats, Row

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
    matrices: list[Floats] = []
    logged: list[Row] = []
    warnings: dict[int, list[str]] = {}
    errors: dict[int, str] = {}
    wrong: list[dict[str, int]] = []
    for at in range(0, len(asked.rows), BLOCK):
        part = schema.encode_rows(asked.rows[at : at + BLOCK], strict=asked.strict)
        matrices.append(part.matrix)
        logged.extend(part.logged)
        warnings |= {at + k: notes for k, notes in part.warnings.items()}
        errors |= {at + k: error for k, error in part.errors.items()}
        wrong.append(part.wrong)
        await asyncio.sleep(0)
        within(asked.deadline)
    return Encoded(np.concatenate(matrices), logged, warnings, errors, wrong=sum_of(wrong))


def columns_of(served: Served, every: Any, chosen: list[int]) -> tuple[Any, list[str], Any]:
    """Value, class and probabilities of each row, as the journal keeps them; `every` row's outputs, as lists or as an array."""
    target = served.package.schema.target
    if isinstance(every, np.ndarray):
        place: Any = 0 if target.task == "regression" else 1 if target.task == "binary" else chosen
        values = every[np.arange(len(every)), place]
        return (values, [""] * len(every), [[]] * len(every)) if target.task == "regression" else (values, [target.classes[k] for k in chosen], every)
    if target.task == "regression":
        return [row[0] for row in every], [""] * len(every), [[]] * len(every)
    values = [p[1] for p in every] if target.task == "binary" else [p[k] for p, k in zip(every, chosen, strict=True)]
    return values, [target.classes[k] for k in chosen], every
