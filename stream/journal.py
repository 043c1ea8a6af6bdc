"""The journal: what a gateway has answered, on disk before the answer leaves.

A journal is a folder `<data>/journal/<uuid>/` of append-only segments, locked by the process that
writes it. Each record is its length, its CRC-32 and a JSON object with its target partition and a
sequence without gaps. Segments are unlinked when the log has confirmed all that they hold. A new
process makes a new journal; the unlocked ones with content that it finds are adopted: published
under their own name until they are confirmed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from stream.errors import JournalFull

HEAD = struct.Struct("<II")
SEGMENT = 32 << 20
Record = dict[str, Any]


class Journal:
    """The journal this process writes: sequences per partition, records, segments."""

    def __init__(self, root: Path, *, most: int, fsync: bool = False, segment: int = SEGMENT) -> None:
        """Make a journal of at most `most` bytes under `root` and lock it."""
        self.id = uuid.uuid4().hex[:16]
        self.folder = root / self.id
        self.folder.mkdir(parents=True)
        self._lock = lock(self.folder)
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
        body = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
        self._write(HEAD.pack(len(body), zlib.crc32(body)) + body)
        self._sequences[partition] = sequence
        self._highest[partition] = sequence
        record["z"] = len(body)
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
        done = all(sequence <= confirmed.get(p, 0) for p, sequence in self._sequences.items())
        if done and self._written:
            with contextlib.suppress(OSError):
                self._rotate()
        kept = []
        for path, size, highest in self._segments:
            if all(sequence <= confirmed.get(p, 0) for p, sequence in highest.items()):
                path.unlink(missing_ok=True)
                self.bytes -= size
            else:
                kept.append((path, size, highest))
        self._segments = kept

    @property
    def sequences(self) -> dict[int, int]:
        """The last sequence of each partition."""
        return dict(self._sequences)

    def close(self) -> None:
        """Close; an empty journal is removed."""
        os.close(self._file)
        if self.bytes == 0:
            remove(self.folder)
        os.close(self._lock)


def lock(folder: Path) -> int:
    """Take a journal's lock; BlockingIOError while another process has it."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
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


def read(folder: Path, after: dict[int, int]) -> Iterator[Record]:
    """A journal's whole records above the given sequences, in order; a torn end is left out."""
    for path in sorted(folder.glob("*.seg")):
        for record in read_segment(path):
            if record["s"] > after.get(record["p"], 0):
                yield record


def read_segment(path: Path) -> Iterator[Record]:
    """A segment's whole records."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # trimmed meanwhile
        return
    at = 0
    while at + HEAD.size <= len(data):
        length, crc = HEAD.unpack_from(data, at)
        body = data[at + HEAD.size : at + HEAD.size + length]
        if len(body) < length or zlib.crc32(body) != crc:
            break
        at += HEAD.size + length
        yield {**orjson.loads(body), "z": length}


def trim_folder(folder: Path, after: dict[int, int]) -> bool:
    """Unlink another process's segments that are confirmed whole; answers whether all are gone."""
    for path in sorted(folder.glob("*.seg")):
        if any(record["s"] > after.get(record["p"], 0) for record in read_segment(path)):
            return False
        path.unlink(missing_ok=True)
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
