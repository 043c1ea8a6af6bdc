"""What drift is measured against: the training data, a past window, or the same weekdays before.

The bins stay those that were frozen in training; only the counts that a window is compared with are others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.types import Ints
from stream.clock import iso, parse_time
from stream.errors import Malformed
from stream.queries import Window

TRAINING, WEEKDAYS = "training", "weekdays"
DAY = 86_400
WEEKS = 8  # before a window, for its weekdays
THURSDAY = 3  # 1 January 1970, where Monday is 0

Counts = Callable[[Window], tuple[str, list[dict[str, Any]]]]  # the SELECT, and bin counts a bucket


@dataclass(frozen=True)
class Reference:
    """Counts to compare with, by weekday."""

    kind: str
    start: int
    end: int
    by_weekday: Ints  # (7, bins)
    sql: str

    def of(self, starts: list[int], width: int) -> Ints:
        """The counts for the buckets that begin at some seconds and are so many seconds wide."""
        days = set(range(7))
        if self.kind == WEEKDAYS and starts and width <= DAY:
            days = {weekday(at) for at in starts}
        return np.asarray(self.by_weekday[sorted(days)].sum(axis=0))

    def told(self) -> dict[str, Any]:
        """What it is, for those who read the answer."""
        return {"kind": self.kind, "from": iso(self.start), "to": iso(self.end), "sql": self.sql}


def read_reference(text: str, window: Window) -> Window | None:
    """The window that holds the reference; None for the training data. Malformed where it cannot be read."""
    if text in {"", TRAINING}:
        return None
    if text == WEEKDAYS:
        if window.start is None:
            raise Malformed("the same weekdays before: before what? Give the window a beginning (from=)")
        return replace(window, start=window.start - WEEKS * 7 * DAY * 1_000_000, end=window.start, bucket=DAY)
    first, dots, last = text.partition("..")
    try:
        start, end = parse_time(first), parse_time(last)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"reference is training, weekdays or FROM..TO, not {text!r}") from error
    if not dots or start >= end:
        raise Malformed(f"reference is training, weekdays or FROM..TO, not {text!r}")
    return replace(window, start=start, end=end, bucket=DAY)


def reference_of(text: str, window: Window, counts: Counts, size: int) -> Reference | None:
    """Count a reference; None for the training data."""
    wanted = read_reference(text, window)
    if wanted is None:
        return None
    sql, rows = counts(wanted)
    found = np.zeros((7, size), dtype=np.int64)
    for row in rows:
        found[weekday(row["at"])] += np.array(row["counts"], dtype=np.int64)
    assert wanted.start is not None  # noqa: S101 - read_reference gave both
    assert wanted.end is not None  # noqa: S101
    return Reference(text if text == WEEKDAYS else "window", wanted.start, wanted.end, found, sql)


def weekday(second: int) -> int:
    """The day of the week of a second since 1970, in UTC; Monday is 0."""
    return (second // DAY + THURSDAY) % 7
