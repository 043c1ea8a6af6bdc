"""Text columns: no model reads them, but their lengths and their words tell when what is written changes.

The vocabulary is of one seeded half of the training rows; the reference counts are of the other half, for a text's own words are
never unknown to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.baseline import Bins, bins_from_json, numeric_bins
from models.drift import psi, status_of, worst
from models.types import Floats

MOST_WORDS = 5000
MOST_ROWS = 20_000
EDGES = (1e-9, 0.05, 0.1, 0.2, 0.4)
LABELS = ("below", "none", "up to 5 %", "5 to 10 %", "10 to 20 %", "20 to 40 %", "over 40 %", "above", "missing")
WORD = re.compile(r"\w+")
Texts = Sequence[str | None]


@dataclass(frozen=True)
class TextReference:
    """A text column's vocabulary, and frozen bins of its lengths (characters) and of the share of words outside the vocabulary."""

    name: str
    vocabulary: frozenset[str]
    length: Bins
    unknown: Bins

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `text_reference` reads."""
        return {"name": self.name, "vocabulary": sorted(self.vocabulary), "length": vars(self.length), "unknown": vars(self.unknown)}


def text_reference(data: dict[str, Any]) -> TextReference:
    """Read what `TextReference.to_json` wrote."""
    return TextReference(data["name"], frozenset(data["vocabulary"]), bins_from_json(data["length"]), bins_from_json(data["unknown"]))


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("Not bad, not good!")
    ['not', 'bad', 'not', 'good']
    """
    return WORD.findall(text.lower())


def measures(texts: Texts, vocabulary: frozenset[str]) -> tuple[Floats, Floats]:
    """Each text's length and share of unknown words, NaN for none."""
    lengths, shares = np.full(len(texts), np.nan), np.full(len(texts), np.nan)
    for k, text in enumerate(texts):
        if text is not None:
            lengths[k], found = len(text), words(text)
            shares[k] = sum(word not in vocabulary for word in found) / len(found) if found else 0.0
    return lengths, shares


def freeze_texts(name: str, texts: Texts, seed: int) -> TextReference:
    """The reference of a column."""
    order = np.random.default_rng(seed).permutation(len(texts))[: 2 * MOST_ROWS]
    first, second = ([texts[k] for k in part] for part in np.array_split(order, 2))
    counts = Counter(word for text in first if text is not None for word in words(text))
    vocabulary = frozenset(word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_WORDS])
    lengths, shares = measures(second, vocabulary)
    unknown = Bins("unknown words", "numeric", LABELS, EDGES, 0.0, 1.0)  # not deciles: there may be none in the reference
    counts_of = np.bincount(unknown.place(shares), minlength=unknown.size)
    return TextReference(name, vocabulary, numeric_bins("length", lengths), replace(unknown, reference=tuple(counts_of.tolist())))


def text_drift(reference: TextReference, texts: Texts, columns: int) -> dict[str, Any]:
    """PSI and status of lengths and unknown words, of one of so many text columns."""
    found: dict[str, Any] = {"name": reference.name, "rows": len(texts)}
    for bins, values in zip((reference.length, reference.unknown), measures(texts, reference.vocabulary), strict=True):
        counts = np.bincount(bins.place(values), minlength=bins.size)
        before, now = bins.merged(bins.reference), bins.merged(counts)
        value = psi(before, now) if len(texts) else None
        known = values[np.isfinite(values)]
        found[bins.name.replace(" ", "_")] = {
            "psi": value,
            "status": status_of(value, before, now, 2 * columns) if value is not None else "unknown",
            "mean": float(known.mean()) if len(known) else None,
            "bins": [{"label": label, "reference": r, "production": p} for label, r, p in zip(bins.labels, bins.reference, counts.tolist(), strict=True)],
        }
    return {**found, "status": worst([found[part]["status"] for part in ("length", "unknown_words")])}
