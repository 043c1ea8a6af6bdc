"""Champion against challengers, or against a replayed model, on the rows that both scored and whose outcomes had their time.

The five blocks of time decide (`models.comparing`); tests over rows stand beside them, with what they assume.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from models.comparing import BLOCKS, INDEPENDENT, LEAST_MATCHED, LEVEL, block_p, blocks_of, bootstrap, holm, interval_of, mcnemar
from models.metrics import METRICS
from models.payoff import Payoff, worth_of
from models.registry import Registry
from models.schema import Target
from stream import queries
from stream.association import literal
from stream.clickhouse import EventLog
from stream.clock import iso
from stream.errors import Refused
from stream.learners import target_package
from stream.projections.catalog import Catalog
from stream.queries import Scored, Window
from stream.recount import package_of

REPLAYED = "replayed:"


def comparison_answer(log: EventLog, registry: Registry, catalog: Catalog, window: Window) -> dict[str, Any]:
    """Each challenger's difference to the champion: mean, 95 % interval by Student's t over five blocks."""
    deployment = catalog.deployment(window.deployment)
    champion = deployment.now.champion
    package = package_of(registry, champion)
    target, metric = package.schema.target, package.metadata["metric"]
    roles = "role IN ('champion', 'challenger')"
    if not deployment.now.challengers:
        return {"champion": champion, "metric": metric, "challengers": [], "mature_until": None, "mature_sql": queries.ripe_sql(window.deployment, window.as_of), "sql": queries.outcomes_sql(window, target.task, roles=roles, ordered=True), "status": "unknown"}
    sql, rows, until = matured_rows(log, registry, catalog, window, target, roles=roles)
    mine = {i: k for k, i in zip(np.nonzero(rows.models == champion)[0].tolist(), rows.ids[rows.models == champion].tolist(), strict=True)}
    compared = []
    for model_id, _ in deployment.now.challengers:
        theirs = np.nonzero(rows.models == model_id)[0]
        pairs = [(mine[i], k) for k, i in zip(theirs.tolist(), rows.ids[theirs].tolist(), strict=True) if i in mine]
        a = np.array([p[0] for p in pairs], dtype=np.int64)
        b = np.array([p[1] for p in pairs], dtype=np.int64)
        compared.append({**described(catalog, model_id), "rows": len(pairs), **beside(rows, a, b, metric, deployment.settings.get("payoff"))})
    return {"champion": champion, "metric": metric, "challengers": judged(compared), "mature_until": until, "mature_sql": queries.ripe_sql(window.deployment, window.as_of), "sql": sql, "status": "passing"}


def replay_comparison(log: EventLog, registry: Registry, catalog: Catalog, window: Window, replay_id: str) -> dict[str, Any]:
    """What would have been, had a model served a window through which it was replayed: beside what was served, by whoever it was."""
    deployment = catalog.deployment(window.deployment)
    job = catalog.jobs.get(replay_id)
    if job is None or job.kind != "replay" or job.deployment != deployment.name:
        raise Refused("unknown", "unknown_job", f"{deployment.name!r} has no replay {replay_id!r}")
    package = package_of(registry, deployment.now.champion)
    roles = f"(role = 'champion' OR (role = 'replay' AND replay_id = {literal(replay_id)}))"
    row_id = f"concat(if(role = 'replay', '{REPLAYED}', ''), request_id, '/', association_id)"
    sql, rows, until = matured_rows(log, registry, catalog, window, package.schema.target, roles=roles, row_id=row_id)
    places: dict[str, int] = {}
    for k, name in enumerate(rows.ids.tolist()):
        places[name] = -1 if name in places else k  # twice in one request: nobody knows which is which
    pairs = [(k, places.get(REPLAYED + name, -1)) for name, k in places.items() if k >= 0 and not name.startswith(REPLAYED)]
    a, b = (np.array([pair[side] for pair in pairs if pair[1] >= 0], dtype=np.int64) for side in (0, 1))
    metric = package.metadata["metric"]
    found = {**described(catalog, str(job.request["model_id"])), "rows": len(a), **beside(rows, a, b, metric, deployment.settings.get("payoff"))}
    return {"champion": deployment.now.champion, "replay_id": replay_id, "state": job.state, "metric": metric, "challengers": judged([found]), "mature_until": until, "mature_sql": queries.ripe_sql(window.deployment, window.as_of), "sql": sql, "status": "passing"}


def matured_rows(log: EventLog, registry: Registry, catalog: Catalog, window: Window, target: Target, *, roles: str, row_id: str = queries.ROW_ID) -> tuple[str, Scored, str | None]:
    """The SELECT of a window's matched rows, those of them that may be compared, and up to when that is where it is not all: outcomes that come early need not be like the others."""
    sql, table = queries.outcome_rows(log, window, target.task, roles=roles, ordered=True, row_id=row_id)
    until = queries.mature_until(log, window, table.num_rows, queries.count_rows(log, window, roles=roles))
    if until is not None:
        table = table.filter(pc.less_equal(table.column("time"), until))
    rows = queries.scored(table, target.task, lambda m: target_package(registry, catalog.models, m).schema.target.classes, target.classes)
    return sql, rows, None if until is None else iso(until)


def described(catalog: Catalog, model_id: str) -> dict[str, Any]:
    """Who is compared."""
    model = catalog.models[model_id]
    return {"model_id": model_id, "blueprint": model.blueprint, "ms_per_row": model.summary.get("ms_per_row")}


def beside(rows: Scored, a: Any, b: Any, metric: str, payoff: Payoff | None) -> dict[str, Any]:
    """Champion (a) and challenger (b) on the same rows: metrics, tests over rows, money."""
    return {"metrics": paired(rows, a, b), "row_test": row_test(rows, a, b, metric), "payoff": gain(rows, a, b, payoff)}


def paired(rows: Scored, a: Any, b: Any) -> dict[str, Any]:
    """Each metric of champion (a) and challenger (b), their difference, and what five blocks of time say of it."""
    if not len(a):
        return {}
    first, second = rows.metrics(a), rows.metrics(b)
    differences: dict[str, list[float]] = {}
    if len(a) >= LEAST_MATCHED:
        for part in blocks_of(rows.times[a]):
            x = rows.metrics(a[part])
            z = rows.metrics(b[part])
            for name in x:
                differences.setdefault(name, []).append(z[name] - x[name])
    out = {}
    for name in first:
        entry: dict[str, Any] = {"champion": first[name], "challenger": second[name], "difference": second[name] - first[name]}
        out[name] = entry | by_blocks(differences.get(name, []))
    return out


def by_blocks(differences: list[float]) -> dict[str, Any]:
    """The interval and p-value of a mean difference over five blocks; nothing where a block has none."""
    if len(differences) < BLOCKS or not np.all(np.isfinite(differences)):
        return {}
    return {"interval": interval_of(differences), "p_value": block_p(differences)}


def judged(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of each challenger, metric and payoff whether it is better: with several challengers one of them seems so by chance more easily, which Holm's adjustment undoes."""
    for name, metric in METRICS.items():
        adjust([entry for one in compared if "p_value" in (entry := one["metrics"].get(name, {}))], up=metric.higher_is_better)
    adjust([entry for one in compared if "p_value" in (entry := one.get("payoff") or {})], up=True)
    return compared


def adjust(entries: list[dict[str, Any]], *, up: bool) -> None:
    """Put the adjusted p-value and the judgement into comparisons of one number, by several challengers."""
    for entry, adjusted in zip(entries, holm([entry["p_value"] for entry in entries]), strict=True):
        ahead = sum(entry["interval"]) > 0 if up else sum(entry["interval"]) < 0
        entry |= {"p_adjusted": adjusted, "better": ahead and adjusted < LEVEL}


def row_test(rows: Scored, a: Any, b: Any, metric: str) -> dict[str, Any] | None:
    """Champion (a) and challenger (b), were rows independent: the bootstrap's interval of the difference in a metric, and of classes McNemar's test of what was decided."""
    if not len(a):
        return None
    decided = {} if rows.chosen is None else mcnemar(rows.chosen[a] == rows.y[a], rows.chosen[b] == rows.y[b])
    return {**decided, "metric": metric, "interval": bootstrap(lambda some: rows.metric(metric, b[some]) - rows.metric(metric, a[some]), len(a)), "assumes": INDEPENDENT}


def gain(rows: Scored, a: Any, b: Any, payoff: Payoff | None) -> dict[str, Any] | None:
    """What a challenger (b) would have brought more than the champion (a) on the same rows, with the five-block interval of a row's mean."""
    worth = rows.worths(payoff)
    if worth is None or not len(a):
        return None
    first, second, difference = worth[a], worth[b], worth[b] - worth[a]
    parts = blocks_of(rows.times[a]) if len(a) >= LEAST_MATCHED else []
    means = [float(np.nanmean(difference[part])) for part in parts if np.isfinite(difference[part]).any()]
    found = by_blocks(means)
    more = {**found, "interval_per_row": found["interval"]} if found else {}
    return {"champion": worth_of(first), "challenger": worth_of(second), "gain": worth_of(difference), **more}
