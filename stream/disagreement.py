"""Where a challenger says something else than the champion, on the rows that both scored.

The difference of a row is the greatest of its classes' probabilities, or that of the two values; whether the actuals are
known plays no part. How much of the differences an input explains is eta squared (Pearson 1903): the share of their
variance that lies between the bins of the champion's baseline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from models.baseline import Bins
from models.registry import Registry
from models.types import Floats
from stream.association import literal
from stream.clickhouse import DICTIONARIES, EventLog
from stream.clock import iso
from stream.queries import SHADOWED, Window
from stream.recount import package_of
from stream.rows import base_of, logged

MOST_ROWS = 200_000
LEAST_ROWS = 30  # of a bin, to be shown
DIFFERENCE = "if(empty(p.probabilities) OR length(p.probabilities) != length(c.probabilities), abs(p.predicted_value - c.predicted_value), arrayMax(arrayMap((a, b) -> abs(a - b), p.probabilities, c.probabilities)))"


def pairs(window: Window, model_id: str) -> str:
    """The rows that a champion answered and a challenger scored too, as p and c."""
    where = replace(window, model_id="").where()
    theirs = replace(window, model_id="", segment="").where()
    return f"""FROM (SELECT * FROM predictions WHERE {where} AND role = 'champion' AND model_id != {literal(model_id)}) AS p
INNER JOIN (SELECT {SHADOWED} AS row_id, predicted_value, predicted_class, probabilities FROM predictions
    WHERE {theirs} AND role = 'challenger' AND model_id = {literal(model_id)}) AS c ON p.event_id = c.row_id"""


def totals(log: EventLog, window: Window, model_id: str) -> tuple[dict[str, Any], str]:
    """Rows, the mean difference, and the share of rows with another class (None for values); and the SELECT."""
    sql = f"SELECT count() AS rows, avg({DIFFERENCE}) AS mean, countIf(p.predicted_class != c.predicted_class) / count() AS rate, max(p.predicted_class) != '' AS classes\n{pairs(window, model_id)}"
    row = log.rows(sql)[0]
    if not row["rows"]:
        return {"rows": 0, "mean": None, "rate": None}, sql
    return {"rows": int(row["rows"]), "mean": float(row["mean"]), "rate": float(row["rate"]) if row["classes"] else None}, sql


def explore(log: EventLog, registry: Registry, window: Window, champion: str, model_id: str, limit: int) -> dict[str, Any]:
    """How often and how far they differ, in which classes, at which values of which inputs, and on which rows most."""
    found, sql = totals(log, window, model_id)
    joined = pairs(window, model_id)
    confusion = log.rows(f"SELECT p.predicted_class AS champion, c.predicted_class AS challenger, count() AS rows\n{joined} GROUP BY champion, challenger ORDER BY rows DESC LIMIT 100") if found["rate"] is not None else []
    most = f"""SELECT p.association_id AS association_id, p.request_id AS request_id, toUnixTimestamp64Micro(p.occurred_at) AS time, {DIFFERENCE} AS difference,
    p.predicted_class AS champion_class, c.predicted_class AS challenger_class, p.predicted_value AS champion_value, c.predicted_value AS challenger_value
{joined} ORDER BY difference DESC, p.event_id LIMIT {limit}"""
    rows = [{"at": iso(row.pop("time")), **row} for row in log.rows(most)]
    return {"champion": champion, "model_id": model_id, "totals": found, "classes": confusion, "inputs": inputs(log, registry, window, champion, model_id) if found["rows"] else [], "rows": rows, "sql": {"totals": sql, "rows": most}}


def inputs(log: EventLog, registry: Registry, window: Window, champion: str, model_id: str) -> list[dict[str, Any]]:
    """Of each input of the champion how much of the differences it explains, and its bins; the greatest first. Of very many rows, the newest."""
    package = package_of(registry, champion)
    sql = f"SELECT p.features_num AS features_num, p.features_cat AS features_cat, {DIFFERENCE} AS difference\n{pairs(window, model_id)} ORDER BY p.recorded_at DESC LIMIT {MOST_ROWS}"
    table = log.arrow(sql, settings=DICTIONARIES)
    base = base_of(package.schema, logged(table))
    differences = table.column("difference").to_numpy()
    told = [by_bin(bins, base[:, k], differences) for k, bins in enumerate(package.baseline.features)]
    return sorted(told, key=lambda one: -one["explains"])


def by_bin(bins: Bins, values: Floats, differences: Floats) -> dict[str, Any]:
    """One input: eta squared, and the mean difference of each bin that has enough rows, the greatest first."""
    place = bins.place(values)
    counts = np.bincount(place, minlength=bins.size)
    sums = np.bincount(place, weights=differences, minlength=bins.size)
    means = np.divide(sums, counts, out=np.zeros(bins.size), where=counts > 0)
    whole = float(((differences - differences.mean()) ** 2).sum())
    between = float((counts * (means - differences.mean()) ** 2).sum())
    groups = [{"label": bins.labels[k], "rows": int(counts[k]), "mean": float(means[k])} for k in np.argsort(-means) if counts[k] >= LEAST_ROWS]
    return {"name": bins.name, "explains": between / whole if whole else 0.0, "groups": groups}
