"""What is asked, whatever protocol it came by, and what a deployment answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.errors import ApiError
from models.columns import Columns, plain_values
from models.humility import Rule
from models.package import ModelPackage
from models.table import plain_text
from models.types import Floats, Row
from stream.clock import parse_time
from stream.projections.watch import Adapted

MOST_ID = 128


@dataclass(frozen=True)
class Served:
    """A deployment as it answers now: its version and the loaded champion."""

    name: str
    version: int
    association_id: str
    timestamp: str
    package: ModelPackage
    threshold: float | None = None
    rules: tuple[Rule, ...] = ()
    others: dict[str, ModelPackage] = field(default_factory=dict)
    routes: tuple[tuple[str, float], ...] = ()  # (model, share) of the rows that other models answer
    adapted: Mapping[str, list[Adapted]] = field(default_factory=dict)  # of each model, how its intervals were adapted, as it goes on


@dataclass(slots=True)  # not frozen: one is made for each request, and setting a frozen one's fields takes three times as long
class Asked:
    """A decoded prediction request, whatever protocol it came by."""

    rows: Sequence[Row]
    association_ids: list[str] | None
    timestamps: list[int] | None
    request_id: str
    consumer: str
    strict: bool = False
    size: int = 0
    explain: int = 0
    interval: float = 0.0
    deadline: int = 0  # clock reading (ns) after which the answer is of no use; 0: none
    monitored: bool = True  # otherwise the rows are recorded as a batch: outside of drift, accuracy, service health and challengers
    columnar: bool = False  # its protocol answers in columns: where nothing is odd about a row, rows need not be told one by one
    first: int = 0  # the number of its first row among the recorded ones of the request that it is a part of
    arrived: int = 0  # when it counts as recorded (microseconds), one time for all parts of a request; 0: when it is
    marks: list[int] | None = None  # of a request that is traced: takes the clock readings at which its steps ended


class Outputs(NamedTuple):
    """What was answered, in columns: the class of each row (None for a regression), and the outputs (n, K)."""

    labels: list[str] | None
    values: Floats


def association_ids(served: Served, asked: Asked) -> list[str] | None:
    """The caller's ids, or those in the association column; None where there are none, and each row has `own_ids`."""
    if asked.association_ids is not None:
        return asked.association_ids
    given = column_of(asked.rows, served.association_id)
    if given is None or given.count(None) == len(given):
        return None
    return [text_of(value) or f"{asked.request_id}-{k}" for k, value in enumerate(given)]


def column_of(rows: Sequence[Row], name: str) -> Sequence[Any] | None:
    """What rows hold under a name; None where none of them can."""
    if not name:
        return None
    if isinstance(rows, Columns):
        return plain_values(rows.by_name[name]) if name in rows.by_name else None
    return [row.get(name) if type(row) is dict else None for row in rows]


def text_of(value: Any) -> str:
    """An id as text; empty for none."""
    text = plain_text(value) or ""
    if len(text) > MOST_ID:
        raise ApiError(422, "wrong_type", f"an association id has at most {MOST_ID} characters")
    return text


def row_times(served: Served, rows: Sequence[Row]) -> list[int] | None:
    """Event times from the deployment's timestamp column, where every row has one."""
    given = column_of(rows, served.timestamp)
    if given is None:
        return None
    try:
        return [parse_time(value) for value in given]
    except (TypeError, ValueError):
        return None
