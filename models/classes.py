"""How a classification does class by class: confusion, precision, recall and F1 of decisions as they were served."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.types import Floats, Ints


def confusion(y: Ints, chosen: Ints, classes: int, w: Floats | None = None) -> Any:
    """Rows, or their weights, by what came true and what was said (classes + 1, classes); what came true and is none of the classes is the last row."""
    came = np.where(y < 0, classes, y)
    return np.bincount(came * classes + chosen, weights=w, minlength=(classes + 1) * classes).reshape(classes + 1, classes)


def by_class(y: Ints, chosen: Ints, labels: tuple[str, ...]) -> dict[str, Any]:
    """Each class's rows, precision, recall and F1 (None where they are not defined), and their means.

    Macro averages are over the classes that came true, as all of our averages over classes; micro averages count every row once.
    """
    table = confusion(y, chosen, len(labels))
    hits, said, came = np.diag(table), table.sum(axis=0), table[:-1].sum(axis=1)
    found = []
    for k, label in enumerate(labels):
        values = {"precision": ratio(hits[k], said[k]), "recall": ratio(hits[k], came[k]), "f1": ratio(2 * hits[k], said[k] + came[k])}
        found.append({"class": label, "came_true": int(came[k]), "said": int(said[k]), **values})
    micro = ratio(hits.sum(), table.sum())
    there = [one for one in found if one["came_true"]]
    macro = {name: float(np.mean([one[name] or 0.0 for one in there])) if there else None for name in ("precision", "recall", "f1")}
    return {"classes": found, "macro": macro, "micro": {"precision": micro, "recall": micro, "f1": micro}, "confusion": {"labels": [*labels, None], "actual_by_predicted": table.tolist()}}


def ratio(part: Any, whole: Any) -> float | None:
    """A share; None of nothing."""
    return float(part / whole) if whole else None
