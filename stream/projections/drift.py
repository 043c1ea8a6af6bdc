"""Champion rows a minute as counts over frozen bins, exact whatever is resent: the baseline's for drift, those of latency for arrivals.

A bucket is an array of counts that ends in SUMS sums. The state of a partition is its buckets and, beside them, which sequences of each source they hold.
Both are written in one insert, so a worker that dies goes on from where the log is: what comes again
is in the ranges and is skipped.

A partition has one owner at a time, but a worker may write after it has lost it: stopped in mid-write, or
an insert that was long under way. So every row's version says who wrote it: the number of the takeover, a
random mark, the number of the save. Rows of a former owner that came after the takeover are noticed, and the
state is made again from the log (`Overtaken`); a worker that sees a later owner's rows writes no more
(`Superseded`).
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from models.types import Bools, Ints
from stream.association import literal
from stream.clickhouse import EventLog
from stream.errors import Overtaken, Superseded
from stream.position import Ranges
from stream.projections.arrivals import ARRIVALS, SUMS

MOST_BUCKETS = 30_000
EPOCH, SAVES = 32, 24  # a version: 32 bits of takeover, 8 of mark, 24 of save; higher is newer
LOOK_EVERY = 2.0
FORM = 2  # of what is kept; where the log holds another one, it is made again from the rows
Key = tuple[str, str, int]

SCHEMA = pa.schema(
    [
        ("partition_id", pa.uint32()),
        ("deployment", pa.string()),
        ("baseline_id", pa.string()),
        ("minute", pa.timestamp("s", tz="UTC")),
        ("counts", pa.list_(pa.uint32())),
        ("position", pa.string()),
        ("version", pa.uint64()),
        ("sums", pa.list_(pa.int64())),
    ]
)


class DriftFold:
    """The drift counts and the position of one partition."""

    def __init__(self, partition: int, partitions: int, log: EventLog) -> None:
        """Go on from the position that the log holds; `lost` where it should hold one and does not."""
        self.partition, self._partitions, self._log = partition, partitions, log
        self._buckets: OrderedDict[Key, Ints] = OrderedDict()
        self._dirty: set[Key] = set()
        rows = log.rows(
            "SELECT position, version FROM drift_log FINAL WHERE partition_id = {p:UInt32} AND deployment = '' LIMIT 1", {"p": partition}
        )
        saved = saved_ranges(rows[0]["position"]) if rows else None
        self.lost = saved is None and (bool(rows) or self._has_progress())
        self.ranges = {source: Ranges(pairs) for source, pairs in (saved or {}).items()}
        self._taken = int(rows[0]["version"]) if rows else 0
        self._own((self._taken >> EPOCH) + 1)
        self._looked = time.monotonic()
        self.changed = False

    def _own(self, epoch: int) -> None:
        """Begin to write as the owner of this number."""
        self._owner = epoch << (EPOCH - SAVES) | secrets.randbelow(1 << (EPOCH - SAVES))
        self._saves = 0

    def check(self) -> None:
        """Overtaken where a former owner has written since the takeover; Superseded where a later one has."""
        sql = f"SELECT max(version) AS v FROM drift_log WHERE partition_id = {self.partition} AND version > {self._taken} AND bitShiftRight(version, {SAVES}) != {self._owner}"
        self._judge(int(self._log.rows(sql)[0]["v"]))
        self._looked = time.monotonic()

    def _judge(self, version: int) -> None:
        owner = version >> SAVES
        if owner > self._owner:
            raise Superseded(f"partition {self.partition} has another owner")
        if version > self._taken and owner != self._owner:
            raise Overtaken(self.partition)

    def _has_progress(self) -> bool:
        sql = "SELECT 1 FROM log_progress_log WHERE endsWith(source, {p:String}) AND position(source, '@') = 0 LIMIT 1"
        return bool(self._log.rows(sql, {"p": f"/{self.partition}"}))

    def restart(self, ranges: dict[str, Ranges], found: dict[Key, Ints]) -> None:
        """Begin anew from what was counted again; whatever the log still has of this partition is older."""
        sql = f"SELECT deployment, baseline_id, toUnixTimestamp(minute) AS at, length(counts) AS size, version FROM drift_log FINAL WHERE partition_id = {self.partition}"
        rows = self._log.rows(sql)
        self._taken = max([self._taken, *(int(row["version"]) for row in rows)])
        self._own(max(self._taken >> EPOCH, self._owner >> (EPOCH - SAVES)) + 1)
        self.ranges, self._buckets = ranges, OrderedDict(found)
        for row in rows:
            key = (row["deployment"], row["baseline_id"], row["at"] // 60)
            if row["deployment"] and key not in found:
                self._buckets[key] = np.zeros(row["size"] + SUMS, dtype=np.int64)
        self._dirty = set(self._buckets)
        self.changed, self.lost = True, False
        self.save()

    def replace(self, deployment: str, baseline: str, minute: int, counts: Ints) -> None:
        """Put a bucket in the place of what was counted."""
        key = (deployment, baseline, minute)
        self._buckets[key] = counts
        self._dirty.add(key)
        self.changed = True

    def unseen(self, sources: pa.Array, sequences: Ints) -> Bools:
        """Which rows are not in the state yet."""
        coded = sources.dictionary_encode()
        codes = coded.indices.to_numpy(zero_copy_only=False)
        out = np.ones(len(sequences), dtype=bool)
        for code, source in enumerate(coded.dictionary.to_pylist()):
            ranges = self.ranges.get(source)
            if ranges is not None:
                of_source = codes == code
                distinct, at = np.unique(sequences[of_source], return_inverse=True)
                out[of_source] = np.array([s not in ranges for s in distinct.tolist()], dtype=bool)[at]
        return out

    def add(self, deployment: str, baseline: str, minutes: Ints, counts: Ints) -> None:
        """Add counts (minutes, bins and sums) to their buckets; old ones are read back first."""
        self._load(deployment, baseline, minutes, counts.shape[1])
        for minute, row in zip(minutes.tolist(), counts, strict=True):
            key = (deployment, baseline, minute)
            self._buckets[key] = self._buckets[key] + row
            self._buckets.move_to_end(key)
            self._dirty.add(key)
        self.changed = True

    def _load(self, deployment: str, baseline: str, minutes: Ints, size: int) -> None:
        absent = [m for m in minutes.tolist() if (deployment, baseline, m) not in self._buckets]
        if not absent:
            return
        listed = ", ".join(str(m * 60) for m in absent)
        sql = (
            "SELECT toUnixTimestamp(minute) AS at, counts, sums, version FROM drift_log FINAL "
            f"WHERE partition_id = {self.partition} AND deployment = {literal(deployment)} "
            f"AND baseline_id = {literal(baseline)} AND minute IN ({listed})"
        )
        for row in self._log.rows(sql):
            self._judge(int(row["version"]))
            self._buckets[(deployment, baseline, row["at"] // 60)] = np.array(row["counts"] + [0] * (size - SUMS - len(row["counts"])) + row["sums"], dtype=np.int64)
        for minute in absent:
            self._buckets.setdefault((deployment, baseline, minute), np.zeros(size, dtype=np.int64))

    def mark(self, source: str, sequences: Ints) -> None:
        """Remember sequences as seen; of outside sources, whose marks come in order, only the greatest."""
        if not len(sequences):
            return
        ranges = self.ranges.setdefault(source, Ranges())
        if ":" in source:
            ranges.add(1, int(sequences.max()))
        else:
            ordered = np.unique(sequences)
            for run in np.split(ordered, np.nonzero(np.diff(ordered) != 1)[0] + 1):
                ranges.add(int(run[0]), int(run[-1]))
        self.changed = True

    def save(self) -> None:
        """Write the touched buckets and the position in one insert."""
        save_all([self], self._log)

    def unsaved(self) -> list[dict[str, Any]]:
        """The rows to write: the touched buckets and the position; none where nothing changed."""
        if not self.changed:
            return []
        if time.monotonic() - self._looked > LOOK_EVERY:
            self.check()
        self._saves += 1
        if self._saves >> SAVES:
            self._own((self._owner >> (EPOCH - SAVES)) + 1)
        version = self._owner << SAVES | self._saves
        position = orjson.dumps({"form": FORM, "ranges": {s: r.ranges for s, r in self.ranges.items()}}).decode()
        shared = {"partition_id": self.partition, "version": version}
        rows: list[dict[str, Any]] = []
        for deployment, baseline, minute in sorted(self._dirty):
            bucket = self._buckets[(deployment, baseline, minute)]
            counts = np.trim_zeros(bucket[:-SUMS], "b") if baseline == ARRIVALS else bucket[:-SUMS]
            rows.append({**shared, "deployment": deployment, "baseline_id": baseline, "minute": minute * 60, "counts": counts.tolist(), "position": "", "sums": bucket[-SUMS:].tolist()})
        rows.append({**shared, "deployment": "", "baseline_id": "", "minute": 0, "counts": [], "position": position, "sums": []})
        return rows

    def saved(self) -> None:
        """What `unsaved` gave is in the log."""
        self._dirty.clear()
        self.changed = False
        while len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)

    def progress(self) -> dict[str, int]:
        """What the log now holds of each source: without a gap for journals; of others, this place's share."""
        outside = f"@{self.partition}/{self._partitions}"
        return {(s + outside if ":" in s else s): (r.last if ":" in s else r.contiguous) for s, r in self.ranges.items()}


def save_all(folds: Iterable[DriftFold], log: EventLog) -> None:
    """Write what changed in some folds, in one insert and so in one part."""
    rows = {fold: found for fold in folds if (found := fold.unsaved())}
    if rows:
        log.insert("drift_log", pa.Table.from_pylist([row for found in rows.values() for row in found], schema=SCHEMA))
    for fold in rows:
        fold.saved()


def saved_ranges(text: str) -> dict[str, list[list[int]]] | None:
    """A stored position; None where it is damaged, or of another form than what is kept today."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found["ranges"] if isinstance(found, dict) and found.get("form") == FORM else None
