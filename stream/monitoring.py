"""Drift, data quality and accuracy as answers: the questions of `queries.py` and the numbers made of them.

Gateway, portal and worker give the same answers because they are made here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc

from models import drift as distances
from models.baseline import Baseline
from models.classes import by_class
from models.comparing import LEAST_MATCHED, blocks_of, interval_of
from models.conformal import realised as realised_coverage
from models.metrics import METRICS
from models.payoff import worth_of
from models.quality import quality_of
from models.registry import Registry
from models.reliability import reliability
from models.types import Status
from stream import queries
from stream.clickhouse import EventLog
from stream.clock import iso, now_us
from stream.estimates import estimate_answer
from stream.learners import target_package
from stream.present_rule import rule_answer
from stream.projections.arrivals import SUMS
from stream.projections.catalog import Catalog, Deployment
from stream.queries import Window
from stream.recount import package_of, recount
from stream.recut import FROZEN, Look
from stream.references import TRAINING, reference_of
from stream.unread import texts_answer, unread_answer

WARNING, FAILING = 0.05, 0.10


def drift_answer(log: EventLog, registry: Registry, window: Window, model_id: str, look: Look = FROZEN) -> dict[str, Any]:
    """Totals by feature and buckets over time, of one baseline; by default against the training data, in the frozen bins."""
    package = package_of(registry, model_id)
    baseline, importance = look.baseline or package.baseline, package.metadata["importance"]
    counts_of = partial(bin_counts, log, registry, model_id, baseline=look.baseline)
    other = reference_of(look.reference, window, partial(counts_of_all, log, registry, model_id, baseline=look.baseline), baseline.size)
    sql, rows = counts_of(window)
    total = np.zeros(baseline.size, dtype=np.int64)
    buckets = []
    for row in rows:
        counts = np.array(row["counts"], dtype=np.int64)
        total += counts
        parts = variables(baseline.against(other.of([row["at"]], window.bucket)) if other else baseline, counts, importance, look)
        buckets.append(
            {
                "at": iso(row["at"] * 1_000_000),
                "rows": int(sum(baseline.split(counts)[-1][1])),
                "features": {p["name"]: p["psi"] for p in parts[:-1]},
                "prediction": parts[-1]["psi"],
                "status": distances.worst([p["status"] for p in parts]),
            }
        )
    if other:
        baseline = baseline.against(other.of([row["at"] for row in rows], window.bucket))
    parts = variables(baseline, total, importance, look)
    features, prediction = parts[:-1], parts[-1]
    wrong = {} if window.segment else wrong_types(log, window)[2]
    for part in parts:
        part.update(detail(baseline, total, part["name"], wrong.get(part["name"], 0)))
    texts, unread = texts_answer(log, package, window), unread_answer(log, package, window)
    return {
        "model_id": model_id,
        "baseline_id": model_id,
        "thresholds": {"warning": look.warning, "failing": look.failing},
        "reference": other.told() if other else {"kind": TRAINING},
        "totals": {"rows": prediction["rows"], "features": features, "prediction": prediction, "texts": texts, "unread": unread},
        "buckets": buckets,
        "unused": list(package.schema.unused),
        "status": distances.worst([p["status"] for p in parts]),
        "weighed_status": distances.weighed([(p["status"], p["importance"]) for p in features]),
        "sql": sql,
    }


def bin_counts(log: EventLog, registry: Registry, model_id: str, window: Window, baseline: Baseline | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Bin counts a bucket, from the fold or, where it has none, from the rows; and the SELECT."""
    if window.folded and baseline is None:
        return queries.drift_counts(log, window, model_id)
    return counts_from_rows(log, registry, window, model_id, baseline)


def counts_of_all(log: EventLog, registry: Registry, model_id: str, window: Window, baseline: Baseline | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Bin counts a bucket of all that was answered, by this model or by those before it: their rows as this one reads them, with what was said of them."""
    window = replace(window, model_id="")
    answered = {row["baseline_id"] for row in log.rows(f"SELECT DISTINCT baseline_id FROM drift_counts WHERE {window.minutes()}")}
    if answered <= {model_id}:
        return bin_counts(log, registry, model_id, window, baseline)
    return counts_from_rows(log, registry, window, model_id, baseline, by="")


def counts_from_rows(log: EventLog, registry: Registry, window: Window, model_id: str, baseline: Baseline | None = None, by: str | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Bin counts a bucket where no fold has them: of a segment, as they were known at a time, in other bins; of the rows that the model answered, or `by` another (empty: by any)."""
    condition = replace(window, model_id=model_id if by is None else by).where()
    found, _ = recount(log, registry, window.deployment, condition, model_id, baseline)
    buckets: dict[int, Any] = {}
    for (_, minute), bucket in found.items():
        counts = bucket[:-SUMS]
        at = minute * 60 // window.bucket * window.bucket
        buckets[at] = buckets[at] + counts if at in buckets else counts
    sql = f"SELECT features_num, features_cat, predicted_value, probabilities FROM predictions WHERE {condition} AND role = 'champion'"
    return sql, [{"at": at, "counts": counts} for at, counts in sorted(buckets.items())]


def variables(baseline: Baseline, counts: Any, importance: dict[str, float], look: Look = FROZEN) -> list[dict[str, Any]]:
    """PSI and status of each variable, the prediction last."""
    out = []
    size = len(baseline.features)
    for bins, found in baseline.split(counts):
        reference, production = bins.merged(bins.reference), bins.merged(found)
        value = distances.psi(reference, production) if production.sum() and reference.sum() else None
        status: Status = distances.status_of(value, reference, production, size, warning=look.warning, failing=look.failing) if value is not None else "unknown"
        out.append({"name": bins.name, "psi": value, "status": status, "importance": importance.get(bins.name), "quadrant": distances.quadrant_of(status, importance.get(bins.name)), "rows": int(production.sum())})
    return out


def detail(baseline: Baseline, counts: Any, name: str, wrong: int) -> dict[str, Any]:
    """The bins of one variable, as they were counted and as shares."""
    bins, found = next((b, c) for b, c in baseline.split(counts) if b.name == name)
    pairs = zip(bins.labels, bins.reference, found.tolist(), strict=True)
    a, b = bins.merged(bins.reference), bins.merged(found)
    others = {d.__name__: d(a, b) for d in (distances.jensen_shannon, distances.hellinger, distances.kl_divergence, distances.chi_squared)} if a.sum() and b.sum() else {}
    return {"kind": bins.kind, "quality": quality_of(bins, found, len(baseline.features), wrong), "bins": [{"label": label, "reference": r, "production": p} for label, r, p in pairs], "edges": list(bins.edges), "distances": others}


def quality_answer(log: EventLog, registry: Registry, window: Window, model_id: str) -> dict[str, Any]:
    """What is missing, out of range or unseen in each input against the reference, and the requests that were refused."""
    package = package_of(registry, model_id)
    baseline = package.baseline
    sql, rows = bin_counts(log, registry, model_id, window)
    total = np.sum([row["counts"] for row in rows], axis=0, dtype=np.int64) if rows else np.zeros(baseline.size, dtype=np.int64)
    received, wrong_sql, wrong = wrong_types(log, window)
    refusals = f"SELECT code, count() AS requests FROM refusals WHERE {received} AND status >= 400 GROUP BY code ORDER BY code"
    refused = {row["code"]: int(row["requests"]) for row in log.rows(refusals)}
    parts = baseline.split(total)[:-1]
    inputs = [{"name": bins.name, "kind": bins.kind, "rows": int(counts.sum()), **quality_of(bins, counts, len(parts), wrong.get(bins.name, 0))} for bins, counts in parts]
    return {"model_id": model_id, "inputs": inputs, "status": distances.worst([i["status"] for i in inputs]), "refused": refused, "sql": sql, "refused_sql": refusals, "wrong_type_sql": wrong_sql}


def wrong_types(log: EventLog, window: Window) -> tuple[str, str, dict[str, int]]:
    """The condition of what was refused in a window, which has no event time and no inputs; how many rows a wrong type spoilt by input, and the SELECT."""
    received = replace(window, model_id="", segment="").where(times="recorded_at")
    sql = f"SELECT input, sum(spoilt) AS rows FROM refusals ARRAY JOIN mapKeys(wrong) AS input, mapValues(wrong) AS spoilt WHERE {received} GROUP BY input ORDER BY input"
    return received, sql, {row["input"]: int(row["rows"]) for row in log.rows(sql)}


def accuracy_answer(log: EventLog, registry: Registry, catalog: Catalog, window: Window, *, whole_story: bool = False) -> dict[str, Any]:
    """Totals, buckets, status against the baseline from the holdout; it is unknown while the window is not mature: less than 95 % of its rows have their outcome, and the others still have time.

    The whole story has label delay and the estimate before the actuals too; tiles and most alerts do not pay for them.
    """
    deployment = catalog.deployment(window.deployment)
    package = target_package(registry, catalog.models, window.model_id or deployment.now.champion)
    target = package.schema.target
    roles = queries.roles_of(window)
    adapting = "adaptive_intervals" in deployment.settings
    sql, table = queries.outcome_rows(log, window, target.task, roles=roles, more=queries.RECEIVED if adapting else "")
    with ThreadPoolExecutor(4) as beside:  # all of it waits for the engine or is made by NumPy, which lets others run
        counted = beside.submit(queries.count_rows, log, window, roles=roles)
        delay = beside.submit(queries.label_delay, log, window, roles=roles) if whole_story and window.as_of is None else None
        rows = queries.scored(table, target.task, lambda m: target_package(registry, catalog.models, m).schema.target.classes, target.classes)
        by_block = beside.submit(block_values, rows) if len(rows.y) >= LEAST_MATCHED else None
        by_bucket = beside.submit(queries.metrics_by_bucket, rows, window)
        realised = rows.metrics(slice(None))
        (whole, last), blocks = counted.result(), by_block.result() if by_block else {}
    enough = queries.mature_until(log, window, table.num_rows, (whole, last)) is None
    values = queries.finite(realised)
    baseline = package.metadata["metrics"]
    metrics = {}
    for name, value in values.items():
        metrics[name] = {"value": value, "interval": interval_of(blocks.get(name)), "baseline": baseline.get(name), "status": metric_status(name, value, baseline.get(name), blocks.get(name), len(rows.y)) if enough else "unknown"}
    main = package.metadata["metric"]
    worth = rows.worths(deployment.settings.get("payoff"))
    guess = estimate_answer(log, registry, window, rows, realised, whole) if whole_story and not window.model_id else None
    names = sorted(pc.unique(table.column("model_id")).to_pylist())
    coverage = covered(registry, catalog, deployment, rows) if target.task == "regression" else {}
    counts = {"rows": whole, "matched": table.num_rows, "waiting": whole - table.num_rows, "match_rate": table.num_rows / whole if whole else None, "mature": enough}
    counts |= {"rows_sql": queries.count_sql(window, roles=roles), "mature_sql": queries.ripe_sql(window.deployment, window.as_of)}
    if delay is not None:
        counts |= {"label_delay_seconds": delay.result(), "label_delay_sql": queries.delay_sql(window, roles=roles)}
    return {
        "model_id": window.model_id or None,
        "models": names,
        "metric": main,
        "totals": {"metrics": metrics, **counts, "unseen_label_rows": rows.unseen, "coverage": coverage or None, "payoff": None if worth is None else worth_of(worth)},
        "estimated": guess,
        "calibration": reliability(target.task, rows.y, rows.p) if whole_story else None,
        "by_class": by_class(rows.y, rows.chosen, rows.labels) if whole_story and rows.chosen is not None and len(rows.y) else None,
        "buckets": by_bucket.result(),
        "status": metrics[main]["status"],
        "sql": sql,
    }


def accuracy_story(log: EventLog, registry: Registry, catalog: Catalog, window: Window) -> dict[str, Any]:
    """The whole story for a person: with the rule that decides at present beside it, for which the matched rows are read once more."""
    found = accuracy_answer(log, registry, catalog, window, whole_story=True)
    found["totals"]["present_rule"] = rule_answer(log, registry, catalog, window, mature=found["totals"]["mature"])
    return found


def covered(registry: Registry, catalog: Catalog, deployment: Deployment, rows: queries.Scored) -> dict[str, float]:
    """The share of values inside their intervals by level, of each model and time by those that were in force when the row was recorded."""
    adapted = catalog.watch.adapted(deployment.name, deployment.settings.get("adaptive_intervals"))
    errors, parts = np.abs(rows.y - rows.p), []
    for name in np.unique(rows.models.astype(str)).tolist():
        residuals = target_package(registry, catalog.models, name).metadata.get("residual_quantiles") or {}
        mine, changes = rows.models == name, adapted.get(name, [])
        period = np.searchsorted([at for at, _ in changes], rows.received[mine], side="right") if changes else np.zeros(mine.sum(), dtype=np.int64)
        parts += [(errors[mine][period == k], residuals, changes[k - 1][1] if k else {}) for k in np.unique(period).tolist()]
    return realised_coverage(parts)


def block_values(rows: queries.Scored) -> dict[str, list[float]]:
    """Each metric in five contiguous blocks of equal time; nothing where a block has no rows."""
    found: dict[str, list[float]] = {}
    for part in blocks_of(rows.times):
        for name, value in rows.metrics(part).items():
            found.setdefault(name, []).append(value)
    return found


def metric_status(name: str, value: float | None, baseline: float | None, blocks: list[float] | None, count: int) -> Status:
    """Warning from 5 %, failing from 10 % worse, where the five-block interval excludes the baseline too."""
    if value is None or baseline is None or count < LEAST_MATCHED or not blocks or not np.all(np.isfinite(blocks)):
        return "unknown"
    sign = 1.0 if METRICS[name].higher_is_better else -1.0
    worse = sign * (baseline - value) / max(abs(baseline), 1e-12)
    around = interval_of(blocks)
    if worse < WARNING or around is None or around[0] <= baseline <= around[1]:
        return "passing"
    return "failing" if worse >= FAILING else "warning"


def results(log: EventLog, registry: Registry, catalog: Catalog, deployment: str) -> list[bytes]:
    """A deployment's drift and accuracy since it began, as messages for other programs."""
    found: list[dict[str, Any]] = [{"kind": "accuracy", "models": queries.accuracy_totals(log, deployment)}]
    known = catalog.deployments.get(deployment)
    if known is not None:
        drift = drift_answer(log, registry, Window(deployment), known.now.champion)
        variables = [*drift["totals"]["features"], drift["totals"]["prediction"]]
        brief = [{k: v[k] for k in ("name", "psi", "status", "importance", "rows")} for v in variables]
        found.append({"kind": "drift", "model_id": drift["model_id"], "status": drift["status"], "variables": brief})
    return [orjson.dumps({**r, "deployment": deployment, "at": now_us()}, option=orjson.OPT_SERIALIZE_NUMPY) for r in found]
