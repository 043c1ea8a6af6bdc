"""Erasure: the rows of an association id, or all of a deployment, deleted where they lie.

Counts come first: the buckets of the affected minutes are counted again without the rows and saved;
then the rows go from the tables, the dead letters and the kept training sets. All of it can be done
again, so a crash between two steps leaves nothing behind. What the journals still hold of earlier rows
is dropped when it comes: their ids are known by salted hash.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from models.registry import Registry
from models.types import Bools, Ints
from stream.association import literal
from stream.batches import Batch
from stream.clickhouse import EventLog
from stream.control import Follower
from stream.events import DataErased, new_id
from stream.learners import checkpoint_of
from stream.projections.arrivals import ARRIVALS, SIZE, SUMS, arrivals_again
from stream.projections.drift import DriftFold
from stream.recount import Counts, package_of, recount

TABLES = ("predictions_log", "association_index", "actuals_log", "outcomes_log", "explanations_log")
WHOLE = ("refusals_log",)
NOW = {"mutations_sync": 2}
ASSOCIATION = "champion_association_id"


def digest_of(salt: str, association: str) -> str:
    """The salted hash that an erased id leaves."""
    return hashlib.sha256(f"{salt}:{association}".encode()).hexdigest()


class Eraser:
    """Does what erasure requests ask, and keeps late rows of erased ids out."""

    def __init__(self, log: EventLog, registry: Registry, follower: Follower) -> None:
        """Work against a log, a registry and the folded catalog."""
        self._log, self._registry, self._follower = log, registry, follower
        self._done: dict[str, dict[str, DataErased]] = {}

    def _facts(self, deployment: str) -> list[DataErased]:
        """All erasures of a deployment: those of the catalog, and those that it has not been told yet."""
        known = {fact.erasure_id: fact for fact in self._follower.catalog.erasures.get(deployment, [])}
        return list({**known, **self._done.get(deployment, {})}.values())

    def admit(self, batch: Batch) -> Batch:
        """A batch without the rows that were recorded before an erasure of their id."""
        facts = self._facts(batch.deployment) if batch.kind in {"predictions", "actuals"} else []
        if not facts:
            return batch
        recorded = batch.rows.column("recorded_at").to_numpy()
        late = np.nonzero(recorded <= max(fact.recorded_before for fact in facts))[0].tolist()
        if not late:
            return batch  # nearly always: only what a journal was behind with is older than an erasure
        ids = batch.rows.column("association_id").to_pylist()
        before = {fact.digest: fact.recorded_before for fact in sorted(facts, key=lambda f: f.recorded_before)}
        salts = {fact.salt for fact in facts if fact.digest}
        keep: Bools = np.ones(batch.rows.num_rows, dtype=bool)
        for row in late:
            digests = {"", *(digest_of(salt, ids[row]) for salt in salts if ids[row])}
            keep[row] = not any(recorded[row] <= before.get(digest, -1) for digest in digests)
        return replace(batch, rows=batch.rows.filter(pa.array(keep)))

    def prepare(self, fold: DriftFold, batch: Batch) -> None:
        """Count the affected minutes again without the rows that are to go."""
        for association in batch.rows.column("association_id").to_pylist():
            where = f"association_id = {literal(association)}" if association else "1"
            sql = f"SELECT DISTINCT model_id, intDiv(toUnixTimestamp64Micro(occurred_at), 60000000) AS minute FROM predictions WHERE deployment = {literal(batch.deployment)} AND role = 'champion' AND {where}"
            affected = [(row["model_id"], int(row["minute"])) for row in self._log.rows(sql)]
            if not affected:
                continue
            sql = f"SELECT DISTINCT intDiv(toUnixTimestamp64Micro(recorded_at), 60000000) AS minute FROM predictions WHERE deployment = {literal(batch.deployment)} AND role = 'champion' AND {where}"
            arrived = [int(row["minute"]) for row in self._log.rows(sql)]
            counts, arrivals = self._left(batch.deployment, where, {m for _, m in affected}, arrived) if association else ({}, {})
            for model_id, minute in affected:
                size = package_of(self._registry, model_id).baseline.size + SUMS
                fold.replace(batch.deployment, model_id, minute, counts.get((model_id, minute), np.zeros(size, dtype=np.int64)))
            for minute in arrived:
                fold.replace(batch.deployment, ARRIVALS, minute, arrivals.get(minute, np.zeros(SIZE + SUMS, dtype=np.int64)))

    def _left(self, deployment: str, where: str, occurred: set[int], arrived: list[int]) -> tuple[Counts, dict[int, Ints]]:
        """What some minutes hold without the rows that are to go: of event time, and of arrival."""
        before, after = (f"intDiv(toUnixTimestamp64Micro({times}), 60000000) IN ({', '.join(map(str, sorted(minutes)))}) AND NOT ({where})" for times, minutes in (("occurred_at", occurred), ("recorded_at", arrived)))
        return recount(self._log, self._registry, deployment, before)[0], arrivals_again(self._log, deployment, after)

    def erase(self, batch: Batch) -> list[tuple[str, DataErased]]:
        """Delete; answers what is to be told."""
        told = []
        for row in batch.rows.to_pylist():
            association, deployment = row["association_id"], batch.deployment
            where = f"deployment = {literal(deployment)}" + (f" AND association_id = {literal(association)}" if association else "")
            where += f" AND recorded_at <= fromUnixTimestamp64Micro({row['recorded_at']})"
            lessons = f"deployment = {literal(deployment)} AND event_id IN (SELECT event_id FROM predictions_log WHERE {where})"
            self._log.command(f"ALTER TABLE learned_log DELETE WHERE {lessons}", NOW)
            self._consumers(deployment, where)
            for table in TABLES if association else (*TABLES, *WHOLE):
                self._log.command(f"ALTER TABLE {table} DELETE WHERE {where}", NOW)
            self._log.command(f"ALTER TABLE dead_letters_log DELETE WHERE {about(deployment, association)}", NOW)
            self._matrices(deployment, association)
            self._checkpoints(deployment)
            salt = next((fact.salt for fact in self._facts(deployment)), hashlib.sha256(row["erasure_id"].encode()).hexdigest()[:16])
            fact = DataErased(row["erasure_id"], digest_of(salt, association) if association else "", salt, int(row["rows"]), int(row["recorded_at"]))
            self._done.setdefault(deployment, {})[row["erasure_id"]] = fact
            told.append((deployment, fact))
        return told

    def _consumers(self, deployment: str, where: str) -> None:
        """Forget who asked, in a minute, for nothing but the rows that are to go; before they go, for afterwards nobody could say which minutes."""
        known = f"deployment = {literal(deployment)} AND minute IN (SELECT toStartOfMinute(recorded_at) FROM predictions_log WHERE {where})"
        left = f"SELECT toStartOfMinute(recorded_at) AS minute, consumer FROM predictions_log WHERE {known} AND role = 'champion' AND NOT ({where})"
        self._log.command(f"ALTER TABLE consumers_log DELETE WHERE {known} AND (minute, consumer) NOT IN ({left})", NOW)

    def _checkpoints(self, deployment: str) -> None:
        """Empty the checkpoints of its learners: they hold what was learnt from the erased rows."""
        for model in list(self._follower.catalog.models.values()):
            name = checkpoint_of(deployment, model.model_id)
            if model.summary.get("online") and self._registry.artifacts.exists(name):
                self._registry.artifacts.write(name, b"")

    def _matrices(self, deployment: str, association: str) -> None:
        """Take the rows out of the training sets that were kept, and say so beside them."""
        for project in list(self._follower.catalog.projects.values()):
            name = project.options.get("training_set", {}).get("file", "")
            if project.deployment != deployment or not name:
                continue
            table = pyarrow.parquet.read_table(io.BytesIO(self._registry.artifacts.read(name)))
            if ASSOCIATION not in table.column_names:
                continue
            ids = table.column(ASSOCIATION)
            gone = pc.fill_null(pc.equal(ids, association), fill_value=False) if association else pc.is_valid(ids)
            rows = int(pc.sum(gone).as_py() or 0)
            if rows:
                buffer = io.BytesIO()
                pyarrow.parquet.write_table(table.filter(pc.invert(gone)), buffer, compression="zstd")
                marker = f"{name}.erased.json"
                before = json.loads(self._registry.artifacts.read(marker))["rows_erased"] if self._registry.artifacts.exists(marker) else 0
                self._registry.artifacts.write(name, buffer.getvalue())
                self._registry.artifacts.write(marker, json.dumps({"rows_erased": before + rows}).encode())


def about(deployment: str, association: str) -> str:
    """The condition of letters about an id or a deployment: by the fields where the payload is JSON, else by the whole word."""
    found = []
    for field, value in (("deployment", deployment), ("association_id", association)):
        if value:
            raw = f"trim(BOTH '\"' FROM JSONExtractRaw(text, {literal(field)}))"
            word = literal(f"(^|[^0-9A-Za-z_.-]){re.escape(value)}($|[^0-9A-Za-z_.-])")
            found.append(f"if(isValidJSON(text), {raw} = {literal(value)}, match(text, {word}))")
    if association:
        found[0] = f"({found[0]} OR NOT isValidJSON(text) OR NOT JSONHas(text, 'deployment'))"  # an id says enough where no deployment is named
    return " AND ".join(found).replace("text", "base64Decode(payload)")


def event_id(fact: DataErased) -> str:
    """One event an erasure, however often it is done."""
    return new_id(f"erased:{fact.erasure_id}")
