"""Who shadows the champion: scored on the same rows; one that breaks or is slow is suspended."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import PackageError
from models.package import ModelPackage
from models.types import Bools
from stream.batches import Batch
from stream.control import Follower
from stream.errors import LogUnavailable, NotYet, QueryRejected
from stream.learners import Learners, is_learner
from stream.projections.catalog import Version
from stream.rows import base_of, outputs_of

log = logging.getLogger("champion.challengers")

MARGIN = 1 << 16
SLOW = 0.005  # seconds a row that no challenger may take on average …
SLOW_AFTER = 5.0  # … once it has taken so many seconds


class Challengers:
    """Scores the challengers of each message's deployment version."""

    def __init__(self, follower: Follower, learners: Learners, package: Callable[[str], ModelPackage | None]) -> None:
        """Ask the catalog who shadows; `package` loads a model once."""
        self._follower, self._learners, self._package = follower, learners, package
        self._spent: dict[tuple[str, str], tuple[int, float]] = {}
        self._suspended: dict[tuple[str, str, int], str] = {}
        self._untold: list[tuple[str, str, int]] = []
        self.patient = True

    def told(self) -> list[tuple[str, str, int, str]]:
        """Deployment, challenger, version and reason of what was suspended since this was asked last."""
        told, self._untold = self._untold, []
        return [(*key, self._suspended[key]) for key in told]

    def tables(self, batch: Batch, table: pa.Table, shared: dict[str, Any], identity: pa.Array) -> list[pa.Table]:
        """The log's rows of each challenger that is not suspended."""
        version = self._version(batch)
        tables = []
        bases: dict[Any, Any] = {}
        for model_id, fraction in version.challengers if version else ():
            keep = sampled(identity, model_id, fraction)
            found = self._outputs(batch, model_id, table, keep, bases)
            if found is None:
                continue
            target, output, each = found
            mine = pa.table(shared).filter(pa.array(keep)) if fraction < 1 else pa.table(shared)
            more = {
                "model_id": pa.array([model_id] * len(output), pa.string()),
                "role": pa.array(["challenger"] * len(output), pa.string()),
                **outputs_of(target, output, version.settings.get("threshold") if version else None),
                "latency_us": pa.array(np.full(len(output), each)),
                "event_id": pc.binary_join_element_wise(identity.filter(pa.array(keep)), model_id[:12], "."),
            }
            for name, values in more.items():
                mine = mine.append_column(name, values)
            tables.append(mine)
        return tables

    def _outputs(self, batch: Batch, model_id: str, table: pa.Table, keep: Bools, bases: dict[Any, Any]) -> tuple[Any, Any, float] | None:
        """A challenger's target, outputs and microseconds a row; None where it is not known here or is suspended.

        A challenger that breaks, or is too slow, is left out from then on and stops nothing else.
        """
        key = (batch.deployment, model_id, batch.version)
        if key in self._suspended:
            return None
        try:
            self._get_ready(batch.deployment, model_id)
            begun = time.perf_counter()
            found = self._scored(batch.deployment, model_id, table, keep, bases)
        except (NotYet, LogUnavailable, QueryRejected):
            raise
        except Exception as error:
            log.exception("challenger %s of %s failed", model_id[:12], batch.deployment)
            self._suspend(key, f"it failed: {type(error).__name__}: {error}"[:500])
            return None
        if found is None:
            return None
        took = time.perf_counter() - begun
        rows, seconds = self._spent.get(key[:2], (0, 0.0))
        rows, seconds = self._spent[key[:2]] = (rows + len(found[1]), seconds + took)
        if seconds > SLOW_AFTER and seconds > SLOW * rows:
            self._suspend(key, f"it is slow: {seconds / rows * 1000:.1f} ms a row over {rows:,} rows")
        return (*found, took * 1e6 / max(len(found[1]), 1))

    def _get_ready(self, deployment: str, model_id: str) -> None:
        """Load it: that takes seconds once, and says nothing of how fast it is."""
        if is_learner(model_id):
            self._learners.get(deployment, model_id)
        else:
            self._package(model_id)

    def _suspend(self, key: tuple[str, str, int], reason: str) -> None:
        self._suspended[key] = reason
        self._untold.append(key)  # until a whole cycle has told it

    def _scored(self, deployment: str, model_id: str, table: pa.Table, keep: Bools, bases: dict[Any, Any]) -> tuple[Any, Any] | None:
        """The outputs of a package, or of a learner as it is now."""
        if is_learner(model_id):
            return self._learners.predict(deployment, model_id, table)
        package = self._package(model_id)
        if package is None:
            raise PackageError("damaged_package", f"package {model_id[:12]} cannot be loaded")
        if package.schema not in bases:
            bases[package.schema] = base_of(package.schema, table)
        return package.schema.target, package.plan.predict(bases[package.schema][keep])

    def _version(self, batch: Batch) -> Version | None:
        """Who shadowed at the time of a batch; NotYet while this worker has not read so far."""
        deployment = self._follower.catalog.deployments.get(batch.deployment)
        version = deployment.at(batch.version) if deployment else None
        if version is None and self.patient:
            raise NotYet(f"version {batch.version} of {batch.deployment!r} is not known here yet")
        return version


def sampled(identity: pa.Array, model_id: str, fraction: float) -> Bools:
    """Which rows a challenger sees: by the hash of the event id, the same on every replay."""
    if fraction >= 1:
        return np.ones(len(identity), dtype=bool)
    salt = zlib.crc32(model_id.encode())
    return np.array([zlib.crc32(e.encode(), salt) % MARGIN < fraction * MARGIN for e in identity.to_pylist()])
