"""A/B and canary: a share of a deployment's rows is answered by another model.

Who answers a row is decided by the hash of its association id, so the same id always meets the same model
while the shares stand, and moving a share moves only the ids between the old and the new bound. Each part
of a request is scored, journalled and monitored as its own model's; the answer is one, in the rows' order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gateway.asked import Asked, Served
from models.schema import Encoded
from models.types import Ints

SIZE = 1 << 64


def places(name: str, ids: list[str]) -> list[float]:
    """Where each id lies between 0 and 1, the same for ever.

    >>> places("d", ["a"]) == places("d", ["a"])
    True
    """
    key = hashlib.blake2b(name.encode(), digest_size=32).digest()  # a CRC is linear: numbered ids would crowd
    return [int.from_bytes(hashlib.blake2b(i.encode(), key=key, digest_size=8).digest()) / SIZE for i in ids]


def chosen(name: str, routes: Sequence[tuple[str, float]], ids: list[str]) -> Ints:
    """For each row the number of its route; -1 where the champion answers."""
    bounds = np.cumsum([share for _, share in routes])
    found = np.searchsorted(bounds, places(name, ids), side="right")
    return np.where(found < len(routes), found, -1)


def parts_of(served: Served, asked: Asked, ids: list[str]) -> list[tuple[list[int], Served, Asked]]:
    """The request cut by who answers: the rows' places, the deployment with that model, the part of the request."""
    which = chosen(served.name, served.routes, ids)
    parts = []
    for number in np.unique(which).tolist():
        rows = np.nonzero(which == number)[0].tolist()
        package = served.package if number < 0 else served.others[served.routes[number][0]]
        rules = served.rules if package.schema == served.package.schema else ()  # rules are read for the champion's inputs
        times = None if asked.timestamps is None else [asked.timestamps[k] for k in rows]
        part = replace(asked, rows=[asked.rows[k] for k in rows], association_ids=[ids[k] for k in rows], timestamps=times, columnar=False)
        parts.append((rows, replace(served, package=package, rules=rules), part))
    return parts


def joined(asked: Asked, served: Served, answers: list[tuple[list[int], Served, dict[str, Any]]]) -> dict[str, Any]:
    """One answer of several; a row that another model answered says which."""
    predictions: list[dict[str, Any]] = [{}] * len(asked.rows)
    for rows, part, answer in answers:
        for place, prediction in zip(rows, answer["predictions"], strict=True):
            more = {} if part.package is served.package else {"model_id": part.package.digest}
            predictions[place] = {**prediction, "row": place, **more}
    whole = {**answers[-1][2], "model_id": served.package.digest, "predictions": predictions}
    whole["recorded"] = all(answer["recorded"] for _, _, answer in answers)
    whole["position"] = next((answer["position"] for _, _, answer in reversed(answers) if answer["position"]), "")
    return whole


def errors_of(parts: list[tuple[list[int], Encoded]]) -> dict[int, str]:
    """The rows that cannot be scored, at their places in the whole request."""
    return {rows[k]: text for rows, encoded in parts for k, text in encoded.errors.items()}
