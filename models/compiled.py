"""What is done in C where a compiler was found when Champion was installed: plain rows read, the trees' look-ups.

Elsewhere Python and NumPy do the same, with the same bits, in two to five times the time (docs/decisions/0020-look-ups-in-c.md).
Here the look-ups of models/quickscorer.py are laid out for models/_quickscorer.c; models/_rows.c reads rows for models/schema.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.types import Floats

try:
    from models import _quickscorer, _rows

    score, read = _quickscorer.score, _rows.read
    BUILT = True
except ImportError:  # no compiler at install
    BUILT = False

LINE = 64  # bytes: a table's row holds as many trees as fill a cache line
LAYOUT = 1  # counts up when `Plan` changes: a library of an earlier build refuses
HEADER = 15  # integers, as in `Plan`


class CompiledLookUps:
    """Tables and leaves' values as one block of memory, scored in C."""

    def __init__(self, lookups: list[tuple[list[tuple[int, Floats, int]], Any]], values: Floats, word: Any, trees: int, outputs: int) -> None:
        """Lay out look-ups (features with their cuts and bins, and a table of words), and the values of each tree's leaves."""
        width = LINE // np.dtype(word).itemsize
        blocks = -(-trees // width)
        tables = [table for _, table in lookups] or [np.full((1, trees), np.iinfo(word).max, dtype=word)]
        starts = np.cumsum([0, *map(len, tables)])
        rows = np.zeros((starts[-1], blocks * width), dtype=word)
        rows[:, :trees] = np.concatenate(tables)
        parts, cuts = [], [np.zeros(0)]
        for number, (features, _) in enumerate(lookups):
            for column, found, bins in features:
                parts.append((column, number, bins, sum(map(len, cuts))))
                cuts.append(found)
        lines = np.ascontiguousarray(rows.reshape(len(rows), blocks, width).transpose(1, 0, 2))
        arrays = [lines, np.array(parts, dtype=np.int64), starts[:-1].astype(np.int64), np.concatenate(cuts), values]
        places = np.cumsum([HEADER * 8 + -HEADER * 8 % LINE, *(array.nbytes for array in arrays)]).tolist()
        size, at = places[-1], dict(zip(("table", "part", "start", "cut", "value"), places, strict=False))
        columns = max((column for column, *_ in parts), default=-1) + 1
        head = (LAYOUT, size, trees, outputs, values.size // trees, np.dtype(word).itemsize, columns, len(tables), len(parts), len(rows), *(at[name] for name in ("part", "start", "cut", "value", "table")))
        memory = np.zeros(size + LINE, dtype=np.uint8)
        aligned = -memory.ctypes.data % LINE
        self._plan = memory[aligned : aligned + size]
        self._plan[: HEADER * 8] = np.array(head, dtype=np.int64).view(np.uint8)
        for place, array in zip(places, arrays, strict=False):
            self._plan[place : place + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._outputs = outputs

    def sums(self, matrix: Floats, out: Floats | None = None) -> Floats:
        """Sums (n, outputs) of the leaves of a matrix of float64, whatever its strides; written to `out` where it is given."""
        if out is None:
            out = np.empty((len(matrix), self._outputs))
        score(self._plan, matrix, out)
        return out
