"""Arrivals: champion requests a minute of arrival as counts over bins of their latency.

The bins grow by 4 %, so that a quantile read from their counts is at most 2 % off, and counts of any minutes can be
added up (DDSketch: Masson, Rim and Lee, PVLDB 12(12), 2019, with bounds that are fixed). A request counts where its
first row lies. The sums: rows, latencies in tenths of a microsecond, requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.types import Floats, Ints
from stream.association import literal
from stream.clickhouse import EventLog

ARRIVALS = "@arrivals"  # beside the models whose drift is counted
GROWTH, LEAST, MOST = 1.04, 10.0, 1e8  # of the bins' bounds, in microseconds
BOUNDS: Floats = np.array([0.0, *(LEAST * GROWTH**k for k in range(int(np.log(MOST / LEAST) / np.log(GROWTH)) + 1))])
SIZE, SUMS = len(BOUNDS), 3
FIRST = "endsWith(event_id, '.0')"  # an event id ends in the number of its row within the request
MINUTE = 60_000_000


def arrived(recorded: Ints, first: Any, latency: Floats) -> tuple[Ints, Ints]:
    """The minutes in which rows arrived, and a bucket for each."""
    minutes, group = np.unique(recorded // MINUTE, return_inverse=True)
    out = np.zeros((len(minutes), SIZE + SUMS), dtype=np.int64)
    out[:, SIZE] = np.bincount(group, minlength=len(minutes))
    group, latency = group[first], latency[first]
    np.add.at(out, (group, places(latency)), 1)
    np.add.at(out[:, SIZE + 1], group, np.rint(latency * 10).astype(np.int64))
    out[:, SIZE + 2] = np.bincount(group, minlength=len(minutes))
    return minutes, out


def places(latency: Floats) -> Ints:
    """The bin of each latency in microseconds."""
    return np.asarray(np.maximum(BOUNDS.searchsorted(latency, side="right") - 1, 0))


def arrivals_again(log: EventLog, deployment: str, condition: str = "1") -> dict[int, Ints]:
    """The buckets of a deployment's minutes, made by the log itself out of the stored rows."""
    bounds = ", ".join(repr(bound) for bound in BOUNDS.tolist())
    sql = f"""SELECT minute, bin, count() AS all_rows, countIf(first) AS requests, sumIf(tenths, first) AS latency FROM (
    SELECT intDiv(toUnixTimestamp64Micro(recorded_at), {MINUTE}) AS minute, {FIRST} AS first, toInt64(round(latency_us * 10)) AS tenths, roundDown(latency_us, [{bounds}]) AS bin
    FROM predictions WHERE deployment = {literal(deployment)} AND role = 'champion' AND ({condition}))
GROUP BY minute, bin"""
    found: dict[int, Ints] = {}
    for row in log.rows(sql):
        bucket = found.setdefault(int(row["minute"]), np.zeros(SIZE + SUMS, dtype=np.int64))
        bucket[places(np.array([row["bin"]]))] += row["requests"]
        bucket[SIZE:] += (row["all_rows"], row["latency"], row["requests"])
    return found


def quantiles(counts: Any, levels: tuple[float, ...]) -> list[float | None]:
    """Latencies in microseconds below which those shares of the counted requests lie, each at most 2 % off.

    >>> quantiles([0] * 100 + [1, 9], (0.05, 0.5))
    [495.2, 515.1]
    """
    reached = np.cumsum(counts)
    if not len(reached) or not reached[-1]:
        return [None] * len(levels)
    at = [int(reached.searchsorted(int(level * reached[-1]), side="right")) for level in levels]
    return [round(float(BOUNDS[k] * np.sqrt(GROWTH)) if k else LEAST, 1) for k in at]

