"""Segments: a part of the rows, named by what its inputs are, by the consumer, or by SQL.

`carrier=UA` · `distance>=1000` · `consumer=mobile` · `carrier=UA,hour<12` · `sql:features_num['hour'] % 2 = 1`
"""

from __future__ import annotations

import re

from stream.association import literal
from stream.errors import Refused

TERM = re.compile(r"\s*([^=<>!,]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*")
QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`", re.DOTALL)
CALLS = re.compile(r"\bfile\s*\(|[`\"]\s*\(", re.IGNORECASE)
COLUMNS = ("consumer", "predicted_class", "deployment_version", "association_id")


def condition(text: str) -> str:
    """The SQL condition of a segment; Refused where it cannot be read.

    >>> condition("consumer=mobile")
    "consumer = 'mobile'"
    """
    if not text:
        return "1"
    if text.startswith("sql:"):
        return f"({expression(text[4:])})"
    return " AND ".join(term(part) for part in text.split(","))


def expression(text: str) -> str:
    """An expression that ends where it should: no comment, no second statement, no foreign parenthesis."""
    bare = QUOTED.sub("", text)
    depth = 0
    for sign in bare:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
    if CALLS.search(text):
        raise Refused("invalid", "wrong_segment", "sql: calls no function by a quoted name, and reads no files")
    if not text.strip() or depth or any(sign in bare for sign in (";", "--", "/*", "#", "'", '"', "`")):
        raise Refused("invalid", "wrong_segment", "sql: wants one whole expression without comments")
    return text


def term(text: str) -> str:
    """One comparison of an input, or of a column that is no input."""
    found = TERM.fullmatch(text)
    if found is None:
        raise Refused("invalid", "wrong_segment", f"{text!r} is no segment: write input=level, input>=number, consumer=name, or sql:EXPRESSION")
    name, sign, value = found.groups()
    if name in COLUMNS:
        return f"{name} {sign} {value if name == 'deployment_version' and value.isdigit() else literal(value)}"
    key, number = literal(name), number_of(value)
    as_text = f"(mapContains(features_cat, {key}) AND features_cat[{key}] {sign} {literal(value)})"
    if number is None:
        if sign not in {"=", "!="}:
            raise Refused("invalid", "wrong_segment", f"{text!r} compares with what is no number")
        return as_text
    as_number = f"(mapContains(features_num, {key}) AND features_num[{key}] {sign} {number!r})"
    return f"({as_number} OR {as_text})" if sign in {"=", "!="} else as_number


def number_of(text: str) -> float | None:
    """A number, or None."""
    try:
        return float(text)
    except ValueError:
        return None
