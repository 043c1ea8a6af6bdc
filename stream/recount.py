"""Drift counts made again from the stored rows.

To prove the live ones, to rebuild lost ones, and for questions that no fold answers: as it was known
then, of one segment, of minutes from which a row was erased.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.baseline import Baseline, drift_score
from models.package import ModelPackage
from models.registry import Registry
from models.types import Floats, Ints
from stream.association import literal
from stream.clickhouse import DICTIONARIES, EventLog
from stream.projections.arrivals import MINUTE
from stream.rows import base_of, column, logged

CHUNK = 50_000
Counts = dict[tuple[str, int], Ints]  # (model, minute) → bins and sums
LOADED: dict[str, ModelPackage] = {}


def package_of(registry: Registry, model_id: str) -> ModelPackage:
    """A package, loaded once a process."""
    if model_id not in LOADED:
        LOADED[model_id] = registry.load(model_id)
    return LOADED[model_id]


def pages(log: EventLog, deployment: str, condition: str) -> Iterator[pa.Table]:
    """A deployment's champion rows in the table's own order, in bounded pieces."""
    after = "1"
    while True:
        sql = f"""SELECT model_id, event_id, toUnixTimestamp64Micro(recorded_at) AS recorded, toUnixTimestamp64Micro(occurred_at) AS time,
    features_num, features_cat, predicted_value, probabilities
FROM predictions WHERE deployment = {literal(deployment)} AND role = 'champion' AND {after} AND ({condition})
ORDER BY recorded_at, event_id LIMIT {CHUNK}"""
        found = log.arrow(sql, settings=DICTIONARIES)
        if not found.num_rows:
            return
        yield found
        time = f"fromUnixTimestamp64Micro({found.column('recorded')[-1].as_py()})"
        after = f"recorded_at >= {time} AND (recorded_at, event_id) > ({time}, {literal(found.column('event_id')[-1].as_py())})"  # of the tuple alone the engine makes no range of its index: all rows before are read again


def recount(log: EventLog, registry: Registry, deployment: str, condition: str = "1", reader: str = "", baseline: Baseline | None = None) -> tuple[Counts, int]:
    """Counts of each model and minute, and how many rows were read.

    Each model's rows are read as it reads them, into the bins of its own baseline; or all rows as the model `reader` does, into its own bins or others.
    """
    counts: Counts = {}
    rows = 0
    for page in pages(log, deployment, condition):
        rows += page.num_rows
        for model_id in pc.unique(page.column("model_id")).to_pylist():
            package, own = package_of(registry, reader or model_id), page.filter(pc.equal(page.column("model_id"), model_id))
            comparable = package_of(registry, model_id).schema.target.classes == package.schema.target.classes
            add(counts, package, reader or model_id, baseline or package.baseline, own, comparable=comparable)
    return counts, rows


def add(counts: Counts, package: ModelPackage, model_id: str, baseline: Baseline, part: pa.Table, *, comparable: bool = True) -> None:
    """Count rows as one model reads them; answers of other classes than its own are missing."""
    minutes, group = np.unique(part.column("time").to_numpy() // MINUTE, return_inverse=True)
    found = counted(package, baseline, logged(part), part, group, len(minutes), comparable=comparable)
    for minute, row in zip(minutes.tolist(), found, strict=True):
        key = (model_id, minute)
        counts[key] = counts[key] + row if key in counts else row


def counted(package: ModelPackage, baseline: Baseline, inputs: pa.Table, answers: pa.Table, group: Ints, size: int, *, comparable: bool = True) -> Ints:
    """Rows as counts over a baseline's bins, then their sums: (size, bins and sums); a row counts in its group."""
    score = drift_score(package.schema.target, outputs_from(package, answers)) if comparable else np.full(len(answers), np.nan)
    counts = baseline.counts(base_of(package.schema, inputs), score, group.astype(np.int64), size)
    return np.hstack([counts, baseline.sums(column(answers, "predicted_value").to_numpy(), group, size)])


def outputs_from(package: ModelPackage, own: pa.Table) -> Floats:
    """A model's outputs (n, K) out of the logged columns."""
    if package.schema.target.task == "regression":
        return np.asarray(column(own, "predicted_value").to_numpy(zero_copy_only=False)).reshape(-1, 1)
    flat = pc.list_flatten(column(own, "probabilities")).to_numpy(zero_copy_only=False)
    return np.asarray(flat).reshape(-1, len(package.schema.target.classes))
