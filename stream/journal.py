"""The journal: what a gateway has answered, on disk before the answer leaves.

A journal is a folder `<data>/journal/<uuid>/` of append-only segments, locked by the process that
writes it. Each record is its length, its CRC-32 and a JSON object with its target partition and a
sequence without gaps; numbers that came as arrays lie behind the object as they are. Segments are unlinked when the log has confirmed all that they hold. A new
process makes a new journal; the unlocked ones with content that are found are adopted: published
under their own name until they are confirmed. Whoever publishes reads behind the writer (`Reader`).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from stream.errors import JournalFull

HEAD = struct.Struct("<II")
ARRAYS, MARK = struct.Struct("<BI"), 1  # before a record with arrays; the bytes of its JSON
SEGMENT = 32 << 20
CHUNK = 1 << 20
Record = dict[str, Any]


class Journal:
    """The journal this process writes: sequences per partition, records, segments."""

    def __init__(self, root: Path, *, most: int, fsync: bool = False, segment: int = SEGMENT) -> None:
        """Make a journal of at most `most` bytes under `root` and lock it."""
        self.id = uuid.uuid4().hex[:16]
        self.folder = root / self.id
        self.folder.mkdir(parents=True)
        self.lock = locked(self.folder)
        self._most, self._fsync, self._segment_size = most, fsync, segment
        self._sequences: dict[int, int] = {}
        self._segments: list[tuple[Path, int, dict[int, int]]] = []
        self._file = -1
        self._path = self.folder
        self._written = 0
        self._highest: dict[int, int] = {}
        self._last_us = 0
        self.bytes = 0
        self.failures = 0
        self._open()

    def append(self, partition: int, record: Record, now: int) -> int:
        """Write a record, its sequence ("s"), partition ("p") and time ("t") filled in.

        Raises JournalFull where the disk or the bound does not allow it; nothing is kept then.
        """
        sequence = self._sequences.get(partition, 0) + 1
        self._last_us = max(self._last_us + 1, now)
        record["s"], record["p"], record["t"] = sequence, partition, self._last_us
        body = written(record)
        self._write(HEAD.pack(len(body), zlib.crc32(body)) + body)
        self._sequences[partition] = sequence
        self._highest[partition] = sequence
        return sequence

    def _write(self, data: bytes) -> None:
        if self.bytes + len(data) > self._most:
            self.failures += 1
            raise JournalFull(f"the journal holds {self.bytes} bytes, its bound")
        try:
            if self._file < 0 or self._written + len(data) > self._segment_size:
                self._rotate()
            done = os.write(self._file, data)
            if done < len(data):
                os.ftruncate(self._file, self._written)
                raise OSError(28, "no space left for the whole record")
            if self._fsync:
                os.fdatasync(self._file)
        except OSError as error:
            self.failures += 1
            self._abandon()
            raise JournalFull(f"the journal's disk refuses: {error}") from error
        self._written += len(data)
        self.bytes += len(data)

    def _abandon(self) -> None:
        """Cut a record that was written in part, so that what follows can be read."""
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.ftruncate(self._file, self._written)
                os.lseek(self._file, self._written, os.SEEK_SET)

    def _open(self) -> None:
        number = int(self._path.stem) + 1 if self._path.suffix == ".seg" else 1
        path = self.folder / f"{number:08d}.seg"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._path, self._written, self._highest = path, 0, {}

    def _rotate(self) -> None:
        old, entry = self._file, (self._path, self._written, self._highest)
        self._open()
        if old >= 0:
            os.close(old)
            self._segments.append(entry)

    def trim(self, confirmed: dict[int, int]) -> None:
        """Unlink the closed segments whose records the log has confirmed, by partition."""
        for path in self.released(confirmed):
            path.unlink(missing_ok=True)

    def released(self, confirmed: dict[int, int]) -> list[Path]:
        """Let go of those segments; whoever asked unlinks them, which takes the time of many requests."""
        done = all(sequence <= confirmed.get(p, 0) for p, sequence in self._sequences.items())
        if done and self._written:
            with contextlib.suppress(OSError):
                self._rotate()
        kept, gone = [], []
        for path, size, highest in self._segments:
            if all(sequence <= confirmed.get(p, 0) for p, sequence in highest.items()):
                gone.append(path)
                self.bytes -= size
            else:
                kept.append((path, size, highest))
        self._segments = kept
        return gone

    @property
    def sequences(self) -> dict[int, int]:
        """The last sequence of each partition."""
        return dict(self._sequences)

    def close(self) -> None:
        """Close; an empty journal is removed."""
        os.close(self._file)
        if self.bytes == 0:
            remove(self.folder)
        os.close(self.lock)


def locked(folder: Path) -> int:
    """Lock a new journal; its lock is there only once it is held, so nobody takes it for an orphan's."""
    fresh = folder / "lock.new"
    handle = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fresh.rename(folder / "lock")
    return handle


def lock(folder: Path) -> int:
    """Take the lock of a journal that is there; BlockingIOError while another process has it."""
    handle = os.open(folder / "lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


def remove(folder: Path) -> None:
    """Delete a journal's folder."""
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()


class Reader:
    """Reads a journal in order, also while it is written: at its end it goes on when more is there.

    It keeps segments open until they are unlinked: whoever closes such a file last spends the time that it takes to free it (32 MiB: 4.5 ms), and
    that shall not be the gateway, on whose core it is the time of many requests.
    """

    def __init__(self, folder: Path) -> None:
        """Begin at the beginning."""
        self.folder = folder
        self._path: Path | None = None
        self._at = 0
        self._open: dict[Path, int] = {}

    def close(self, *, unlinked: bool = False) -> None:
        """Close all segments, or those that are unlinked."""
        for path, handle in list(self._open.items()):
            if not unlinked or (path != self._path and not os.fstat(handle).st_nlink):
                os.close(self._open.pop(path))

    def rewind(self) -> None:
        """Begin again at what is left."""
        self._path, self._at = None, 0

    def take(self, most: int = CHUNK) -> list[Record]:
        """The next whole records, about `most` bytes of them; none where no more are there. A torn record is waited for.

        A segment is left only when a later one was there before it was read to its end: the writer has left it too.
        """
        self.close(unlinked=True)
        while True:
            later = [path for path in sorted(self.folder.glob("*.seg")) if self._path is None or path.name > self._path.name]
            found = self._whole(self._path, most) if self._path is not None else []
            if found or not later:
                return found
            self._path, self._at = later[0], 0

    def _whole(self, path: Path, most: int) -> list[Record]:
        if path not in self._open:
            try:
                self._open[path] = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # trimmed meanwhile
                return []
        handle = self._open[path]
        data = os.pread(handle, most, self._at)
        if len(data) >= HEAD.size and (whole := HEAD.size + HEAD.unpack_from(data)[0]) > most:
            data = os.pread(handle, whole, self._at)
        records, at = [], 0
        while at + HEAD.size <= len(data):
            length, crc = HEAD.unpack_from(data, at)
            body = memoryview(data)[at + HEAD.size : at + HEAD.size + length]
            if len(body) < length or zlib.crc32(body) != crc:
                break
            at += HEAD.size + length
            records.append(decoded(body))
        self._at += at
        return records


def written(record: Record) -> bytes:
    """A record's bytes; those that say "cols" mostly have arrays, others seldom."""
    if "cols" in record:
        return with_arrays(record)
    try:
        return orjson.dumps(record)
    except TypeError:
        return with_arrays(record)


def with_arrays(record: Record) -> bytes:
    """A record's bytes; the arrays of float64 in it and in its columns follow its JSON, which names their places and shapes."""
    arrays: list[Any] = []
    places: list[list[Any]] = []
    for inside, holder in ((False, record), (True, record.get("cols", {}))):
        for name, value in holder.items():
            if isinstance(value, np.ndarray):
                holder[name] = None
                arrays.append(value)
                places.append([inside, name, *value.shape])
    if not arrays:
        return orjson.dumps(record)
    record["arrays"] = places
    head = orjson.dumps(record)
    return b"".join([ARRAYS.pack(MARK, len(head)), head, *arrays])


def decoded(body: memoryview) -> Record:
    """A record out of its bytes: arrays as lists, NaN as None; the matrix "x" as the columns "names"."""
    arrays = body[0] == MARK
    at = ARRAYS.size + ARRAYS.unpack_from(body)[1] if arrays else len(body)
    record: Record = orjson.loads(body[ARRAYS.size : at] if arrays else body)
    for inside, name, *shape in record.pop("arrays") if arrays else ():
        end = at + 8 * math.prod(shape)
        values = np.frombuffer(body[at:end]).reshape(shape)
        if name == "x":
            record.pop("x")
            record["cols"] |= {column: none_for_nan(of) for column, of in zip(record.pop("names"), values.T, strict=True)}
            at = end
            continue
        holder, at = record["cols"] if inside else record, end
        holder[name] = none_for_nan(values)
    return record


def none_for_nan(values: Any) -> list[Any]:
    """An array as lists, None for what is missing."""
    if (absent := np.isnan(values)).any():
        values = values.astype(object)
        values[absent] = None
    plain: list[Any] = values.tolist()
    return plain


def read(folder: Path, after: dict[int, int]) -> Iterator[Record]:
    """A journal's whole records above the given sequences, in order; a torn end is left out."""
    with contextlib.closing(Reader(folder)) as reader:
        while records := reader.take():
            yield from (record for record in records if record["s"] > after.get(record["p"], 0))


def trim_folder(folder: Path, after: dict[int, int]) -> bool:
    """Delete another process's journal if all that it holds is confirmed; answers whether it is gone."""
    if next(read(folder, after), None) is not None:
        return False
    remove(folder)
    return True


def orphans(root: Path) -> Iterator[tuple[Path, int]]:
    """Unlocked journals with content, locked now; empty ones are removed."""
    for folder in sorted(root.glob("*")) if root.exists() else []:
        try:
            handle = lock(folder)
        except (BlockingIOError, NotADirectoryError, FileNotFoundError):
            continue
        if any(path.stat().st_size for path in folder.glob("*.seg")):
            yield folder, handle
        else:
            remove(folder)
            os.close(handle)
