"""A learner frozen as a package that can serve; the learner itself goes on in the shadow.

What a package says of itself (its scores, its reference for drift, its calibration of detectors) comes
from what the learner answered at request time, before it knew the outcome: the only honest source.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from models.baseline import drift_score, with_prediction
from models.conformal import residual_quantiles
from models.detectors import errors_of, priming_of
from models.insights.curves import curves
from models.members import OnlineMember
from models.metrics import decide
from models.registry import Registry
from models.scoring import Part, ScoringPlan
from stream import queries
from stream.clickhouse import EventLog
from stream.control import Follower
from stream.errors import Refused
from stream.events import ModelRegistered
from stream.learners import Learners
from stream.queries import Window
from stream.recount import package_of

LEAST = 100
NEWEST = 20_000


def snapshot(log: EventLog, registry: Registry, follower: Follower, deployment: str, learner_id: str) -> ModelRegistered:
    """Freeze a learner as the log has taught it; answers the fact to propose. Refused while it has hardly been tried."""
    model = follower.catalog.models[learner_id]
    parent = package_of(registry, str(model.summary["schema_of"]))
    learner = Learners(log, registry, follower).get(deployment, learner_id)
    sql, table = queries.outcome_rows(log, Window(deployment, model_id=learner_id), parent.schema.target.task, roles="role = 'challenger'", ordered=True)
    rows = queries.scored(table.slice(max(0, len(table) - NEWEST)), parent.schema.target.task, lambda _: parent.schema.target.classes, parent.schema.target.classes)
    if learner is None or len(rows.y) < LEAST:
        raise Refused("invalid", "too_young", f"{learner_id} has {len(rows.y)} matched rows; {LEAST} at least")
    target, output = parent.schema.target, rows.p.reshape(len(rows.y), -1)
    metric = parent.metadata["metric"]
    scores = {k: v for k, v in rows.metrics(slice(None)).items() if np.isfinite(v)}
    plan = ScoringPlan(parent.schema, (Part(OnlineMember(parent.schema, learner.sealed(registry.key), registry.key)),))
    watched = drift_score(target, output)
    chosen = None if target.task == "regression" else decide(output)
    errors = errors_of(target.task, rows.y, chosen, rows.p if target.task == "regression" else None, (target.upper - target.lower) or 1.0)
    summary: dict[str, Any] = {
        "blueprint": f"{model.blueprint}, frozen after {learner.learnt:,} outcomes",
        "family": "online model",
        "metric": metric,
        "validation": scores.get(metric),
        "holdout": scores.get(metric),
        "cross_validation": [],
        "learning_curve": [],
        "ms_per_row": took(plan),
        "train_seconds": 0.0,
        "rows": learner.learnt,
        "trained_on": f"the outcomes of {deployment}, in the order of `learned`",
        "recommended": False,
    }
    metadata = {
        **parent.metadata,
        **summary,
        "metrics": scores,
        "prediction_quantiles": np.quantile(output.max(axis=1) if target.task == "multiclass" else watched, np.linspace(0, 1, 101)).tolist(),
        "residual_quantiles": residual_quantiles(rows.y, output) if target.task == "regression" else None,
        "priming": priming_of(errors),
        "insights": curves(target, rows.y, output) if (target.task == "regression" or (rows.y >= 0).all()) else {},
        "partition": "what it answered before it knew the outcome (prequential)",
        "snapshot_of": {"learner": learner_id, "deployment": deployment, "n": learner.learnt, "sql": sql},
    }
    digest = registry.save(plan, with_prediction(parent.baseline, target, watched), metadata)
    kept = {k: summary[k] for k in ("validation", "holdout", "ms_per_row", "recommended", "trained_on", "family")}
    return ModelRegistered(digest, model.project_id, str(summary["blueprint"]), model.task, model.target, metric, {**kept, "snapshot_of": learner_id, "learnt": learner.learnt})


def took(plan: ScoringPlan) -> float:
    """Median milliseconds of a single row."""
    row = [0.0] * len(plan.schema.features)
    spent = []
    for _ in range(30):
        begun = time.perf_counter()
        plan.predict_one(row)
        spent.append(time.perf_counter() - begun)
    return float(np.median(spent) * 1000)
