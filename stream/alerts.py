"""Alert rules: read, judged. A rule: measure, `above` or `below`, window, hysteresis, cool-down, channels."""

from __future__ import annotations

import math
import re
from typing import Any

from models.errors import DataError
from stream.clock import elapsed, parse_time
from stream.measures import known, seconds_of

SEVERITIES = ("info", "warning", "critical")
KNOWN = frozenset({"name", "measure", "above", "below", "clear", "window", "feature", "severity", "cool_down", "channels", "silenced_until", "silent_hours", "least_rows"})
HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


def read_rule(data: dict[str, Any]) -> dict[str, Any]:
    """A rule with its defaults; DataError says what is wrong."""
    unknown = sorted(set(data) - KNOWN)
    if unknown:
        raise DataError("wrong_rule", f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(KNOWN))}")
    if not known(str(data.get("measure"))):
        raise DataError("wrong_rule", f"there is no measure {data.get('measure')!r}")
    bounds = [k for k in ("above", "below") if data.get(k) is not None]
    if len(bounds) != 1:
        raise DataError("wrong_rule", "a rule has one of above and below")
    for name in ("above", "below", "clear"):
        value = data.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)):
            raise DataError("wrong_rule", f"{name} must be a number")
    bound = float(data[bounds[0]])
    clear = float(data["clear"]) if data.get("clear") is not None else bound
    if (clear > bound) if bounds[0] == "above" else (clear < bound):
        raise DataError("wrong_rule", "clear lies on the good side of the bound")
    severity = data.get("severity", "warning")
    if severity not in SEVERITIES:
        raise DataError("wrong_rule", f"severity is one of {', '.join(SEVERITIES)}")
    channels = data.get("channels", [])
    if not isinstance(channels, list) or not all(isinstance(c, str) for c in channels):
        raise DataError("wrong_rule", "channels is a list of names")
    rule: dict[str, Any] = {"measure": data["measure"], bounds[0]: bound, "clear": clear, "severity": severity, "channels": channels}
    rule["window"] = data.get("window", "1d")
    seconds_of(rule["window"])
    rule["cool_down"] = data.get("cool_down", "5m")
    seconds_of(rule["cool_down"])
    if data.get("feature"):
        rule["feature"] = str(data["feature"])
    if data.get("least_rows") is not None:
        rule["least_rows"] = int(data["least_rows"])
    if data.get("silent_hours"):
        hours = data["silent_hours"]
        if not isinstance(hours, list) or not all(isinstance(h, str) and HOURS.fullmatch(h) for h in hours):
            raise DataError("wrong_rule", 'silent_hours is a list of daily spans of UTC such as "22:00-06:30"')
        rule["silent_hours"] = hours
    if data.get("silenced_until"):
        try:
            rule["silenced_until"] = data["silenced_until"] if isinstance(data["silenced_until"], int) else parse_time(data["silenced_until"])
        except ValueError as error:
            raise DataError("wrong_rule", f"silenced_until: {error}") from error
    return rule


def judge(rule: dict[str, Any], value: float | None, *, firing: bool, cleared_at: int, now: int) -> str:
    """`raise`, `clear` or nothing; an unknown number changes nothing.

    >>> rule = {"above": 5.0, "clear": 4.0, "cool_down": "1m"}
    >>> judge(rule, 6.0, firing=False, cleared_at=0, now=10**9), judge(rule, 4.5, firing=True, cleared_at=0, now=10**9)
    ('raise', '')
    """
    if value is None:
        return ""
    high = "above" in rule
    beyond = value > rule["above"] if high else value < rule["below"]
    back = value <= rule["clear"] if high else value >= rule["clear"]
    if firing:
        return "clear" if back and not beyond else ""
    cooling = cleared_at and elapsed(cleared_at, now) < seconds_of(rule["cool_down"]) * 1_000_000
    return "raise" if beyond and not cooling else ""


def bound_of(rule: dict[str, Any]) -> float:
    """The bound that is crossed."""
    return float(rule["above"] if "above" in rule else rule["below"])
