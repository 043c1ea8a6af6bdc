"""Tables as they come from users: CSV and Parquet into typed columns."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from models.errors import DataError
from models.types import Floats, Ints, Objects

DISGUISED = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "#N/A")

PROBED, SHORTEST = 50, 8
SPELLINGS = (  # of one line only one may fit
    ("%Y/%m/%d",),
    ("%Y/%m/%d %H:%M:%S",),
    ("%Y/%m/%d %H:%M",),
    ("%Y-%m-%d %H:%M",),
    ("%d.%m.%Y",),
    ("%d.%m.%Y %H:%M:%S",),
    ("%d.%m.%Y %H:%M",),
    ("%m/%d/%Y", "%d/%m/%Y"),
    ("%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S"),
    ("%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"),
)


@dataclass(frozen=True)
class Table:
    """Named columns of equal length, as Arrow keeps them."""

    arrow: pa.Table

    @property
    def names(self) -> list[str]:
        """The column names, in order."""
        return list(self.arrow.column_names)

    def __len__(self) -> int:
        """Count the rows."""
        return int(self.arrow.num_rows)

    def is_numeric(self, name: str) -> bool:
        """Tell whether a column holds numbers."""
        kind = self.arrow.schema.field(name).type
        return bool(
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        )

    def is_boolean(self, name: str) -> bool:
        """Tell whether a column holds truth values."""
        return bool(pa.types.is_boolean(self.arrow.schema.field(name).type))

    def is_date(self, name: str) -> bool:
        """Tell whether a column holds dates or times."""
        kind = self.arrow.schema.field(name).type
        return bool(pa.types.is_temporal(kind))

    def numbers(self, name: str) -> Floats:
        """A numeric or boolean column as float64, missing as NaN."""
        column = self.arrow.column(name)
        return np.asarray(
            pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64
        )

    def texts(self, name: str) -> Objects:
        """Any column as strings, missing as None; whole numbers are written without a point."""
        column = self.arrow.column(name)
        kind = column.type
        if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            return np.array([plain_text(v) for v in column.to_pylist()], dtype=object)
        return np.array(pc.cast(column, pa.string()).to_pylist(), dtype=object)

    def micros(self, name: str) -> Ints:
        """A date column as microseconds since 1970 in UTC; a missing one raises DataError."""
        column = self.arrow.column(name)
        if column.null_count:
            raise DataError("missing_timestamp", f"column {name!r} has rows without a time")
        return np.asarray(
            pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64()).to_numpy(),
            dtype=np.int64,
        )

    def missing(self, name: str) -> npt_bools:
        """Which rows have no value (NaN counts as none)."""
        column = self.arrow.column(name)
        return np.asarray(pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False))

    def take(self, rows: Any) -> Table:
        """The given rows, by mask or by position."""
        rows = np.asarray(rows)
        if rows.dtype == bool:
            return Table(self.arrow.filter(pa.array(rows)))
        return Table(self.arrow.take(pa.array(rows)))

    def drop(self, names: Iterable[str]) -> Table:
        """The table without some columns."""
        gone = set(names)
        return Table(self.arrow.select([name for name in self.names if name not in gone]))


npt_bools = np.ndarray[Any, np.dtype[np.bool_]]


def plain_text(value: object) -> str | None:
    """A value as the text that names its category; missing values give None.

    >>> plain_text(3.0), plain_text(True), plain_text(float("nan"))
    ('3', 'true', None)
    """
    if value is None or (isinstance(value, float) and value != value):  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def read_table(source: Path | bytes, name: str = "") -> Table:
    """Read CSV (UTF-8, header row) or Parquet; DataError tells what is wrong with it."""
    data: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    head = source[:4] if isinstance(source, bytes) else source.open("rb").read(4)
    if not head:
        raise DataError("empty_file", f"{name or 'the file'} is empty")
    try:
        if head == b"PAR1":
            arrow = pyarrow.parquet.read_table(data)
        else:
            arrow = pyarrow.csv.read_csv(
                data,
                read_options=pyarrow.csv.ReadOptions(block_size=1 << 24),
                convert_options=pyarrow.csv.ConvertOptions(
                    null_values=list(DISGUISED), strings_can_be_null=True
                ),
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError("unreadable_file", f"{name or 'the file'}: {error}") from error
    return checked(dated(flat(arrow)))


def dated(arrow: pa.Table) -> pa.Table:
    """Text columns whose every value is a date or time in one of the common spellings, as times."""
    for index, field in enumerate(arrow.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = arrow.column(index)
            times = times_of(column.slice(0, PROBED)) is not None and times_of(column)
            if times is not None and times is not False:
                arrow = arrow.set_column(index, field.name, times)
    return arrow


def times_of(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Texts as times; None where one is none, all are missing, or day and month can be told from each other in no way."""
    known = len(column) - column.null_count
    if not known or pc.min(pc.utf8_length(column)).as_py() < SHORTEST:
        return None
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
    for formats in SPELLINGS:
        found = [t for t in (pc.strptime(column, format=f, unit="us", error_is_null=True) for f in formats) if len(t) - t.null_count == known]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def checked(arrow: pa.Table) -> Table:
    """Refuse a table without rows or with two columns of one name."""
    names = arrow.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError("duplicate_columns", f"columns that come more than once: {', '.join(twice)}")
    if not arrow.num_rows:
        raise DataError("empty_file", "the table has a header but no rows")
    return Table(arrow.combine_chunks())


def flat(arrow: pa.Table) -> pa.Table:
    """Decode dictionaries; write nested and other unusual columns as text."""
    for index, field in enumerate(arrow.schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            arrow = arrow.set_column(index, field.name, pc.cast(arrow.column(index), kind.value_type))
        elif pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_duration(kind):
            texts = [None if v is None else str(v) for v in arrow.column(index).to_pylist()]
            arrow = arrow.set_column(index, field.name, pa.array(texts, pa.string()))
        elif pa.types.is_null(kind):
            arrow = arrow.set_column(index, field.name, pc.cast(arrow.column(index), pa.float64()))
    return arrow
