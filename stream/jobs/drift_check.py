"""A drift check: whether the rows of a window can be told from those that a model was trained on, or from those of another window."""

from __future__ import annotations

import numpy as np

from models.errors import DataError
from models.multivariate import MOST_ROWS, row_distances, tell_apart
from models.registry import Artifacts, Registry
from models.table import read_table
from models.types import Floats
from stream.association import literal
from stream.clickhouse import DICTIONARIES, EventLog
from stream.clock import parse_time
from stream.events import DriftChecked, DriftCheckRequested
from stream.projections.catalog import Catalog
from stream.recount import package_of
from stream.rows import base_of, logged


def check(log: EventLog, registry: Registry, artifacts: Artifacts, catalog: Catalog, deployment: str, asked: DriftCheckRequested) -> DriftChecked:
    """Do it; DataError where there is nothing to compare with."""
    package = package_of(registry, asked.model_id)
    window, sql = sampled(log, registry, deployment, asked.model_id, asked.start, asked.end)
    if asked.reference_start:
        reference, _ = sampled(log, registry, deployment, asked.model_id, asked.reference_start, asked.reference_end)
    else:
        reference = trained_on(registry, artifacts, catalog, asked.model_id)
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


def trained_on(registry: Registry, artifacts: Artifacts, catalog: Catalog, model_id: str) -> Floats:
    """A seeded sample of the rows of a model's project; DataError where no project of it is kept."""
    model = catalog.models.get(model_id)
    project = catalog.projects.get(model.project_id) if model else None
    if project is None or not project.file:
        raise DataError("no_reference", "the rows that this model was trained on are not here: give a reference window")
    table = read_table(artifacts.read(project.file))
    chosen = np.sort(np.random.default_rng(20261123).permutation(len(table))[:MOST_ROWS])
    return package_of(registry, model_id).schema.encode_table(table.take(chosen))
