"""The columns a model reads: their names, kinds and levels, and rows as a float64 matrix.

The *base matrix* of a schema has a column a feature: numbers as they are, categories as the index
of their level (`len(levels)` for a level never seen), missing as NaN. It is what all models of a
project share; each model maps it to its own inputs with look-ups.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models import compiled
from models.columns import Column, Columns
from models.errors import DataError
from models.table import Table, plain_text
from models.types import Floats, Kind, Row, TaskType
from models.values import HARMLESS, LARGEST, NAN, NUMBERS, PLAIN, SWITCHES, TEXTS, NoneType, level_text, loggable, number_from, text_number, within_bounds

MAX_LEVELS = 5000
TOGETHER = 8  # rows: from here on columns are faster than rows


@dataclass(frozen=True)
class Feature:
    """One input column; `levels` are a categorical's known texts, most frequent first."""

    name: str
    kind: Kind
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The column predicted; `classes` in the order of the probability columns."""

    name: str
    task: TaskType
    classes: tuple[str, ...] = ()
    positive: str = ""
    lower: float = 0.0
    upper: float = 1.0
    mean: float = 0.0


@dataclass(slots=True)  # not frozen: one is made for each request
class Encoded:
    """Rows made ready: base matrix, the values to log, and what was odd about each row.

    Of rows that were read together `columns` are the values to log beside the numeric inputs, which the matrix has; `wrong` counts the rows that a wrong type spoilt, by input.
    """

    matrix: Floats
    logged: Sequence[Row]
    warnings: dict[int, list[str]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    columns: dict[str, Column] | None = None
    wrong: dict[str, int] = field(default_factory=dict)


class Levels(dict[str | None, float]):
    """A category's code by its text: one more for a text that is none, NaN for what is missing."""

    def __missing__(self, text: str | None) -> float:
        """The code of what is not a level."""
        return NAN if text is None else float(len(self))


def levels_of(feature: Feature) -> Levels:
    """The codes of a feature's levels."""
    return Levels({level: float(code) for code, level in enumerate(feature.levels)})


@dataclass(frozen=True)
class Schema:
    """A target, the inputs, and the training columns that are accepted but not used."""

    target: Target
    features: tuple[Feature, ...]
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Compile the look-ups once."""
        plan = []
        for index, feature in enumerate(self.features):
            plan.append((index, feature.name, feature.kind, levels_of(feature)))
        object.__setattr__(self, "_plan", tuple(plan))
        object.__setattr__(self, "_unseen", np.array([len(f.levels) if f.kind == "categorical" else NAN for f in self.features]))
        known = {f.name for f in self.features} | set(self.unused) | {self.target.name}
        object.__setattr__(self, "_known", frozenset(known))
        object.__setattr__(self, "_places", np.array([k for k, feature in enumerate(self.features) if feature.kind != "categorical"], dtype=np.int64))
        object.__setattr__(self, "_inputs", frozenset(f.name for f in self.features))
        object.__setattr__(self, "_names", tuple(name for _, name, _, _ in plan))
        object.__setattr__(self, "_tables", tuple(table if kind == "categorical" else None for _, _, kind, table in plan))
        object.__setattr__(self, "_texts", [name for _, name, kind, _ in plan if kind == "categorical"])

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """The names of the numeric inputs."""
        return tuple(feature.name for feature in self.features if feature.kind != "categorical")

    def numbers(self, matrix: Floats) -> Floats:
        """The columns of a base matrix that are numeric inputs."""
        return np.ascontiguousarray(matrix) if len(self.numeric) == len(self.features) else np.asarray(matrix.take(self._places, axis=1))  # type: ignore[attr-defined]

    @property
    def names(self) -> list[str]:
        """The inputs' names, in the order of the base matrix."""
        return [feature.name for feature in self.features]

    def encode_rows(self, rows: Sequence[Row], *, strict: bool = False) -> Encoded:
        """Rows as a base matrix; a value of the wrong type gives its row an error."""
        together = self._encode_plain(rows) if compiled.BUILT and type(rows) is list else None
        if len(rows) < TOGETHER or together:
            pass
        elif isinstance(rows, Columns):
            matrix = rows.matrix
            if matrix is not None and len(self.numeric) == len(self.features) and np.count_nonzero(np.abs(matrix) <= LARGEST) == matrix.size:
                return Encoded(matrix, rows, columns={})
            together = self._encode_columns(rows.by_name, len(rows))
        else:
            together = self._encode_together(rows)
        return together or self.encode_each(rows, strict=strict)

    def _encode_plain(self, rows: list[Row]) -> Encoded | None:
        """Rows that have each input as a number or a text, read in C; None where one is not such, or few rows have something to be said of."""
        width = len(self.features)
        matrix = np.empty((len(rows), width))
        odd = compiled.read(self._names, self._tables, rows, matrix)  # type: ignore[attr-defined]
        if odd is None:
            return None
        if len(rows) < TOGETHER:
            return Encoded(matrix, rows) if not odd and all(len(row) == width or self._logged_as_it_is(row) for row in rows) else None
        inputs: Any = self._inputs  # type: ignore[attr-defined]
        names = [*self._texts, *(name for name in rows[0] if name not in inputs)] if len(rows[0]) > width else self._texts  # type: ignore[attr-defined]
        if set(map(len, rows)) != {len(rows[0])}:
            return None
        try:
            columns: dict[str, Column] = {name: [row[name] for row in rows] for name in names}
        except KeyError:
            return None
        return Encoded(matrix, rows, self._warnings(matrix) if odd else {}, columns=columns) if self._plain(columns) else None

    def _logged_as_it_is(self, row: Row) -> bool:
        """Whether what a row has beside the inputs is known, and logged as it is."""
        known: Any = self._known  # type: ignore[attr-defined]
        return known.issuperset(row) and all(loggable(value) is value for value in row.values())

    def _warnings(self, matrix: Floats) -> dict[int, list[str]]:
        """What is missing and what was never seen, row by row."""
        warnings: dict[int, list[str]] = {}
        missing = np.isnan(matrix)
        for k, index in np.argwhere(missing | (matrix == self._unseen)).tolist():  # type: ignore[attr-defined]
            warnings.setdefault(k, []).append(("missing_feature: " if missing[k, index] else "unseen_category: ") + self.features[index].name)
        return warnings

    def _encode_together(self, rows: Sequence[Row]) -> Encoded | None:
        """Rows of the same names, column by column; None where their names differ, or as `_encode_columns`."""
        if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(rows[0])} or len(rows[0]) < 2:  # noqa: PLR2004 - itemgetter
            return None
        names = tuple(rows[0])
        try:
            columns: dict[str, Column] = dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
        except KeyError:
            return None
        return self._encode_columns(columns, len(rows), rows)

    def _encode_columns(self, columns: dict[str, Column], count: int, rows: Sequence[Row] | None = None) -> Encoded | None:
        """Columns of the expected types; None where one is not such.

        Nulls and levels never seen are expected; what has to be converted, refused or said is not.
        """
        plan: Any = self._plan  # type: ignore[attr-defined]
        matrix = np.empty((count, len(plan)))
        listed: list[Column] = []  # columns that are no arrays yet, and their places
        places: list[int] = []
        missing = 0
        switches: dict[str, Column] = {}  # truth values are logged as numbers
        for index, name, kind, table in plan:
            values = columns.get(name, ())
            if isinstance(values, np.ndarray):
                if kind == "categorical":
                    return None
                matrix[:, index] = values
                missing += int(np.count_nonzero(np.isnan(values)))
                continue
            kinds = set(map(type, values))
            if bool in kinds and kind != "categorical" and kinds <= SWITCHES:
                switches[name] = values = tuple(None if value is None else float(value) for value in values)
                kinds = kinds - {bool} | {float}
            if not kinds or not kinds <= (TEXTS if kind == "categorical" else NUMBERS):
                return None
            if NoneType in kinds:
                missing += values.count(None)
            if kind == "categorical":
                values = list(map(table.__getitem__, values))
            elif NoneType in kinds:
                values = [NAN if value is None else value for value in values]
            listed.append(values)
            places.append(index)
        try:
            numbers = struct.pack(f"{count * len(listed)}d", *chain.from_iterable(listed))  # in a quarter of NumPy's time
        except OverflowError:
            return None
        matrix[:, places] = np.frombuffer(numbers).reshape(-1, count).T
        if np.count_nonzero(np.abs(matrix) <= LARGEST) + missing != matrix.size or not self._plain(columns):
            return None  # infinite, too large, or NaN that came as a number
        warnings = self._warnings(matrix) if missing or (matrix == self._unseen).any() else {}  # type: ignore[attr-defined]
        if switches or rows is None:
            columns = columns | switches
            rows = Columns(columns, count)
        return Encoded(matrix, rows, warnings, columns={name: values for name, values in columns.items() if name not in self.numeric})

    def _plain(self, columns: dict[str, Column]) -> bool:
        """Whether the columns that are no inputs are known, and logged as they are."""
        others: Any = columns.keys() - self._inputs  # type: ignore[attr-defined]
        if not others <= self._known:  # type: ignore[attr-defined]
            return False
        for name in others:
            values = columns[name]
            if isinstance(values, np.ndarray):
                if np.isinf(values).any() or (np.abs(values) > LARGEST).any():
                    return False
                continue
            kinds = set(map(type, values))
            if not kinds <= PLAIN or (not kinds <= HARMLESS and not within_bounds(values, kinds)):
                return False
        return True

    def encode_each(self, rows: Sequence[Row], *, strict: bool = False) -> Encoded:
        """Row dicts as a base matrix, row by row: the same as `encode_rows`."""
        plan: Any = self._plan  # type: ignore[attr-defined]
        width = len(plan)
        flat: list[float] = []
        warnings: dict[int, list[str]] = {}
        errors: dict[int, str] = {}
        wrong: dict[str, int] = {}
        logged: list[Row] = []
        for number, row in enumerate(rows):
            try:
                vector, notes, kept = self._encode_row(plan, row)
            except DataError as error:
                errors[number] = f"{error.code}: {error}"
                if error.column:
                    wrong[error.column] = wrong.get(error.column, 0) + 1
                flat.extend([NAN] * width)
                logged.append({})
                continue
            if notes:
                if strict and any(note.startswith("unknown_feature") for note in notes):
                    errors[number] = "; ".join(n for n in notes if n.startswith("unknown_feature"))
                warnings[number] = notes
            flat.extend(vector)
            logged.append(kept)
        matrix = np.array(flat, dtype=np.float64).reshape(len(rows), width)
        return Encoded(matrix, logged, warnings, errors, wrong=wrong)

    def _encode_row(self, plan: Any, row: Row) -> tuple[list[float], list[str], Row]:
        # One pass by design: this is the hot path of every prediction.
        if type(row) is not dict:
            raise DataError("wrong_type", "a row must be an object of feature names and values")
        vector: list[float] = []
        notes: list[str] = []
        changed: Row = {}
        found = 0
        for _, name, kind, table in plan:
            value = row.get(name)
            if value is None:
                found += name in row
                vector.append(NAN)
                notes.append("missing_feature: " + name)
                continue
            found += 1
            if kind == "categorical":
                if type(value) is not str:
                    value = changed[name] = level_text(name, value)
                    if value is None:
                        vector.append(NAN)
                        notes.append("missing_feature: " + name)
                        continue
                if value not in table:
                    notes.append("unseen_category: " + name)
                vector.append(table[value])
            elif type(value) is float or type(value) is int:
                if not -LARGEST <= value <= LARGEST:
                    if value == value:  # noqa: PLR0124 - NaN
                        raise DataError("wrong_type", f"{name!r} must be a finite number", name)
                    changed[name] = None
                    notes.append("missing_feature: " + name)
                vector.append(float(value))
            else:
                number = changed[name] = number_from(name, kind, value)
                if number is None:
                    notes.append("missing_feature: " + name)
                    vector.append(NAN)
                else:
                    vector.append(number)
        if len(row) != found:
            inputs, known = self._inputs, self._known  # type: ignore[attr-defined]
            for name, value in row.items():
                if name not in inputs:
                    if name not in known:
                        notes.append("unknown_feature: " + name)
                    kept = loggable(value)
                    if kept is not value:
                        changed[name] = kept
        return vector, notes, {**row, **changed} if changed else row

    def encode_columns(self, columns: dict[str, pa.Array]) -> Floats:
        """Arrow columns (numbers or strings) as a base matrix; absent ones are missing."""
        length = len(next(iter(columns.values()))) if columns else 0
        matrix = np.full((length, len(self.features)), np.nan)
        for index, feature in enumerate(self.features):
            column = columns.get(feature.name)
            if column is not None:
                matrix[:, index] = encode_column(feature, column)
        return matrix

    def encode_table(self, table: Table) -> Floats:
        """A training table as a base matrix."""
        columns: dict[str, pa.Array] = {}
        for feature in self.features:
            if feature.name not in table.names:
                continue
            if feature.kind == "categorical":
                columns[feature.name] = pa.array(table.texts(feature.name), pa.string())
            else:
                columns[feature.name] = pa.array(numbers_of(table, feature.name), from_pandas=True)
        return self.encode_columns(columns) if columns else np.full((len(table), len(self.features)), np.nan)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `schema_from_json` reads."""
        return {
            "target": asdict(self.target),
            "features": [asdict(feature) for feature in self.features],
            "unused": list(self.unused),
        }


def schema_from_json(data: dict[str, Any]) -> Schema:
    """Read what `Schema.to_json` wrote."""
    target = {**data["target"], "classes": tuple(data["target"]["classes"])}
    features = tuple(Feature(f["name"], f["kind"], tuple(f["levels"])) for f in data["features"])
    return Schema(Target(**target), features, tuple(data["unused"]))






def numbers_of(table: Table, name: str) -> Floats:
    """A table's column as numbers, whatever it holds; texts that are no numbers are missing."""
    if table.is_numeric(name) or table.is_boolean(name):
        return table.numbers(name)
    texts = table.texts(name)
    return np.array([text_number(t) for t in texts], dtype=np.float64)



def encode_column(feature: Feature, column: pa.Array) -> Floats:
    """One Arrow column as base values."""
    if feature.kind != "categorical":
        if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
            return np.array([text_number(v) for v in column.to_pylist()], dtype=np.float64)
        return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    if not pa.types.is_dictionary(column.type):
        if not pa.types.is_string(column.type):
            column = pa.array([plain_text(v) for v in column.to_pylist()], pa.string())
        column = pc.dictionary_encode(column)
    codes = np.array([*map(levels_of(feature).__getitem__, column.dictionary.to_pylist()), NAN])
    indices = column.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(codes[indices], dtype=np.float64)
