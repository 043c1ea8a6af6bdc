"""Online challengers: learners that are scored on each request as they are then, and taught by each outcome.

The order in which a learner is taught is stored before it is taught: (deployment, learner, n, outcome) in
`learned_log`. Its state is nothing but that sequence, so a learner that is lost (a crash, another worker)
is taught again from the log and is the same bit for bit. A correction is a new n; nothing is unlearnt. A checkpoint
(its state at some n, signed with the installation's key) saves the way there, and is only that: one that is
lost, another's or ahead of the log is left alone.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa

from models.online import Learner
from models.package import ModelPackage
from models.registry import Registry
from models.types import Floats
from stream.association import SETTINGS, chunks, listed, literal
from stream.clickhouse import EventLog
from stream.control import Follower
from stream.projections.catalog import Model
from stream.recount import package_of
from stream.rows import base_of, logged

log = logging.getLogger("champion.learners")

PREFIX = "online-"
CHUNK = 20_000
MOST_MEMORY = 256 << 20
LOOK_EVERY = 500
CHECKPOINT = 1000  # lessons between checkpoints
SCHEMA = pa.schema(
    [("deployment", pa.string()), ("learner", pa.string()), ("n", pa.uint64()), ("event_id", pa.string()), ("actual_event_id", pa.string()), ("actual_class", pa.string()), ("actual_value", pa.float64())]
)
FRESH = """SELECT event_id, features_num, features_cat, actual_class, actual_value, actual_event_id FROM outcomes
WHERE deployment = {d} AND role = 'champion' AND association_id IN ({ids}) AND (event_id, actual_event_id) NOT IN (
    SELECT event_id, actual_event_id FROM learned_log FINAL WHERE deployment = {d} AND learner = {learner})
ORDER BY occurred_at, event_id"""
LEARNED = """SELECT l.n AS n, p.features_num AS features_num, p.features_cat AS features_cat, l.actual_class AS actual_class, l.actual_value AS actual_value
FROM (SELECT n, event_id, actual_class, actual_value FROM learned_log FINAL WHERE deployment = {d} AND learner = {learner} AND n > {after} ORDER BY n LIMIT {limit}) AS l
LEFT JOIN (SELECT event_id, features_num, features_cat FROM predictions WHERE deployment = {d} AND role = 'champion' AND event_id IN (
    SELECT event_id FROM learned_log FINAL WHERE deployment = {d} AND learner = {learner} AND n > {after} ORDER BY n LIMIT {limit})) AS p ON l.event_id = p.event_id
ORDER BY n"""


def checkpoint_of(deployment: str, learner_id: str) -> str:
    """The artifact of a learner's checkpoint."""
    return f"checkpoints/{deployment}/{learner_id}.state"


def is_learner(model_id: str) -> bool:
    """Whether a challenger is an online one."""
    return model_id.startswith(PREFIX)


class Learners:
    """The learners of the deployments that this worker has."""

    def __init__(self, event_log: EventLog, registry: Registry, follower: Follower) -> None:
        """Nobody is taught yet."""
        self._log, self._registry, self._follower = event_log, registry, follower
        self._learners: dict[tuple[str, str], Learner] = {}

    def forget(self) -> None:
        """Drop all state: it is taught again from the log."""
        self._learners.clear()

    def schema_of(self, model: Model) -> Any:
        """What a learner reads: the inputs of the champion that it was born beside."""
        return package_of(self._registry, str(model.summary["schema_of"])).schema

    def get(self, deployment: str, learner_id: str) -> Learner | None:
        """A learner as the log has taught it; None where the catalog does not know it (yet)."""
        key = (deployment, learner_id)
        if key not in self._learners:
            model = self._follower.catalog.models.get(learner_id)
            if model is None:
                return None
            learner = self._from_checkpoint(deployment, model) or Learner(str(model.summary["kind"]), dict(model.summary["parameters"]), self.schema_of(model))
            while self._teach_again(deployment, learner_id, learner):
                pass
            self._learners[key] = learner
        return self._learners[key]

    def _from_checkpoint(self, deployment: str, model: Model) -> Learner | None:
        """A learner as it was at its last checkpoint, if that is ours and the log holds all it was taught."""
        try:
            data = self._registry.artifacts.read(checkpoint_of(deployment, model.model_id))
        except KeyError:
            return None
        learner = Learner.opened(data, self.schema_of(model), self._registry.key)
        if learner is None:
            return None
        row = self._log.rows(f"SELECT max(n) AS n FROM learned_log WHERE deployment = {literal(deployment)} AND learner = {literal(model.model_id)}")[0]
        return learner if learner.learnt <= int(row["n"]) else None

    def _checkpoint(self, deployment: str, learner_id: str, learner: Learner) -> None:
        """Keep its state; a failure costs time at the next start, never truth."""
        try:
            self._registry.artifacts.write(checkpoint_of(deployment, learner_id), learner.sealed(self._registry.key))
        except OSError as error:
            log.warning("the checkpoint of %s was not written: %s", learner_id, error)

    def _teach_again(self, deployment: str, learner_id: str, learner: Learner) -> bool:
        """The next lessons of the stored order; lessons of erased rows are missing in it."""
        sql = LEARNED.format(d=literal(deployment), learner=literal(learner_id), after=learner.learnt, limit=CHUNK)
        found = self._log.arrow(sql)
        if found.num_rows:
            self._teach(learner, found)
            learner.learnt = int(found.column("n")[-1].as_py())
        return bool(found.num_rows == CHUNK)

    @staticmethod
    def _teach(learner: Learner, found: pa.Table) -> None:
        table = logged(found)
        regression = learner.schema.target.task == "regression"
        labels = found.column("actual_value" if regression else "actual_class").to_pylist()
        learner.learn(base_of(learner.schema, table), labels)

    def predict(self, deployment: str, learner_id: str, table: pa.Table) -> tuple[Any, Floats] | None:
        """Its schema's target and its outputs, as it is now."""
        learner = self.get(deployment, learner_id)
        if learner is None:
            return None
        return learner.schema.target, learner.predict(base_of(learner.schema, table))

    def learn(self, deployment: str, ids: set[str]) -> list[tuple[str, str]]:
        """Teach every learner of a deployment what is new of these ids; answers (learner, reason) of those to suspend."""
        known = self._follower.catalog.deployments.get(deployment)
        suspended = []
        for learner_id in [m for m, _ in known.now.challengers if is_learner(m)] if known else []:
            learner = self.get(deployment, learner_id)
            if learner is None:
                continue
            before = learner.learnt
            for chunk in chunks(ids):
                self._learn(deployment, learner_id, learner, chunk)
            if learner.learnt // CHECKPOINT > before // CHECKPOINT and self._registry.key:
                self._checkpoint(deployment, learner_id, learner)
            reason = self._unfit(learner, before)
            if reason:
                suspended.append((learner_id, reason))
        return suspended

    def _learn(self, deployment: str, learner_id: str, learner: Learner, ids: list[str]) -> None:
        """What is new goes into the log in its order, and only then is it taught."""
        sql = FRESH.format(d=literal(deployment), ids=listed(ids), learner=literal(learner_id))
        found = self._log.arrow(sql, settings=SETTINGS)
        if not found.num_rows:
            return
        rows = found.num_rows
        n = pa.array(np.arange(learner.learnt + 1, learner.learnt + rows + 1, dtype=np.uint64))
        constant = {"deployment": pa.array([deployment] * rows), "learner": pa.array([learner_id] * rows), "n": n}
        own = {name: found.column(name).combine_chunks() for name in ("event_id", "actual_event_id", "actual_class", "actual_value")}
        self._log.insert("learned_log", pa.table({**constant, **own}).select(SCHEMA.names).cast(SCHEMA))
        self._teach(learner, found)

    def _unfit(self, learner: Learner, before: int) -> str:
        """Why a learner must not go on, or nothing; River's count of memory is slow, so it is asked now and then."""
        if learner.learnt // LOOK_EVERY > before // LOOK_EVERY and learner.memory > MOST_MEMORY:
            return f"it outgrew {MOST_MEMORY >> 20} MiB"
        probe = learner.predict(np.full((1, len(learner.schema.features)), 0.5))
        return "" if np.isfinite(probe).all() else "it diverged: its predictions are no numbers"


def target_package(registry: Registry, follower_models: dict[str, Model], model_id: str) -> ModelPackage:
    """The package whose classes a model's probabilities have: of an online one, the champion it was born beside."""
    model = follower_models.get(model_id)
    return package_of(registry, str(model.summary["schema_of"]) if model is not None and is_learner(model_id) else model_id)
