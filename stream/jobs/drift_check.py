"""A drift check: whether the rows of a window can be told from those that a model was trained on, or from those of another window."""

from __future__ import annotations

import numpy as np

from models.multivariate import MOST_ROWS, row_distances, tell_apart
from models.registry import Registry
from models.types import Floats
from stream.association import literal
from stream.clickhouse import DICTIONARIES, EventLog
from stream.clock import parse_time
from stream.events import DriftChecked, DriftCheckRequested
from stream.projections.catalog import Catalog
from stream.recount import package_of
from stream.recut import trained_on
from stream.rows import base_of, logged


def check(log: EventLog, registry: Registry, catalog: Catalog, deployment: str, asked: DriftCheckRequested) -> DriftChecked:
    """Do it; DataError where there is nothing to compare with."""
    package = package_of(registry, asked.model_id)
    window, sql = sampled(log, registry, deployment, asked.model_id, asked.start, asked.end)
    if asked.reference_start:
        reference, _ = sampled(log, registry, deployment, asked.model_id, asked.reference_start, asked.reference_end)
    else:
        reference = trained_on(registry, catalog, asked.model_id)
    found = tell_apart(package.schema, reference, window)
    return DriftChecked(asked.check_id, asked.model_id, asked.start, asked.end, found.auc, found.low, found.high, found.status, found.importance, len(window), len(reference), sql, distances=row_distances(package.schema, reference, window))


def sampled(log: EventLog, registry: Registry, deployment: str, model_id: str, start: str, end: str) -> tuple[Floats, str]:
    """At most 20,000 base rows of a window, by the hash of their ids, and their SELECT."""
    sql = f"""SELECT features_num, features_cat FROM predictions WHERE deployment = {literal(deployment)} AND role = 'champion'
AND occurred_at >= fromUnixTimestamp64Micro({parse_time(start)}) AND occurred_at < fromUnixTimestamp64Micro({parse_time(end)}) ORDER BY cityHash64(event_id) LIMIT {MOST_ROWS}"""
    table = log.arrow(sql, settings=DICTIONARIES)
    schema = package_of(registry, model_id).schema
    if not table.num_rows:
        return np.zeros((0, len(schema.features))), sql
    return base_of(schema, logged(table)), sql
