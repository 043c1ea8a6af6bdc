"""What reads cohorts in one recorded order: detectors on the champion's errors, and on inputs where that is asked for; intervals that follow the outcomes.

That a cohort matured is an event with the position of the log up to which rows counted; later ones move metrics, not
detectors. So the sequence that a detector has read is a SELECT, and replaying the events gives its state again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from models.conformal import adapted, frozen, missed
from models.detectors import ERROR, Change, ConceptDetector, OtherDetector, errors_of, primed, priming_errors
from models.registry import Registry
from models.types import Floats
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.cohorts import as_one, inputs_of, rows_of
from stream.events import ChangeDetected, CohortMatured, ConceptDriftDetected, IntervalsAdapted
from stream.recount import package_of

Said = ConceptDriftDetected | ChangeDetected | IntervalsAdapted


class Detectors:
    """A deployment's detectors and adapted intervals by model, as the cohorts that were read have made them."""

    def __init__(self, log: EventLog, registry: Registry, deployment: str, asked: list[dict[str, str]], steps: list[float]) -> None:
        """Begin before the first cohort; `asked` are the detectors beside the one that is always there, `steps` those by which intervals are adapted."""
        self._log, self._registry, self._deployment, self.asked, self.steps = log, registry, deployment, asked, steps
        self._outside: dict[tuple[str, float], dict[str, float]] = {}  # by model and step
        self._others: dict[tuple[str, str, str], OtherDetector] = {}  # by kind, what it is on, and model
        self._detectors: dict[str, ConceptDetector] = {}
        self._times: dict[str, list[int]] = {}  # of the errors that the detector still holds in its window
        self.read = 0

    def feed(self, cohorts: list[CohortMatured]) -> list[tuple[CohortMatured, Said]]:
        """Read cohorts that matured at one look, a row after the other; answers alarms and adapted intervals, one a cohort, model and detector or step at most."""
        whole = self._log.arrow(rows_of(self._deployment, as_one(cohorts)))
        times = whole.column("time").to_numpy()
        told: list[tuple[CohortMatured, Said]] = []
        for cohort in cohorts:
            first, last = np.searchsorted(times, [cohort.start, cohort.end])
            told += [(cohort, fact) for fact in self._feed(cohort, whole.slice(first, last - first))]
        return told

    def _feed(self, cohort: CohortMatured, table: Any) -> list[Said]:
        sql = rows_of(self._deployment, cohort)
        told: list[Said] = []
        for model_id in pc.unique(table.column("model_id")).to_pylist():
            part = table.filter(pc.equal(table.column("model_id"), model_id))
            target = package_of(self._registry, model_id).schema.target
            detector = self._detectors.get(model_id)
            if detector is None:
                detector = self._detectors[model_id] = primed(package_of(self._registry, model_id).metadata, target.task)
            errors = self._errors(target, part)
            times = self._times.setdefault(model_id, [])
            times.extend(part.column("time").to_pylist())
            changes = detector.update(errors)
            if changes:
                told.append(self._fact(model_id, detector, changes, times, cohort, sql))
            for one in self.asked:
                if one["on"] == ERROR:
                    told += self._other(one["kind"], ERROR, model_id, errors, part.column("time").to_pylist(), cohort, sql)
            if target.task == "regression":
                told += [self._adapt(model_id, step, part, cohort, sql) for step in self.steps]
            del times[: max(0, len(times) - detector.width)]
        for one in self.asked:
            if one["on"] != ERROR and table.num_rows:
                told += self._input(one["kind"], one["on"], table.column("model_id")[0].as_py(), cohort)
        self.read += 1
        return told

    def _adapt(self, model_id: str, step: float, part: Any, cohort: CohortMatured, sql: str) -> IntervalsAdapted:
        """A model's intervals after a cohort's rows (`models.conformal`)."""
        outside = self._outside.get((model_id, step)) or frozen()
        errors = np.abs(part.column("actual_value").to_numpy() - part.column("predicted_value").to_numpy())
        errors = errors[np.isfinite(errors)]
        came = missed(errors, package_of(self._registry, model_id).metadata.get("residual_quantiles") or {}, outside) if len(errors) else {}
        self._outside[(model_id, step)] = outside = adapted(outside, came, step)
        return IntervalsAdapted(model_id, step, outside, came, len(errors), iso(cohort.end), sql)

    def _input(self, kind: str, name: str, model_id: str, cohort: CohortMatured) -> list[ChangeDetected]:
        """A detector on an input, whatever model answered; its values are shares of the range in the first one's training rows."""
        first = next((m for k, on, m in self._others if (k, on) == (kind, name)), model_id)
        bins = next((b for b in package_of(self._registry, first).baseline.features if b.name == name and b.kind == "numeric"), None)
        if bins is None:
            return []
        sql = inputs_of(self._deployment, cohort, name)
        table = self._log.arrow(sql)
        values = np.clip((table.column("value").to_numpy() - bins.low) / max(bins.high - bins.low, 1e-12), 0.0, 1.0)
        return self._other(kind, name, first, values, table.column("time").to_pylist(), cohort, sql)

    def _other(self, kind: str, on: str, model_id: str, values: Floats, times: list[int], cohort: CohortMatured, sql: str) -> list[ChangeDetected]:
        detector = self._others.get((kind, on, model_id))
        if detector is None:
            package = package_of(self._registry, model_id)
            priming = priming_errors(package.metadata, package.schema.target.task) if on == ERROR else np.zeros(0)
            detector = self._others[(kind, on, model_id)] = OtherDetector(kind, priming)
        begun = detector.seen
        changes = detector.update(values)
        if not changes:
            return []
        last = changes[-1]
        up, down = ("worse", "better") if on == ERROR else ("up", "down")
        return [ChangeDetected(kind, on, model_id, up if last.after > last.before else down, last.before, last.after, iso(times[last.index - begun]), iso(cohort.end), [c.index for c in changes], sql)]

    @staticmethod
    def _errors(target: Any, part: Any) -> Floats:
        if target.task == "regression":
            errors = errors_of("regression", part.column("actual_value").to_numpy(), None, part.column("predicted_value").to_numpy(), target.upper - target.lower)
            return np.where(np.isfinite(errors), errors, 1.0)
        return errors_of(target.task, np.array(part.column("actual_class").to_pylist(), dtype=object), np.array(part.column("predicted_class").to_pylist(), dtype=object), None, 1.0)

    @staticmethod
    def _fact(model_id: str, detector: ConceptDetector, changes: list[Change], times: list[int], cohort: CohortMatured, sql: str) -> ConceptDriftDetected:
        """The last alarm, with the time at which the window begins that it left."""
        last = changes[-1]
        first = len(times) - (detector.seen - last.index - 1) - last.width
        return ConceptDriftDetected(model_id, "worse" if last.after > changes[0].before else "better", changes[0].before, last.after, iso(times[max(first, 0)]), iso(cohort.end), [c.index for c in changes], sql)
