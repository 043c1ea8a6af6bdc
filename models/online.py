"""Models that learn in one recorded order.

`Learner` is a River model of an allow-list that learns from each outcome; the same rows in the same
order give the same bits.
"""

from __future__ import annotations

import hmac
import json
import pickle
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np

from models.errors import DataError
from models.schema import Schema, Target
from models.types import Floats

# Kind → its parameters with default and bounds; a learner has no others.
LEARNERS: dict[str, dict[str, tuple[float, float, float]]] = {
    "linear": {"learning_rate": (0.01, 1e-6, 1.0), "l2": (0.0, 0.0, 1.0)},
    "naive_bayes": {},
    "hoeffding_tree": {"grace_period": (200, 10, 100_000), "seed": (1, 0, 2**31 - 1)},
    "adaptive_random_forest": {"trees": (5, 1, 30), "grace_period": (50, 10, 100_000), "seed": (1, 0, 2**31 - 1)},
}
WHOLE = {"grace_period", "seed", "trees"}
UNSEEN = "(unseen)"
FEW = 256


def read_learner(kind: Any, parameters: Any, target: Target) -> dict[str, float]:
    """A learner's parameters with their defaults; DataError says what is wrong."""
    if kind not in LEARNERS:
        raise DataError("wrong_learner", f"an online model is one of {', '.join(LEARNERS)}, not {kind!r}")
    if kind == "naive_bayes" and target.task == "regression":
        raise DataError("wrong_learner", "naive_bayes is for classes")
    given = {} if parameters is None else parameters
    if not isinstance(given, dict) or (unknown := sorted(set(given) - set(LEARNERS[kind]))):
        raise DataError("wrong_learner", f"{kind} has the parameters {', '.join(LEARNERS[kind]) or 'none'}" + (f", not {unknown[0]!r}" if isinstance(given, dict) else ""))
    found = {}
    for name, (default, low, high) in LEARNERS[kind].items():
        value = given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise DataError("wrong_learner", f"{name} is a number from {low:g} to {high:g}")
        found[name] = int(value) if name in WHOLE else float(value)
    return found


def river_model(kind: str, parameters: dict[str, float], target: Target) -> Any:
    """The model itself."""
    from river import forest, linear_model, naive_bayes, optim, preprocessing, tree

    values = target.task == "regression"
    if kind == "linear":
        options: Any = {"optimizer": optim.SGD(parameters["learning_rate"]), "l2": parameters["l2"]}
        scale: Any = preprocessing.StandardScaler()
        if target.task == "multiclass":
            return scale | linear_model.SoftmaxRegression(**options)
        return scale | (linear_model.LinearRegression(**options) if values else linear_model.LogisticRegression(**options))
    if kind == "naive_bayes":
        bayes: Any = naive_bayes.GaussianNB
        return bayes()
    seed, grace = int(parameters["seed"]), int(parameters["grace_period"])
    if kind == "hoeffding_tree":
        return (tree.HoeffdingAdaptiveTreeRegressor if values else tree.HoeffdingAdaptiveTreeClassifier)(grace_period=grace, seed=seed)
    return (forest.ARFRegressor if values else forest.ARFClassifier)(n_models=int(parameters["trees"]), grace_period=grace, seed=seed)


def versions() -> dict[str, str]:
    """What a state's bytes depend on."""
    return {"river": version("river"), "numpy": np.__version__, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def seal(head: dict[str, Any], state: bytes, key: bytes) -> bytes:
    """Signature (32 bytes), length of the head (4), head as JSON, state; HMAC-SHA256 (RFC 2104) over all but itself."""
    told = json.dumps({**head, "versions": versions()}, sort_keys=True).encode()
    body = len(told).to_bytes(4, "big") + told + state
    return hmac.digest(key, body, "sha256") + body


def unseal(data: bytes, key: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Head and state; None where the signature is not by this key, or the versions are not these."""
    signature, body = data[:32], data[32:]
    if not key or len(body) < 4 or not hmac.compare_digest(signature, hmac.digest(key, body, "sha256")):  # noqa: PLR2004
        return None
    size = int.from_bytes(body[:4], "big")
    head = json.loads(body[4 : 4 + size])
    return (head, body[4 + size :]) if head.pop("versions") == versions() else None


class Learner:
    """A model that predicts and learns a row at a time."""

    def __init__(self, kind: str, parameters: dict[str, float], schema: Schema) -> None:
        """Born knowing nothing."""
        self._model = river_model(kind, parameters, schema.target)
        self.kind, self.parameters, self.schema = kind, parameters, schema
        self._texts = kind in {"hoeffding_tree", "adaptive_random_forest"} and schema.target.task != "regression"  # their leaves are linear
        self._plain = all(f.kind != "categorical" for f in schema.features)
        self.learnt = 0

    def rows(self, base: Floats) -> Iterator[dict[str, Any]]:
        """Base rows as River's dicts: missing inputs are left out, levels are texts or one-hot. Made a few at a time, while they are warm in the cache."""
        for at in range(0, len(base), FEW):
            yield from self._rows(base[at : at + FEW])

    def _rows(self, base: Floats) -> list[dict[str, Any]]:
        if self._plain and not np.isnan(base).any():
            names = self.schema.names
            return [dict(zip(names, values)) for values in base.tolist()]  # noqa: B905 - a matrix has as many columns as names
        found = []
        for values in base.tolist():
            row: dict[str, Any] = {}
            for feature, value in zip(self.schema.features, values, strict=True):
                if value != value:  # noqa: PLR0124 - NaN
                    continue
                if feature.kind != "categorical":
                    row[feature.name] = value
                    continue
                level = feature.levels[int(value)] if value < len(feature.levels) else UNSEEN
                if self._texts:
                    row[feature.name] = level
                else:
                    row[f"{feature.name}={level}"] = 1.0
            found.append(row)
        return found

    def predict(self, base: Floats) -> Floats:
        """Probabilities (n, K), or values (n, 1); before it has learnt, even odds or the training mean."""
        target, rows = self.schema.target, self.rows(base)
        if target.task == "regression":
            start = target.mean
            return np.array([[float(self._model.predict_one(row)) if self.learnt else start] for row in rows])
        names = target.classes
        out = np.empty((len(base), len(names)))
        for k, row in enumerate(rows):
            p = self._model.predict_proba_one(row) if self.learnt else {}
            found = np.array([float(p.get(self._label(name), 0.0)) for name in names])
            total = found.sum()
            out[k] = found / total if total > 0 else 1.0 / len(names)
        return out

    def learn(self, base: Floats, labels: list[Any]) -> None:
        """One row after the other; a label that is none of the classes is passed over, and counts."""
        target, learn_one = self.schema.target, self._model.learn_one
        if target.task == "regression":
            for row, label in zip(self.rows(base), labels, strict=True):
                self.learnt += 1
                if label is not None and np.isfinite(label):
                    learn_one(row, float(label))
            return
        known = {name: self._label(name) for name in target.classes}
        for row, label in zip(self.rows(base), labels, strict=True):
            self.learnt += 1
            if label in known:
                learn_one(row, known[label])

    def _label(self, label: str) -> Any:
        """What River calls a class: of two, whether it is the positive one."""
        return label == self.schema.target.classes[1] if self.schema.target.task == "binary" else label

    def sealed(self, key: bytes) -> bytes:
        """Its whole state, signed: whoever has the key reads it back bit for bit, nobody else's is ever read."""
        return seal({"kind": self.kind, "parameters": self.parameters, "learnt": self.learnt}, pickle.dumps(self._model), key)

    @classmethod
    def opened(cls, data: bytes, schema: Schema, key: bytes) -> Learner | None:
        """A learner of a sealed state; None where it is not ours, damaged, or another version's: then replay makes it again."""
        found = unseal(data, key)
        if found is None:
            return None
        head, state = found
        learner = cls(head["kind"], head["parameters"], schema)
        learner._model, learner.learnt = pickle.loads(state), head["learnt"]  # noqa: S301 - signed with our own key
        return learner

    @property
    def memory(self) -> int:
        """Bytes, as River counts them."""
        return int(self._model._raw_memory_usage)  # noqa: SLF001 - its public form is a text
