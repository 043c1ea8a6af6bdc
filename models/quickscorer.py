"""Small trees scored by look-ups and ANDs over many rows at once, bit for bit as LightGBM's C call.

The idea is QuickScorer's (Lucchese et al., SIGIR 2015): a node that sends a row to the right rules out
the leaves on its left; the row's leaf in a tree is the leftmost that no node rules out. A feature's
thresholds cut its values into bins, and within a bin all nodes of that feature answer alike, so the AND
of what they rule out is known beforehand: a table of (bins, trees) words a feature, a bit a leaf. Scoring
is a search for the bin, a row of the table, an AND for each feature. Features of few bins share a table
of all their bins' pairs. The leaves' values are summed in the order of the trees, as LightGBM sums them.
In C where it was built (models/compiled.py), else NumPy does each step for all rows at once: the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import compiled
from models.types import Floats

FEW = 12  # rows: below, NumPy's calls take longer than LightGBM's walk
WORD = 64
BLOCK = 256  # rows at a time: what they touch stays in the processor's cache
MOST_BYTES = 32 << 20
MOST_JOINT = 512  # bins of features that share a table: it stays in the cache, too
CATEGORICAL, DEFAULT_LEFT = 1, 2
MISSING_ZERO, MISSING_NAN = 1, 2
ZERO = float(np.float32(1e-35))  # LightGBM reads what is no larger as 0
EXPONENT: dict[Any, tuple[Any, Any, int, int]] = {np.uint32: (np.float32, np.int32, 23, 127), np.uint64: (np.float64, np.int64, 52, 1023)}


@dataclass(frozen=True)
class Node:
    """An inner node: which tree, what it asks, and the leaves on its left as bits."""

    tree: int
    feature: int
    kind: int
    threshold: float
    members: frozenset[int]
    left: int

    @property
    def nan_goes_right(self) -> bool:
        """Where a missing value goes: a missing number is 0 to trees that saw none."""
        if self.kind & CATEGORICAL:
            return True
        return not self.kind & DEFAULT_LEFT if self.kind >> 2 & 3 == MISSING_NAN else self.threshold < 0.0


class QuickScorer:
    """A LightGBM text whose trees have at most 64 leaves, as tables; `scorer_of` makes it."""

    def __init__(self, trees: list[dict[str, list[str]]], columns: int, outputs: int, *, averaged: bool) -> None:
        """Compile parsed trees, which `scorer_of` has found fit."""
        leaves = max(int(tree["num_leaves"][0]) for tree in trees)
        self._word: Any = np.uint32 if leaves <= WORD // 2 else np.uint64
        self._full = int(np.iinfo(self._word).max)
        self._outputs, self._rounds, self._averaged = outputs, len(trees) // outputs, averaged
        values = np.zeros((len(trees), leaves))
        nodes = [node for number, tree in enumerate(trees) for node in nodes_of(number, tree, values[number])]
        lookups = joint([(j, *self._table([n for n in nodes if n.feature == j], len(trees))) for j in range(columns) if any(n.feature == j for n in nodes)])
        self.bytes = sum(table.nbytes for _, table in lookups)
        self._trees = len(trees)
        self.fewest = 1 if compiled.BUILT else FEW
        self._compiled = compiled.CompiledLookUps(lookups, values.ravel(), self._word, len(trees), outputs) if compiled.BUILT else None
        if not self._compiled:
            self._lookups, self._values = lookups, values.ravel()
            _, whole, _, bias = EXPONENT[self._word]
            self._offsets = (np.arange(len(trees)) * leaves - bias).astype(whole)

    def _table(self, nodes: list[Node], trees: int) -> tuple[Floats, Any]:
        """A feature's cuts and, for each bin between them, the leaves of each tree that it leaves open.

        The bin of a value is the number of cuts below it. The last cut is infinity, so that the bin after
        it is what `searchsorted` finds for NaN. A categorical's bins are: below every code, each code
        (numbers are cut towards zero, as in C), above every code.
        """
        categorical = bool(nodes[0].kind & CATEGORICAL)
        if categorical:
            codes = range(max((max(n.members) for n in nodes if n.members), default=0) + 1)
            cuts = np.array([-1.0, *(np.nextafter(code + 1.0, 0.0) for code in codes)])
        else:
            cuts = np.unique([n.threshold for n in nodes])
        table = np.full((len(cuts) + 2, trees), self._full, dtype=self._word)
        for node in nodes:
            closed = self._word(self._full ^ node.left)
            if categorical:
                right = np.array([True, *(code not in node.members for code in codes), True])
                table[:-1, node.tree][right] &= closed
            else:
                table[np.searchsorted(cuts, node.threshold) + 1 : -1, node.tree] &= closed
            if node.nan_goes_right:
                table[-1, node.tree] &= closed
        return np.append(cuts, np.inf), table

    def many(self, matrix: Floats, out: Floats | None = None) -> Floats:
        """Scores (n, outputs) of a matrix of `fewest` rows or more, written to `out` where it is given and C has them."""
        sums = self._compiled.sums(matrix, out) if self._compiled else self._sums(matrix)
        if self._averaged:
            sums /= self._rounds
        return sums

    def _sums(self, matrix: Floats) -> Floats:
        out = np.empty((len(matrix), self._outputs))
        starts = list(range(0, len(matrix), BLOCK))
        if len(starts) > 1 and len(matrix) - starts[-1] == 1:
            starts[-1] -= 1  # never a block of one row: NumPy would sum it in another order
        for at in starts:
            out[at : at + BLOCK] = self._block(matrix[at : at + BLOCK])
        return out

    def _block(self, matrix: Floats) -> Floats:
        left = np.full((len(matrix), self._trees), self._full, dtype=self._word)
        for parts, table in self._lookups:
            place: Any = 0
            for j, cuts, bins in parts:
                place = place * bins + cuts.searchsorted(matrix[:, j])
            np.bitwise_and(left, table.take(place, axis=0), out=left)
        lowest = left & -left
        real, whole, shift, _ = EXPONENT[self._word]
        leaf = lowest.astype(real).view(whole)
        leaf >>= shift  # a power of two's exponent, and the bias that the offsets take away
        leaf += self._offsets
        values = self._values.take(leaf.T, mode="clip").reshape(self._rounds, self._outputs, len(matrix))
        return np.asarray(values.sum(axis=0).T)  # along the first axis NumPy adds plane by plane, in order


def joint(features: list[tuple[int, Floats, Any]]) -> list[tuple[list[tuple[int, Floats, int]], Any]]:
    """Look-ups out of features with their cuts and tables: the features of each with their cuts and bins, and the table of all their bins' combinations."""
    found: list[tuple[list[tuple[int, Floats, int]], Any]] = []
    for j, cuts, table in sorted(features, key=lambda feature: len(feature[2])):
        if found and len(found[-1][1]) * len(table) <= MOST_JOINT:
            parts, before = found[-1]
            found[-1] = ([*parts, (j, cuts, len(table))], (before[:, None] & table).reshape(-1, table.shape[1]))
        else:
            found.append(([(j, cuts, len(table))], table))
    return found


def nodes_of(number: int, tree: dict[str, list[str]], values: Floats) -> Iterator[Node]:
    """A tree's inner nodes; its leaves' values are written to `values` from left to right."""
    children = [list(map(int, tree[side])) for side in ("left_child", "right_child")]
    features, kinds = list(map(int, tree["split_feature"])), list(map(int, tree["decision_type"]))
    thresholds, leaves = list(map(float, tree["threshold"])), list(map(float, tree["leaf_value"]))
    found: list[Node] = []
    count = 0

    def walk(place: int) -> int:
        nonlocal count
        if place < 0:
            values[count] = leaves[~place]
            count += 1
            return 1 << (count - 1)
        left, right = walk(children[0][place]), walk(children[1][place])
        members = categories(tree, int(thresholds[place])) if kinds[place] & CATEGORICAL else frozenset()
        found.append(Node(number, features[place], kinds[place], around_zero(thresholds[place]), members, left))
        return left | right

    walk(0 if features else -1)
    yield from found


def around_zero(threshold: float) -> float:
    """The threshold that treats the numbers around 0 as LightGBM does, which reads them as 0."""
    if 0.0 <= threshold <= ZERO:
        return ZERO
    return float(np.nextafter(-ZERO, -np.inf)) if -ZERO <= threshold < 0.0 else threshold


def categories(tree: dict[str, list[str]], which: int) -> frozenset[int]:
    """The codes that go left at a tree's categorical split number `which`."""
    bounds = list(map(int, tree["cat_boundaries"]))
    words = list(map(int, tree["cat_threshold"]))[bounds[which] : bounds[which + 1]]
    return frozenset(32 * k + bit for k, word in enumerate(words) for bit in range(32) if word >> bit & 1)


def scorer_of(text: str, columns: int, outputs: int, *, averaged: bool) -> QuickScorer | None:
    """The text as tables; None where it does not fit them (large trees, linear leaves, zeros as missing)."""
    trees = [{k: v.split() for k, _, v in (line.partition("=") for line in part.splitlines()[1:])} for part in text.partition("\nend of trees")[0].split("\nTree=")[1:]]
    if not trees or any(int(t["num_leaves"][0]) > WORD or t.get("is_linear", ["0"]) != ["0"] for t in trees):
        return None
    if any(int(kind) >> 2 & 3 == MISSING_ZERO for t in trees for kind in t["decision_type"]):
        return None
    splits = sum(len(t["threshold"]) for t in trees)
    if splits * len(trees) * WORD // 8 > 4 * MOST_BYTES:  # no more bins than splits
        return None
    scorer = QuickScorer(trees, columns, outputs, averaged=averaged)
    return scorer if scorer.bytes <= MOST_BYTES else None
