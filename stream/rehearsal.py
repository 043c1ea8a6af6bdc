"""A rehearsal of humility rules: what they would have done to the stored requests, and what that was worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import ModelsError
from models.humility import Rule, apply, overridden
from models.metrics import METRICS, score_all
from models.package import ModelPackage
from models.registry import Registry
from models.types import Floats
from stream.association import literal
from stream.clickhouse import EventLog
from stream.queries import Window, finite
from stream.recount import outputs_from, package_of
from stream.rows import base_of, logged

COLUMNS = "event_id, features_num, features_cat, predicted_value, predicted_class, probabilities"
MOST_ROWS = 1_000_000


def rehearse(log: EventLog, registry: Registry, window: Window, model_id: str, rules: tuple[Rule, ...]) -> dict[str, Any]:
    """Hits and actions over a window of champion rows; with the actuals, the metrics with and without them."""
    package = package_of(registry, model_id)
    sql = f"SELECT {COLUMNS} FROM predictions WHERE {window.where()} AND role = 'champion' AND model_id = {literal(model_id)} ORDER BY recorded_at, event_id LIMIT {MOST_ROWS}"
    rows = log.arrow(sql).combine_chunks()
    if not len(rows):
        return {"rows": 0, "matched": 0, "rules": [], "metrics": {}, "sql": sql}
    base, output = matrix_of(package, rows), outputs_from(package, rows)
    others = {m: other_output(registry, m, package, rows, base) for rule in rules for m in (rule.on.get("model_id"), rule.does.get("model_id")) if m}
    found = apply(rules, package.schema, base, output, others, 0.0)
    told = []
    for rule in rules:
        hit = [row for row, hitting in found.hits.items() if rule in hitting]
        acted = [row for row in hit if found.acted.get(row) is rule]
        told.append({"name": rule.name, "action": rule.action, "hits": len(hit), "acted": len(acted) if rule.action != "none" else 0})
    outcomes = log.arrow(f"SELECT event_id, actual_value, actual_class FROM outcomes WHERE {window.where()} AND role = 'champion' AND model_id = {literal(model_id)}")
    metrics, matched = worth(package, rows, output, found, outcomes)
    return {"rows": len(rows), "matched": matched, "rules": told, "metrics": metrics, "sql": sql}


def matrix_of(package: ModelPackage, rows: pa.Table) -> Floats:
    """The stored inputs as a package's base matrix."""
    return base_of(package.schema, logged(rows))


def other_output(registry: Registry, model_id: str, package: ModelPackage, rows: pa.Table, base: Floats) -> Floats:
    """Another model's outputs on the same rows."""
    other = package_of(registry, model_id)
    if other.schema.target.classes != package.schema.target.classes:
        raise ModelsError("other_target", f"model {model_id[:12]} has other classes")
    return other.plan.predict(base if other.schema == package.schema else matrix_of(other, rows))


def worth(package: ModelPackage, rows: pa.Table, output: Floats, found: Any, outcomes: pa.Table) -> tuple[dict[str, Any], int]:
    """All metrics as served and as they would have been; rows refused or referred are left to others."""
    target = package.schema.target
    place = pc.index_in(rows.column("event_id"), outcomes.column("event_id"))
    matched = np.nonzero(place.is_valid().to_numpy(zero_copy_only=False))[0]
    if not len(matched):
        return {}, 0
    joined = outcomes.take(place.combine_chunks().take(pa.array(matched)))
    if target.task == "regression":
        y = joined.column("actual_value").to_numpy().astype(np.float64)
        before, after = output[:, 0], found.output[:, 0]
        chosen = then = None
    else:
        index = {label: k for k, label in enumerate(target.classes)}
        y = np.array([index.get(v, -1) for v in joined.column("actual_class").to_pylist()], dtype=np.int64)
        before, after = output, found.output
        chosen = np.array([index.get(v, 0) for v in rows.column("predicted_class").to_pylist()], dtype=np.int64)
        then = chosen.copy()
        for row, rule in found.acted.items():
            if rule.action == "override":
                then[row] = overridden(rule, package.schema)
            elif rule.action == "fallback":
                then[row] = int(np.argmax(np.round(found.output[row], 12)))
    kept = np.array([row not in found.acted or found.acted[row].action not in {"error", "refer"} for row in matched.tolist()])
    served = matched[kept]
    first = finite(score_all(target.task, y, before[matched], None if chosen is None else chosen[matched]))
    second = finite(score_all(target.task, y[kept], after[served], None if then is None else then[served])) if len(served) else {}
    return {name: {"as_served": value, "with_rules": second.get(name), "higher_is_better": METRICS[name].higher_is_better} for name, value in first.items()}, len(matched)
