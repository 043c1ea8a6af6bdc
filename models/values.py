"""Single values as requests and files have them: what they are as a number or a level, and how the log keeps them."""

from __future__ import annotations

import math
from typing import Any

from models.errors import DataError
from models.table import plain_text

NAN = float("nan")
LARGEST = 1e300
NoneType = type(None)
NUMBERS, SWITCHES, TEXTS = frozenset({float, int, NoneType}), frozenset({bool, NoneType}), frozenset({str, NoneType})
INTEGERS = frozenset({int, NoneType})
HARMLESS = TEXTS | SWITCHES
PLAIN = NUMBERS | HARMLESS
TRUE_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1": 1.0, "0": 0.0, "t": 1.0, "f": 0.0}


def level_text(name: str, value: Any) -> str | None:
    """The text of a category given as a number or truth value."""
    if isinstance(value, bool | int | float):
        return plain_text(value)
    raise DataError("wrong_type", f"{name!r} must be a string, not {type(value).__name__}", name)


def number_from(name: str, kind: str, value: Any) -> float | None:
    """A number from a bool or a numeric text; an empty text is missing."""
    if value is True or value is False:
        return 1.0 if value else 0.0
    if isinstance(value, str):
        text = value.strip()
        if text in {"", "NA", "NaN", "nan", "null"}:
            return None
        if kind == "boolean" and text.lower() in TRUE_WORDS:
            return TRUE_WORDS[text.lower()]
        try:
            number = float(text)
        except ValueError:
            pass
        else:
            if math.isfinite(number):
                return number
    elif isinstance(value, int | float):
        return float(value)
    raise DataError("wrong_type", f"{name!r} must be a number, not {value!r}"[:200], name)


def within_bounds(values: list[Any] | tuple[Any, ...], kinds: set[type]) -> bool:
    """Whether all are logged as they are: none too large, infinite or NaN."""
    if kinds <= INTEGERS:
        known = [value for value in values if value is not None] if NoneType in kinds else values
        return bool(min(known) >= -LARGEST and max(known) <= LARGEST)
    return all(loggable(value) is value for value in values)


def loggable(value: Any) -> Any:
    """A value as the log can hold it: numbers and strings stay, the rest becomes text."""
    if type(value) in HARMLESS:
        return value
    if isinstance(value, int | float):
        return value if abs(value) <= LARGEST else None  # NaN and infinity too
    return value if isinstance(value, str) else str(value)


def text_number(text: str | None) -> float:
    """A number or NaN."""
    if text is None:
        return NAN
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return TRUE_WORDS[word]
    try:
        return float(word)
    except ValueError:
        return NAN
