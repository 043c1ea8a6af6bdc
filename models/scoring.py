"""A trained model as it scores: look-ups to a base row, native members, weights and calibration."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.calibration import CLIP, calibrate, calibrate_one, softmax, two_of
from models.members import ExternalMember, Member
from models.metrics import decide
from models.schema import Schema
from models.types import Floats, TaskType


@dataclass(frozen=True)
class Part:
    """One member with its share in the blend and its calibration ([] for none)."""

    member: Member
    weight: float = 1.0
    calibration: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ScoringPlan:
    """Members of one schema, blended by weight, calibrated as a whole."""

    schema: Schema
    parts: tuple[Part, ...]
    calibration: list[float] = field(default_factory=list)

    def predict(self, base: Floats) -> Floats:
        """Probabilities (n, K), or values (n, 1), of a base matrix."""
        return self._blend([calibrate(part.member.predict(base), part.calibration) for part in self.parts])

    def predict_one(self, base: list[float]) -> Floats:
        """Probabilities (K,), or a value (1,), of one base row: the same bits as `predict`."""
        if len(self.schema.target.classes) == 2:  # noqa: PLR2004
            found = [calibrate_one(two_of(part.member.positive_one(base)), part.calibration) for part in self.parts]
            mixed = found[0] if len(found) == 1 else blend_one(found, [part.weight for part in self.parts])
            return np.array(calibrate_one(mixed, self.calibration))
        outputs = [calibrate(part.member.predict_one(base).reshape(1, -1), part.calibration) for part in self.parts]
        return np.asarray(self._blend(outputs)[0])

    @property
    def external(self) -> bool:
        """Whether the answers are made elsewhere, and `predict` has none."""
        return any(isinstance(part.member, ExternalMember) for part in self.parts)

    def _blend(self, outputs: list[Floats]) -> Floats:
        mixed = outputs[0] if len(outputs) == 1 else blend(outputs, [p.weight for p in self.parts], self.schema.target.task)
        return calibrate(mixed, self.calibration)

    def classes_of(self, output: Floats) -> list[str]:
        """The predicted class of each row (empty texts for regression)."""
        if self.schema.target.task == "regression":
            return [""] * len(output)
        names = self.schema.target.classes
        return [names[k] for k in decide(output).tolist()]


def blend_one(outputs: list[tuple[float, float]], weights: list[float]) -> tuple[float, float]:
    """`blend` for one row of two classes: the same operations on plain numbers, so the same bits."""
    sums = [0.0, 0.0]
    for number, (output, weight) in enumerate(zip(outputs, weights, strict=True)):
        for k, p in enumerate(output):
            log = float(np.log(min(max(p, CLIP), 1.0))) * weight
            sums[k] = sums[k] + log if number else log
    most = max(sums)
    first, second = float(np.exp(sums[0] - most)), float(np.exp(sums[1] - most))
    return first / (first + second), second / (first + second)


def blend(outputs: list[Floats], weights: list[float], task: TaskType) -> Floats:
    """The weighted mean of values, or of log probabilities (so two classes' log odds are averaged)."""
    if task == "regression":
        return sum((o * w for o, w in zip(outputs[1:], weights[1:], strict=True)), outputs[0] * weights[0])
    logs = [np.log(np.clip(o, CLIP, 1.0)) for o in outputs]
    return softmax(sum((o * w for o, w in zip(logs[1:], weights[1:], strict=True)), logs[0] * weights[0]))
