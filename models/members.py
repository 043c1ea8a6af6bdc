"""A trained estimator as data: how base values become its inputs, and its native form.

Two forms serve every family: *trees* (LightGBM text) and *dense* (arrays: linear models and neural
networks). Both answer (n, outputs): class probabilities, or one column of values.
"""

from __future__ import annotations

import bisect
import io
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from models.calibration import sigmoid, softmax, two_columns
from models.errors import PackageError, ScoredElsewhere
from models.native import TreePredictor
from models.online import Learner
from models.schema import Schema, schema_from_json
from models.types import Floats

CLIP = 10.0
INNER = "inner-"
EXTERNAL = "external"
Link = str  # "identity" | "sigmoid" | "softmax" | "positive" (a probability of class 1) | "shares"


class Member(Protocol):
    """One native model inside a package."""

    def predict(self, base: Floats) -> Floats:
        """Outputs (n, K) from a base matrix."""
        ...

    def predict_one(self, base: list[float]) -> Floats:
        """Outputs (K,) from one base row."""
        ...

    def positive_one(self, base: list[float]) -> float:
        """The positive class's probability of one base row, for two classes."""
        ...

    def files(self) -> dict[str, bytes]:
        """What `load_member` reads, by file name."""
        ...


def linked(raw: Floats, link: Link) -> Floats:
    """Raw scores (n, outputs) as probabilities or values."""
    if link == "sigmoid":
        return two_columns(sigmoid(raw[:, 0]))
    if link == "softmax":
        return softmax(raw)
    if link == "positive":
        return two_columns(raw[:, 0])
    return raw


def positive_of(raw: float, link: Link) -> float:
    """`linked` for one row of two classes: the same operations on a plain number."""
    return 1.0 / (1.0 + float(np.exp(-raw))) if link == "sigmoid" else raw


@dataclass
class TreesMember:
    """Trees in LightGBM's text; `tables` replace a category's code by the number trees split on."""

    text: str
    link: Link
    tables: list[list[float] | None]
    averaged: bool = False
    single: bool = False
    fill: list[float] | None = None
    _native: TreePredictor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Load the text once."""
        self._native = TreePredictor(self.text, len(self.tables), averaged=self.averaged)
        self._arrays = [None if t is None else np.array(t) for t in self.tables]
        self._lookups = [(j, t) for j, t in enumerate(self.tables) if t is not None]
        self._row = np.zeros(len(self.tables), dtype=np.float32)

    def inputs(self, base: Floats) -> Floats:
        """The matrix the trees see."""
        return tree_inputs(base, self._arrays, self.fill, single=self.single)

    def predict(self, base: Floats) -> Floats:
        """Outputs (n, K)."""
        return linked(self._native.many(self.inputs(base)), self.link)

    def predict_one(self, base: list[float]) -> Floats:
        """Outputs (K,) of one row."""
        return np.asarray(linked(self._raw_one(base).reshape(1, -1).copy(), self.link)[0])

    def positive_one(self, base: list[float]) -> float:
        """The positive class's probability of one row."""
        return positive_of(float(self._raw_one(base)[0]), self.link)

    def _raw_one(self, base: list[float]) -> Floats:
        """The trees' scores of one row; the array is reused."""
        row: Any = base.copy()
        for j, table in self._lookups:
            code = row[j]
            row[j] = table[int(code)] if code == code else table[-1]  # noqa: PLR0124 - NaN
        if self.fill is not None:
            row = [f if v != v else v for v, f in zip(row, self.fill, strict=True)]  # noqa: PLR0124 - NaN
        if self.single:
            self._row[:] = row
            row = self._row.tolist()
        return self._native.one(row)

    def files(self) -> dict[str, bytes]:
        """The text and how to feed it."""
        plan = {
            "form": "trees",
            "link": self.link,
            "tables": [None if t is None else [None if v != v else v for v in t] for t in self.tables],  # noqa: PLR0124
            "averaged": self.averaged,
            "single": self.single,
            "fill": self.fill,
        }
        return {"plan.json": json.dumps(plan).encode(), "trees.txt": self.text.encode()}


def tree_inputs(base: Floats, tables: list[Any], fill: list[float] | None, *, single: bool) -> Floats:
    """Base values with categories looked up, missing filled, rounded to float32 for forests."""
    out = base.copy(order="F")  # the trees' tables look at one column after the other
    for j, table in enumerate(tables):
        if table is not None:
            out[:, j] = table.take(np.fmin(base[:, j], len(table) - 1).astype(np.int64))  # the last place is for what is missing
    if fill is not None:
        out = np.where(np.isnan(out), np.array(fill), out)
    return out.astype(np.float32).astype(np.float64) if single else out


@dataclass
class DenseMember:
    """First a sum of look-ups and scaled numbers, then dense layers with ReLU between them.

    `pieces[k]` tells how one base column enters: as an index of rows of `tables[k]` (by "index" for
    levels, by "edges" for numbers), or scaled, times row 0, with row 1 for missing. All sums run in
    a fixed order, so one row and a batch agree bit for bit.
    """

    link: Link
    pieces: list[dict[str, Any]]
    tables: list[Floats]
    bias: Floats
    layers: list[tuple[Floats, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """One sum a row is made of plain numbers: arrays of one are five times as slow."""
        self._numbers = [table[:, 0].tolist() for table in self.tables] if len(self.bias) == 1 else None

    def first(self, base: Floats) -> Floats:
        """The first layer's sums (n, H)."""
        h = np.broadcast_to(self.bias, (len(base), len(self.bias))).copy()
        for piece, table in zip(self.pieces, self.tables, strict=True):
            values = base[:, piece["column"]]
            if piece["kind"] == "index":
                h += table[index_of(piece, values)]
            else:
                z, missing = scaled(piece, values)
                h += np.where(missing[:, None] > 0, table[1], z[:, None] * table[0])
        return np.asarray(h)

    def first_one(self, base: list[float]) -> Floats:
        """The first layer's sums (1, H) of one row, in the order of `first`."""
        tables: Any = self.tables if self._numbers is None else self._numbers
        h = self.bias.copy() if self._numbers is None else float(self.bias[0])
        for piece, table in zip(self.pieces, tables, strict=True):
            value = base[piece["column"]]
            if value != value:  # noqa: PLR0124 - NaN
                h += table[-1]
            elif piece["kind"] == "number":
                h += min(max((value - piece["center"]) / piece["scale"], -CLIP), CLIP) * table[0]
            elif piece["edges"] is not None:
                h += table[bisect.bisect_right(piece["edges"], value)]
            else:
                h += table[piece["index"][int(value)]]
        return np.reshape(h, (1, -1))

    def _raw(self, h: Floats) -> Floats:
        for weights, bias in self.layers:
            h = fixed_product(np.maximum(h, 0.0), weights) + bias
        return h

    def predict(self, base: Floats) -> Floats:
        """Outputs (n, K)."""
        return linked(self._raw(self.first(base)), self.link)

    def predict_one(self, base: list[float]) -> Floats:
        """Outputs (K,) of one row."""
        return np.asarray(linked(self._raw(self.first_one(base)), self.link)[0])

    def positive_one(self, base: list[float]) -> float:
        """The positive class's probability of one row."""
        return positive_of(float(self._raw(self.first_one(base))[0, 0]), self.link)

    def files(self) -> dict[str, bytes]:
        """Arrays and plan."""
        arrays: dict[str, Any] = {"bias": self.bias}
        arrays |= {f"table{j}": table for j, table in enumerate(self.tables)}
        for k, (weights, bias) in enumerate(self.layers):
            arrays |= {f"weights{k}": weights, f"bias{k}": bias}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        plan = {"form": "dense", "link": self.link, "pieces": self.pieces, "layers": len(self.layers)}
        return {"plan.json": json.dumps(plan).encode(), "arrays.npz": buffer.getvalue()}


@dataclass
class SubsetMember:
    """A member that was trained on some of the classes; the others have probability 0."""

    member: Member
    present: list[int]
    classes: int

    def predict(self, base: Floats) -> Floats:
        """Outputs (n, K)."""
        out = np.zeros((len(base), self.classes))
        out[:, self.present] = self.member.predict(base)
        return out

    def predict_one(self, base: list[float]) -> Floats:
        """Outputs (K,) of one row."""
        out = np.zeros(self.classes)
        out[self.present] = self.member.predict_one(base)
        return out

    def positive_one(self, base: list[float]) -> float:
        """The second class's probability; of two classes none can be absent, so nobody asks."""
        return float(self.predict_one(base)[1])

    def files(self) -> dict[str, bytes]:
        """The member's files under names of their own."""
        plan = {"form": "subset", "present": self.present, "classes": self.classes}
        return {"plan.json": json.dumps(plan).encode(), **{INNER + name: data for name, data in self.member.files().items()}}


@dataclass
class OnlineMember:
    """An online model as it was when it was frozen: its signed state (`models.online`), read with the installation's key."""

    schema: Schema
    state: bytes
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Open the state; PackageError where it is not ours."""
        learner = Learner.opened(self.state, self.schema, self.key)
        if learner is None:
            raise PackageError("unreadable_state", "this package holds an online model that was signed with another key, or made by other versions of River: freeze it again")
        self._learner = learner

    def predict(self, base: Floats) -> Floats:
        """Outputs (n, K)."""
        return self._learner.predict(base)

    def predict_one(self, base: list[float]) -> Floats:
        """Outputs (K,) of one row."""
        return np.asarray(self._learner.predict(np.array([base]))[0])

    def positive_one(self, base: list[float]) -> float:
        """The positive class's probability of one row."""
        return float(self.predict_one(base)[1])

    def files(self) -> dict[str, bytes]:
        """The state and the schema that it reads rows by."""
        return {"plan.json": json.dumps({"form": "online", "schema": self.schema.to_json()}).encode(), "state.bin": self.state}


@dataclass(frozen=True)
class ExternalMember:
    """Stands for a model that is not here: it has no answer of its own."""

    name: str

    def predict(self, base: Floats) -> Floats:
        """ScoredElsewhere."""
        del base
        raise ScoredElsewhere(f"{self.name} predicts elsewhere: hand in what it said (POST …/predictions/external)")

    def predict_one(self, base: list[float]) -> Floats:
        """ScoredElsewhere."""
        return self.predict(np.array([base]))

    def positive_one(self, base: list[float]) -> float:
        """ScoredElsewhere."""
        return float(self.predict(np.array([base]))[0, 1])

    def files(self) -> dict[str, bytes]:
        """Its name."""
        return {"plan.json": json.dumps({"form": EXTERNAL, "name": self.name}).encode()}


def fixed_product(a: Floats, b: Floats) -> Floats:
    """A matrix product whose sums run in one order, whatever the number of rows."""
    if len(a) == 1:
        return np.asarray(np.cumsum(a.T * b, axis=0)[-1:])
    out = np.zeros((len(a), b.shape[1]))
    for j in range(b.shape[0]):
        out += a[:, j : j + 1] * b[j]
    return out


def scaled(piece: dict[str, Any], values: Floats) -> tuple[Floats, Floats]:
    """A number column standardised and clipped (0 where missing), and 1 where missing."""
    z = (values - piece["center"]) / piece["scale"]
    missing = np.isnan(z)
    return np.where(missing, 0.0, np.clip(z, -CLIP, CLIP)), missing.astype(np.float64)


def index_of(piece: dict[str, Any], values: Floats) -> Any:
    """Which row of its table each base value takes; the last one is for missing."""
    missing = np.isnan(values)
    if piece["edges"] is not None:
        places = np.searchsorted(np.array(piece["edges"]), values, side="right")
        return np.where(missing, len(piece["edges"]) + 1, places)
    index = np.array(piece["index"], dtype=np.int64)
    return index[np.where(missing, len(index) - 1, values).astype(np.int64)]


def load_member(files: dict[str, bytes], key: bytes = b"") -> Member:
    """Read what `files` wrote; nothing is unpickled but a state that was signed with this installation's key."""
    plan = json.loads(files["plan.json"])
    form = plan.pop("form")
    if form == "subset":
        return SubsetMember(load_member({n.removeprefix(INNER): data for n, data in files.items() if n.startswith(INNER)}), **plan)
    if form == EXTERNAL:
        return ExternalMember(**plan)
    if form == "online":
        return OnlineMember(schema_from_json(plan["schema"]), files["state.bin"], key)
    if form == "trees":
        tables = [None if t is None else [float("nan") if v is None else v for v in t] for t in plan.pop("tables")]
        return TreesMember(text=files["trees.txt"].decode(), tables=tables, **plan)
    with np.load(io.BytesIO(files["arrays.npz"]), allow_pickle=False) as arrays:
        rows = [arrays[f"table{j}"] for j in range(len(plan["pieces"]))]
        layers = [(arrays[f"weights{k}"], arrays[f"bias{k}"]) for k in range(plan["layers"])]
        return DenseMember(plan["link"], plan["pieces"], rows, arrays["bias"], layers)
