"""Columns that no model reads, as an answer: what is written in texts, and whether a column is filled at all.

They tell that the world or the data changed; the drift of a model's inputs has a status of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.drift import psi, status_of
from models.package import ModelPackage
from models.texts import MOST_ROWS, text_drift, text_reference
from stream.association import literal
from stream.clickhouse import EventLog
from stream.queries import Window


def texts_answer(log: EventLog, package: ModelPackage, window: Window) -> list[dict[str, Any]]:
    """Lengths and unknown words of each text column against those of training, of a sample of a window's rows; none where a package knows of no texts."""
    references = [text_reference(data) for data in package.metadata.get("texts") or []]
    out = []
    for reference in references:
        name = literal(reference.name)
        sql = f"SELECT if(mapContains(features_cat, {name}), features_cat[{name}], NULL) AS text FROM predictions WHERE {window.where()} AND role = 'champion' ORDER BY cityHash64(event_id) LIMIT {MOST_ROWS}"
        texts = log.arrow(sql).column("text").to_pylist()
        out.append({**text_drift(reference, texts, len(references)), "sql": sql})
    return out


def unread_answer(log: EventLog, package: ModelPackage, window: Window) -> list[dict[str, Any]]:
    """Of each training column that the model does not read and that still comes: how many rows lack it, and how many did in training."""
    known: dict[str, list[int]] = package.metadata.get("unread") or {}
    if not known:
        return []
    there = "mapContains(features_num, name) OR mapContains(features_cat, name)"
    sql = f"""SELECT name, countIf({there}) AS filled, count() AS rows FROM predictions ARRAY JOIN [{", ".join(map(literal, known))}] AS name
WHERE {window.where()} AND role = 'champion' GROUP BY name ORDER BY name"""
    out = []
    for row in log.rows(sql):
        missing, of = known[row["name"]]
        filled, rows = int(row["filled"]), int(row["rows"])
        if not filled:
            continue  # it is not sent: what is known later, or was left out
        before, now = np.array([missing, of - missing]), np.array([rows - filled, filled])
        shares = {"reference": missing / of, "production": (rows - filled) / rows}
        out.append({"name": row["name"], "rows": rows, "psi": psi(before, now), "status": status_of(psi(before, now), before, now, len(known)), "missing": shares, "sql": sql})
    return out
