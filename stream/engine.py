"""The worker's cycle: a handful of messages into the log, joined, folded, saved, confirmed.

A cycle is done again in whole if anything fails on the way: rows have identities, outcomes are
recomputed, drift counts know what they hold. Only at its end is the source told, and Faust's offsets
committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import ModelsError
from models.package import ModelPackage
from models.registry import Registry
from models.types import Bools
from stream.association import has_actuals, join, with_actuals
from stream.batches import Batch, decode, encode
from stream.challengers import Challengers
from stream.clickhouse import EventLog
from stream.clock import now_us
from stream.control import Follower
from stream.erasure import Eraser
from stream.errors import Malformed, NotYet, Overtaken, Superseded
from stream.events import DataErased
from stream.explainer import Explainer
from stream.learners import Learners
from stream.projections.arrivals import ARRIVALS, MINUTE, arrived
from stream.projections.drift import DriftFold, save_all
from stream.rebuild import rebuild
from stream.recount import counted
from stream.rows import actual_rows, column, event_ids, merge, refusal_rows, shared_columns

log = logging.getLogger("champion.engine")

PROGRESS_SCHEMA = pa.schema([("source", pa.string()), ("sequence", pa.uint64()), ("recorded_at", pa.timestamp("us", tz="UTC"))])


@dataclass(frozen=True)
class Raw:
    """A message as it came."""

    topic: str
    partition: int
    offset: int
    value: bytes


@dataclass
class Report:
    """What a cycle did: rows by kind, seconds by step, bad messages, deployments touched."""

    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bad: list[tuple[Raw, str]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    erased: list[tuple[str, DataErased]] = field(default_factory=list)
    suspended: list[tuple[str, str, int, str]] = field(default_factory=list)  # deployment, challenger, version, reason


class Engine:
    """Owns the folds of the assigned partitions; `cycle` runs in a thread, one at a time."""

    def __init__(self, event_log: EventLog, registry: Registry, follower: Follower, partitions: int = 4) -> None:
        """Work against a log, a registry and the folded catalog."""
        self._log, self._registry, self._follower, self._partitions = event_log, registry, follower, partitions
        self._eraser = Eraser(event_log, registry, follower)
        self._learners = Learners(event_log, registry, follower)
        self._folds: dict[int, DriftFold] = {}
        self._packages: dict[str, ModelPackage | None] = {}
        self.challengers = Challengers(follower, self._learners, self.package)
        self._explainer = Explainer(follower, self.package)
        self._distrusted: set[int] = set()
        self._beside = ThreadPoolExecutor(1, "append")  # the log writes while the drift is counted
        self._with_actuals: set[str] = set()
        self.cluster: str | None = None  # of the broker that messages come by
        self.holds: Callable[[], bool] = lambda: True  # whether this process is surely still an owner

    def forget(self) -> None:
        """Drop all state: after a change of assignment it is read from the log again."""
        self._folds.clear()
        self._learners.forget()

    def package(self, model_id: str) -> ModelPackage | None:
        """A model, loaded once; None (and a line in the log) where it is no package of ours.

        NotYet where the artifacts do not answer: that passes.
        """
        if model_id not in self._packages:
            try:
                self._packages[model_id] = self._registry.load(model_id)
            except OSError as error:
                raise NotYet(f"model {model_id[:12]} cannot be read: {error}") from error
            except ModelsError as error:
                log.error("model %s cannot be loaded: %s", model_id[:12], error)  # noqa: TRY400 - the reason is enough
                self._packages[model_id] = None
        return self._packages[model_id]

    def cycle(self, messages: list[Raw]) -> Report:
        """Handle messages; when it returns, the log has everything and says so.

        Superseded where this process must not write any more.
        """
        try:
            return self._cycle(messages)
        except Overtaken as error:
            log.warning("%s: its counts are made again from the rows", error)
            self._distrusted.add(error.partition)
            raise

    def _cycle(self, messages: list[Raw]) -> Report:
        report = Report()
        timer = Timer(report.seconds)
        decoded: list[tuple[int, Batch]] = []
        for message in messages:
            try:
                decoded.append((message.partition, decode(message.value)))
            except Malformed as error:
                report.bad.append((message, str(error)))
        for partition, _ in decoded:
            self._fold(partition)
        fresh = [(p, b) for p, b in decoded if self._is_new(p, b)]
        admitted = [(p, b) for p, b in ((p, self._eraser.admit(b)) for p, b in fresh) if b.rows.num_rows]
        timer.lap("decode")
        groups: dict[tuple[Any, ...], list[tuple[int, Batch]]] = {}
        for partition, batch in admitted:
            if batch.kind == "predictions":
                key = (partition, batch.deployment, batch.version, batch.model_id, batch.role, batch.replay_id)
                groups.setdefault(key, []).append((partition, batch))
        predictions: list[pa.Table] = []
        served: list[tuple[int, Batch, pa.Table, pa.Table]] = []
        touched: dict[str, set[str]] = {}
        for group in groups.values():
            partition, batch = group[0]
            table = merge([b for _, b in group])
            made = self._prediction_tables(batch, table, timer)
            predictions.extend(made)
            if batch.role == "champion":
                served.append((partition, batch, table, made[0]))
            ids = {i for i in table.column("association_id").to_pylist() if i}
            touched.setdefault(batch.deployment, set()).update(ids)
        appended = self._beside.submit(self._append, predictions, admitted, report)
        try:
            for one in served:
                self._count(*one)
            timer.lap("drift")
        finally:
            appended.result()
        timer.lap("append")
        explained = [found for _, batch, table, own in served if (found := self._explainer.table(batch, table, own)) is not None]
        if explained:
            self._log.insert("explanations_log", *(t.cast(explained[0].schema) for t in explained))
            timer.lap("explain")
        self._join(touched, admitted, report)
        timer.lap("join")
        for partition, batch in fresh:
            if batch.kind == "erasures":
                self._eraser.prepare(self._folds[partition], batch)
            if ":" not in batch.source or (batch.kind == "skipped" and self._of_this_broker(batch.source)):
                self._folds[partition].mark(batch.source, batch.sequences)
        if not self.holds():
            raise Superseded("this process slept longer than its session")
        save_all(self._folds.values(), self._log)
        report.erased = [fact for _, batch in fresh if batch.kind == "erasures" for fact in self._eraser.erase(batch)]
        if report.erased:
            self._learners.forget()  # they are taught again without the erased lessons
        timer.lap("save")
        self._confirm()
        timer.lap("confirm")
        report.suspended += self.challengers.told()
        return report

    def _of_this_broker(self, source: str) -> bool:
        """Whether an outside source's mark came by the broker that it speaks of.

        A courier whose broker is replaced under its hands sends the rest of what it carries to the new one.
        What it had sent before may be gone with the old one, so such a mark confirms nothing.
        """
        return self.cluster is None or source.startswith(self.cluster + ":")

    def skip(self, message: Raw) -> None:
        """Remember a message that was put aside as seen, so that its source goes on."""
        batch = decode(message.value)
        fold = self._fold(message.partition)
        if ":" not in batch.source or self._of_this_broker(batch.source):
            fold.mark(batch.source, batch.sequences)
        fold.save()
        self._confirm()

    def _fold(self, partition: int) -> DriftFold:
        """A partition's fold as the log has it; made again from the rows where it was lost."""
        if partition not in self._folds:
            fold = DriftFold(partition, self._partitions, self._log)
            if fold.lost or partition in self._distrusted:
                log.warning("the fold of partition %d is made again from the log", partition)
                rebuild(fold, self._log, self._registry)
                self._distrusted.discard(partition)
            self._folds[partition] = fold
        return self._folds[partition]

    def _is_new(self, partition: int, batch: Batch) -> bool:
        if batch.kind == "erasures":
            return True  # done again it finds nothing; left out after a crash, it would leave rows
        fold = self._folds[partition]
        ranges = fold.ranges.get(batch.source)
        if ranges is None or not batch.rows.num_rows:
            return bool(batch.rows.num_rows)
        if ":" in batch.source:
            return True  # an outside partition is shared by deployments: its rows know their identity
        return any(int(s) not in ranges for s in np.unique(batch.sequences))

    def _prediction_tables(self, batch: Batch, table: pa.Table, timer: Timer) -> list[pa.Table]:
        """Rows of the champion (or replayed model) and of each challenger."""
        shared = shared_columns(batch, table)
        identity = event_ids(table)
        own = {
            **shared,
            "model_id": pa.array([batch.model_id] * len(table), pa.string()),
            "role": pa.array([batch.role] * len(table), pa.string()),
            "predicted_value": column(table, "value"),
            "predicted_class": column(table, "class"),
            "probabilities": column(table, "probabilities"),
            "latency_us": column(table, "latency_us"),
            "event_id": identity,
        }
        tables = [pa.table(own)]
        timer.lap("rows")
        if batch.role == "champion":
            tables.extend(self.challengers.tables(batch, table, shared, identity))
            timer.lap("challengers")
        return tables

    def _count(self, partition: int, batch: Batch, table: pa.Table, own: pa.Table) -> None:
        """Rows that the fold does not have yet, by their minute: of arrival for service health, of event time for drift."""
        fold = self._folds[partition]
        new = fold.unseen(column(table, "source"), table.column("sequence").to_numpy())
        new &= first_of_each(column(own, "event_id"))
        if not new.any():
            return
        if not new.all():
            table, own = table.filter(pa.array(new)), own.filter(pa.array(new))
        recorded, row, latency, occurred = (column(table, name).to_numpy() for name in ("recorded_at", "row", "latency_us", "occurred_at"))
        fold.add(batch.deployment, ARRIVALS, *arrived(recorded, row == 0, latency))
        package = self.package(batch.model_id)
        if package is not None:
            minutes, group = np.unique(occurred // MINUTE, return_inverse=True)
            fold.add(batch.deployment, batch.model_id, minutes, counted(package, package.baseline, table, own, group, len(minutes)))

    def _append(self, predictions: list[pa.Table], fresh: list[tuple[int, Batch]], report: Report) -> None:
        if predictions:
            schema = predictions[0].schema
            self._log.insert("predictions_log", *(t.select(schema.names).cast(schema) for t in predictions))
            report.rows["predictions"] = sum(len(t) for t in predictions)
        for kind, make, target in (("actuals", actual_rows, "actuals_log"), ("refusals", refusal_rows, "refusals_log")):
            found = [make(b) for _, b in fresh if b.kind == kind]
            if found:
                whole = pa.concat_tables(found)
                self._log.insert(target, whole)
                report.rows[kind] = len(whole)

    def _join(self, predicted: dict[str, set[str]], fresh: list[tuple[int, Batch]], report: Report) -> None:
        observed: dict[str, set[str]] = {}
        for _, batch in fresh:
            if batch.kind == "actuals":
                observed.setdefault(batch.deployment, set()).update(batch.rows.column("association_id").to_pylist())
        report.touched = set(predicted) | set(observed)
        for deployment in report.touched:
            ids = observed.get(deployment, set())
            waiting = predicted.get(deployment, set()) - ids
            if waiting and self._labelled(deployment):
                ids = ids | with_actuals(self._log, deployment, waiting)
            if ids:
                join(self._log, deployment, ids)
                report.suspended.extend((deployment, learner, 0, reason) for learner, reason in self._learners.learn(deployment, ids))

    def _labelled(self, deployment: str) -> bool:
        if deployment not in self._with_actuals and has_actuals(self._log, deployment):
            self._with_actuals.add(deployment)
        return deployment in self._with_actuals

    def _confirm(self) -> None:
        now = now_us()
        rows = [{"source": s, "sequence": n, "recorded_at": now} for fold in self._folds.values() for s, n in fold.progress().items() if n]
        if rows:
            self._log.insert("log_progress_log", pa.Table.from_pylist(rows, schema=PROGRESS_SCHEMA))


def split(message: Raw) -> list[Raw]:
    """A message of several journal records as one a record; whatever cannot be split is left whole."""
    try:
        batch = decode(message.value)
    except Malformed:
        return [message]
    distinct = np.unique(batch.sequences)
    if len(distinct) <= 1:
        return [message]
    meta = {"version": batch.version, "model_id": batch.model_id, "source": batch.source, "role": batch.role, "replay_id": batch.replay_id}
    parts = []
    for sequence in distinct:
        rows = batch.rows.filter(pa.array(batch.sequences == sequence))
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        parts.append(Raw(message.topic, message.partition, message.offset, encode(batch.kind, batch.deployment, columns, **meta)))
    return parts


class Timer:
    """Seconds by step."""

    def __init__(self, seconds: dict[str, float]) -> None:
        """Add to a dict."""
        self._seconds, self._last = seconds, time.perf_counter()

    def lap(self, step: str) -> None:
        """The time since the last lap belongs to this step."""
        now = time.perf_counter()
        self._seconds[step] = self._seconds.get(step, 0.0) + now - self._last
        self._last = now


def first_of_each(identity: pa.Array) -> Bools:
    """Mask of the rows that do not repeat an earlier one (a message may come twice in a cycle)."""
    keep = np.ones(len(identity), dtype=bool)
    if len(pc.unique(identity)) < len(identity):
        seen: set[str] = set()
        for k, event_id in enumerate(identity.to_pylist()):
            keep[k] = event_id not in seen
            seen.add(event_id)
    return keep
