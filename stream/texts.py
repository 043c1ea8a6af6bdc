"""The drift of text columns as an answer, from a sample of a window's rows."""

from __future__ import annotations

from typing import Any

from models.package import ModelPackage
from models.texts import MOST_ROWS, text_drift, text_reference
from stream.association import literal
from stream.clickhouse import EventLog
from stream.queries import Window


def texts_answer(log: EventLog, package: ModelPackage, window: Window) -> list[dict[str, Any]]:
    """Lengths and unknown words of each text column against those of training; none where a package knows of no texts."""
    references = [text_reference(data) for data in package.metadata.get("texts") or []]
    out = []
    for reference in references:
        name = literal(reference.name)
        sql = f"SELECT if(mapContains(features_cat, {name}), features_cat[{name}], NULL) AS text FROM predictions WHERE {window.where()} AND role = 'champion' ORDER BY cityHash64(event_id) LIMIT {MOST_ROWS}"
        texts = log.arrow(sql).column("text").to_pylist()
        out.append({**text_drift(reference, texts, len(references)), "sql": sql})
    return out
