"""Rows that came as columns: read as columns by whoever can, as row dicts by everyone else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from models.types import Floats, Row

Column = list[Any] | tuple[Any, ...] | Floats  # an array holds float64, with NaN for a missing value


class Columns(Sequence[Row]):
    """`count` rows; values by name, each a list, a tuple or an array of float64 with NaN for a missing value.

    `matrix` (count, features) is the same where they came as one, in the order of a schema's features and with nothing beside it.
    """

    def __init__(self, by_name: dict[str, Column] | Sequence[str], count: int, matrix: Floats | None = None) -> None:
        """Hold the columns, which must all have `count` values; or the names of a matrix's columns, which are made when someone asks for them."""
        self._given, self._count, self.matrix = by_name, count, matrix

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The values of each column."""
        if isinstance(self._given, dict):
            return self._given
        return dict(zip(self._given, () if self.matrix is None else self.matrix.T.copy(), strict=True))

    def __len__(self) -> int:
        """Count the rows."""
        return self._count

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Columns: ...
    def __getitem__(self, at: int | slice) -> Row | Columns:
        """One row as a dict, or some rows."""
        if isinstance(at, slice):
            if self.matrix is not None:
                return Columns(self._given, len(self.matrix[at]), self.matrix[at])
            return Columns({name: values[at] for name, values in self.by_name.items()}, len(range(*at.indices(self._count))))
        return self._rows[at]

    @cached_property
    def _rows(self) -> list[Row]:
        """Row dicts, made when one is asked for; a missing value is None."""
        if self.matrix is not None:
            return [dict(zip(self._given, [None if v != v else v for v in row], strict=True)) for row in self.matrix.tolist()]  # noqa: PLR0124 - NaN
        if not self.by_name:
            return [{} for _ in range(self._count)]
        return [dict(zip(self.by_name, row, strict=True)) for row in zip(*map(plain_values, self.by_name.values()), strict=True)]


def joined(parts: Sequence[Column]) -> Column:
    """Pieces of a column as one."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in plain_values(part)]


def plain_values(values: Column) -> list[Any] | tuple[Any, ...]:
    """A column's values as Python has them."""
    if not isinstance(values, np.ndarray):
        return values
    return [None if v != v else v for v in values.tolist()]  # noqa: PLR0124 - NaN
