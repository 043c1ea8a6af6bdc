"""Positions: source → sequence, and the ranges of sequences a fold has seen.

A source is a journal and one target partition ("journal/partition"), or an outside topic's partition
("cluster:topic:partition"). Journal sequences begin at 1 and have no gaps.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping


def position_text(position: Mapping[str, int]) -> str:
    """A position as clients carry it.

    >>> position_text({"b": 2, "a": 1})
    'a=1,b=2'
    """
    return ",".join(f"{source}={sequence}" for source, sequence in sorted(position.items()))


def read_position(text: str) -> dict[str, int]:
    """Read `position_text`; ValueError for anything else."""
    found = {}
    for part in filter(None, text.split(",")):
        source, _, sequence = part.rpartition("=")
        if not source:
            raise ValueError(f"not a position: {text!r}")
        found[source] = int(sequence)
    return found


class Ranges:
    """Which sequences of one source have been seen, as merged closed ranges."""

    def __init__(self, ranges: list[list[int]] | None = None) -> None:
        """Begin with what was seen before."""
        self.ranges = [list(pair) for pair in ranges or []]

    def __contains__(self, sequence: int) -> bool:
        """Whether a sequence was seen."""
        at = bisect.bisect_right(self.ranges, [sequence, 1 << 62]) - 1
        return at >= 0 and self.ranges[at][0] <= sequence <= self.ranges[at][1]

    def add(self, first: int, last: int) -> None:
        """Mark first to last as seen.

        >>> r = Ranges(); r.add(4, 5); r.add(1, 2); r.add(3, 3); r.ranges
        [[1, 5]]
        """
        kept, low, high = [], first, last
        for a, b in self.ranges:
            if b < low - 1 or a > high + 1:
                kept.append([a, b])
            else:
                low, high = min(low, a), max(high, b)
        bisect.insort(kept, [low, high])
        self.ranges = kept

    @property
    def contiguous(self) -> int:
        """The last sequence up to which nothing is missing, from 1."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] <= 1 else 0

    @property
    def count(self) -> int:
        """How many sequences were seen."""
        return sum(b - a + 1 for a, b in self.ranges)

    @property
    def last(self) -> int:
        """The greatest sequence seen."""
        return self.ranges[-1][1] if self.ranges else 0
