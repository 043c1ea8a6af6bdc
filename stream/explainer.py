"""Explanations of a sample of what a champion answers, made where nobody waits for them.

Which rows is decided by the deployment's version that answered and the hash of their event ids, so a cycle that is done
again explains the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from models.insights.contributions import effects, scale_of
from models.package import ModelPackage
from stream.batches import Batch
from stream.challengers import sampled
from stream.clickhouse import EventLog
from stream.control import Follower
from stream.queries import Window
from stream.rows import base_of, column

SALT = "explanations"
SHARED = ("deployment", "model_id", "association_id", "request_id", "occurred_at", "recorded_at", "event_id")


class Explainer:
    """Makes the rows of `explanations_log`."""

    def __init__(self, follower: Follower, package: Callable[[str], ModelPackage | None]) -> None:
        """Ask the catalog which share a deployment has explained; `package` loads a model once."""
        self._follower, self._package = follower, package

    def table(self, batch: Batch, table: pa.Table, own: pa.Table) -> pa.Table | None:
        """The sampled rows of a champion's batch, `own` as the log has them; None where there are none."""
        deployment = self._follower.catalog.deployments.get(batch.deployment)
        version = deployment.at(batch.version) if deployment is not None else None  # the engine has waited for it
        fraction = float(version.settings.get("explain") or 0) if version is not None else 0.0
        package = self._package(batch.model_id) if fraction else None
        if package is None or package.plan.external:
            return None
        keep = pa.array(sampled(column(own, "event_id"), SALT, fraction))
        rows = own.filter(keep)
        if not len(rows):
            return None
        target, names = package.schema.target, package.schema.names
        classes = column(rows, "predicted_class").to_pylist()
        index = {name: k for k, name in enumerate(target.classes)}
        found = effects(package.plan, package.baseline, base_of(package.schema, table.filter(keep)), np.array([index.get(c, 0) for c in classes], dtype=np.int64))
        offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * len(names))
        keys = pa.DictionaryArray.from_arrays(pa.array(np.tile(np.arange(len(names), dtype=np.int32), len(rows))), pa.array(names, pa.string()))
        columns: dict[str, Any] = {name: column(rows, name) for name in SHARED}
        # of two classes the positive one is explained, whatever was decided
        columns["explained_class"] = pa.array([target.positive] * len(rows) if target.task == "binary" else classes, pa.string())
        columns |= {"score": pa.array(found.scores), "typical_score": pa.array(found.typical)}
        columns["effects"] = pa.MapArray.from_arrays(offsets, keys, pa.array(found.effects.ravel()))
        return pa.table(columns)


def drivers(log: EventLog, package: ModelPackage, window: Window) -> dict[str, Any]:
    """What drove a champion's answers in a window: of each input the mean effect and its mean size, the greatest first."""
    window = replace(window, model_id=package.digest)
    where = replace(window, segment="").where()
    if window.segment:  # it speaks of the inputs
        where += f" AND event_id IN (SELECT event_id FROM predictions WHERE {window.where()} AND role = 'champion')"
    sql = f"""SELECT feature, avg(abs(effect)) AS size, avg(effect) AS mean, count() AS rows
FROM (SELECT mapKeys(effects) AS keys, mapValues(effects) AS values FROM explanations WHERE {where})
ARRAY JOIN keys AS feature, values AS effect GROUP BY feature ORDER BY size DESC, feature"""
    inputs = log.rows(sql)
    return {"model_id": package.digest, "scale": scale_of(package.plan), "rows": max((int(i["rows"]) for i in inputs), default=0), "inputs": [{"name": i["feature"], "size": i["size"], "mean": i["mean"]} for i in inputs], "sql": sql}
