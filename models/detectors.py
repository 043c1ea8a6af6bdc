"""What watches numbers in one recorded order and says when they have changed.

`ConceptDetector` is ADWIN (Bifet and Gavaldà 2007) on a champion's errors, primed with held-out ones in a
seeded order: without priming a jump is found thousands of rows late. It is always there. The others are asked for,
on the errors or on an input, and false alarms are theirs: on an undrifted stream Page-Hinkley gave 11 in 209,000 rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import DataError
from models.schema import Schema
from models.types import Floats

DELTA = 0.002
MOST_PRIMED = 5000
RECENT = 100
ERROR = "error"
NUMBERS = ("adwin", "page_hinkley", "kswin")
MISTAKES = ("ddm", "eddm", "hddm_a", "hddm_w")  # these read whether a prediction was right, and nothing else
MOST_DETECTORS = 20


@dataclass(frozen=True)
class Change:
    """Where an alarm rose: the index of the error that raised it, the means before and after, the window that is left."""

    index: int
    before: float
    after: float
    width: int

    @property
    def direction(self) -> str:
        """Whether the errors grew."""
        return "worse" if self.after > self.before else "better"


class ConceptDetector:
    """ADWIN on errors in [0, 1]; alarms while it is primed are discarded."""

    def __init__(self, priming: Floats) -> None:
        """Prime with held-out errors."""
        from river import drift

        kind: Any = drift.ADWIN
        self._adwin = kind(delta=DELTA)
        for value in priming.tolist():
            self._adwin.update(value)
        self.seen = 0

    @property
    def width(self) -> int:
        """How many errors its window holds."""
        return int(self._adwin.width)

    def update(self, errors: Floats) -> list[Change]:
        """Feed errors in their order; answers the alarms."""
        found = []
        for value in errors.tolist():
            before = self._adwin.estimation
            self._adwin.update(value)
            if self._adwin.drift_detected:
                found.append(Change(self.seen, float(before), float(self._adwin.estimation), int(self._adwin.width)))
            self.seen += 1
        return found


def errors_of(task: str, y: Any, chosen: Any, values: Any, scale: float) -> Floats:
    """0 or 1 for classes; |error| as a share of the target's training range, at most 1, for values."""
    if task != "regression":
        return np.asarray(np.asarray(y) != np.asarray(chosen), dtype=np.float64)
    return np.asarray(np.clip(np.abs(np.asarray(y, dtype=np.float64) - np.asarray(values, dtype=np.float64)) / max(scale, 1e-12), 0.0, 1.0))


def priming_of(errors: Floats) -> dict[str, Any]:
    """Held-out errors as a package keeps them: how many, and their quantiles."""
    known = errors[np.isfinite(errors)]
    return {"rows": len(known), "quantiles": np.quantile(known, np.linspace(0, 1, 201)).tolist() if len(known) else [], "mean": float(known.mean()) if len(known) else None}


def priming_errors(metadata: dict[str, Any], task: str) -> Floats:
    """Held-out errors in a seeded order; of a package made by an older version as many as its holdout accuracy says."""
    kept = metadata.get("priming") or {}
    rng = np.random.default_rng(20261123)
    rows = min(int(kept.get("rows", 1000)), MOST_PRIMED)
    mean = kept.get("mean", 1 - metadata.get("metrics", {}).get("accuracy", 0.5) if task != "regression" else None)
    if mean is None:
        return np.zeros(0)
    if task != "regression":
        errors = np.zeros(rows)
        errors[: round(rows * mean)] = 1.0
        return rng.permutation(errors)
    return np.asarray(np.interp(rng.random(rows), np.linspace(0, 1, 201), kept["quantiles"]))


def primed(metadata: dict[str, Any], task: str) -> ConceptDetector:
    """A detector for a package."""
    return ConceptDetector(priming_errors(metadata, task))


def read_detectors(data: Any, schema: Schema) -> list[dict[str, str]]:
    """What is asked for: a list of {"kind", "on"?}, on the error or a numeric input; DataError says what is wrong."""
    if not isinstance(data, list) or len(data) > MOST_DETECTORS or not all(isinstance(one, dict) and not set(one) - {"kind", "on"} for one in data):
        raise DataError("wrong_detector", f'detectors is a list of at most {MOST_DETECTORS} {{"kind", "on"?}}')
    numeric = {f.name for f in schema.features if f.kind != "categorical"}
    found = []
    for one in data:
        kind, on = one.get("kind"), one.get("on", ERROR)
        if kind not in (*NUMBERS, *MISTAKES):
            raise DataError("wrong_detector", f"a detector is one of {', '.join((*NUMBERS, *MISTAKES))}, not {kind!r}")
        if on != ERROR and on not in numeric:
            raise DataError("wrong_detector", f"a detector is on the error or on a numeric input, not on {on!r}")
        if kind in MISTAKES and (on != ERROR or schema.target.task == "regression"):
            raise DataError("wrong_detector", f"{kind} reads whether a class was right: it is on the error of a classification")
        if {"kind": kind, "on": on} not in found:
            found.append({"kind": str(kind), "on": str(on)})
    return found


class OtherDetector:
    """A detector that was asked for; its alarms carry the mean since the alarm before, and that of the last hundred."""

    def __init__(self, kind: str, priming: Floats) -> None:
        """One of NUMBERS or MISTAKES, primed with errors where it watches them."""
        from river import drift

        adwin: Any = drift.ADWIN
        makers: dict[str, Any] = {
            "adwin": lambda: adwin(delta=DELTA),
            "page_hinkley": drift.PageHinkley,
            "kswin": lambda: drift.KSWIN(seed=20261123),
            "ddm": drift.binary.DDM,
            "eddm": drift.binary.EDDM,
            "hddm_a": drift.binary.HDDMA,
            "hddm_w": drift.binary.HDDMW,
        }
        self._detector = makers[kind]()
        self._mistakes = kind in MISTAKES
        for value in priming.tolist():
            self._detector.update(bool(value) if self._mistakes else value)
        self.seen, self._since = 0, list(priming.tolist())

    def update(self, values: Floats) -> list[Change]:
        """Feed values in their order; answers the alarms."""
        found = []
        for value in values.tolist():
            self._detector.update(bool(value) if self._mistakes else value)
            self._since.append(value)
            if self._detector.drift_detected:
                last = self._since[-RECENT:]
                before = self._since[: -len(last)] or last
                found.append(Change(self.seen, float(np.mean(before)), float(np.mean(last)), len(last)))
                self._since = last
            self.seen += 1
        del self._since[: max(0, len(self._since) - MOST_PRIMED)]
        return found
