"""Time at the edge: microseconds since 1970 in UTC, and its texts."""

from __future__ import annotations

import time
from datetime import UTC, datetime

SKEW = 60_000_000
LATEST = 4_260_000_000_000_000  # DateTime's minutes end in 2106


def now_us() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1000


def elapsed(since: int, now: int) -> float:
    """Microseconds since a moment of the past; endless where the clock has been set back behind it.

    A wait that began at a wrong, later time would else last until the right clock gets there. A minute's
    difference is nothing: several machines' clocks disagree by that.

    >>> elapsed(0, 5), elapsed(90_000_000, 80_000_000), elapsed(90_000_000, 1)
    (5.0, 0.0, inf)
    """
    return float(max(0, now - since)) if now > since - SKEW else float("inf")


def parse_time(text: object) -> int:
    """Microseconds from an ISO 8601 text (naive is UTC) or a number of seconds; ValueError otherwise.

    >>> parse_time("1970-01-01T00:00:01Z"), parse_time("1970-01-01T01:00:01+01:00"), parse_time(1.5)
    (1000000, 1000000, 1500000)
    """
    if isinstance(text, bool) or text is None:
        raise ValueError(f"not a time: {text!r}")
    if isinstance(text, int | float):
        return bounded(float(text) * 1e6)
    moment = datetime.fromisoformat(str(text).strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return bounded((elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds)


def bounded(micros: float) -> int:
    """A time that every part can hold: 1970 to 2105; ValueError otherwise (NaN included)."""
    if not 0 <= micros < LATEST:
        raise ValueError("a time must lie between 1970 and 2105")
    return int(micros)


def iso(micros: int) -> str:
    """The ISO text of microseconds."""
    return datetime.fromtimestamp(micros / 1e6, tz=UTC).isoformat().replace("+00:00", "Z")
