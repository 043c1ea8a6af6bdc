"""Retraining policies: read, and judged step by step. Pure: numbers come in, the next fact comes out.

A policy: trigger (`schedule`, `drift`, `accuracy`, `estimated` with another beside it, `measure`, `actuals`,
`manual`), data (expanding, sliding, decaying by a half-life or stratified by time, with the original set,
read again from its source or not, without rows that were acted on, overridden or referred; a run waits until
there are `least_rows` of them), model selection
(AutoPilot, the champion's blueprint beside the simplest, or nothing but the champion's recipe), action
(`register`, `challenge`, `replace`), gate (metric, minimum gain, milliseconds a row, rows to soak, a person,
rows after which a worse one is rolled back, and how often that is looked at), minimum interval between runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.errors import DataError
from models.metrics import METRICS
from stream.clock import elapsed
from stream.jobs.training_set import LEFT_OUT
from stream.measures import known, seconds_of

TRIGGERS = ("schedule", "drift", "accuracy", "estimated", "measure", "actuals", "manual")
ACTIONS = ("register", "challenge", "replace")
SELECTIONS = ("autopilot", "same_blueprint", "same_hyperparameters")
WINDOWS = ("expanding", "sliding", "decaying", "stratified")
MICRO = 1_000_000
MOST_LOOKS = 100
LEAST_LEARNT = 100


def read_policy(data: dict[str, Any]) -> dict[str, Any]:
    """A policy with its defaults; DataError says what is wrong."""
    unknown = sorted(set(data) - {"name", "trigger", "data", "model_selection", "mode", "minutes", "action", "gate", "minimum_interval"})
    if unknown:
        raise DataError("wrong_policy", f"unknown: {', '.join(unknown)}")
    policy: dict[str, Any] = {"trigger": read_trigger(data.get("trigger") or {"kind": "manual"})}
    policy["action"] = one_of("action", data.get("action", "challenge"), ACTIONS)
    policy["model_selection"] = one_of("model_selection", data.get("model_selection", "autopilot"), SELECTIONS)
    policy["minimum_interval"] = str(data.get("minimum_interval", "1h"))
    seconds_of(policy["minimum_interval"])
    used = dict(data.get("data") or {})
    policy["data"] = read_data(used)
    gate = dict(data.get("gate") or {})
    metric = gate.get("metric")
    if metric is not None and metric not in METRICS:
        raise DataError("wrong_policy", f"there is no metric {metric!r}")
    policy["gate"] = {
        "metric": metric,
        "minimum_gain": number("gate.minimum_gain", gate.get("minimum_gain", 0.0), 0.0),
        "soak_rows": int(number("gate.soak_rows", gate.get("soak_rows", 500), 100.0)),
        "rollback_rows": int(number("gate.rollback_rows", gate.get("rollback_rows", 0), 0.0)),
        "rollback_looks": int(number("gate.rollback_looks", gate.get("rollback_looks", 1), 1.0)),
        "person": bool(gate.get("person", False)),
        "ms_per_row": None if gate.get("ms_per_row") is None else number("gate.ms_per_row", gate["ms_per_row"], 0.0),
    }
    if policy["gate"]["rollback_looks"] > MOST_LOOKS:
        raise DataError("wrong_policy", f"gate.rollback_looks is at most {MOST_LOOKS}")
    if data.get("minutes") is not None:
        policy["minutes"] = number("minutes", data["minutes"], 0.001)
    if data.get("mode") is not None:
        policy["mode"] = one_of("mode", data["mode"], ("quick", "auto", "comprehensive"))
    return policy


def read_data(used: dict[str, Any]) -> dict[str, Any]:
    """Which rows a run learns from, and how much each counts."""
    unknown = sorted(set(used) - {"window", "span", "half_life", "rows", "with_original", "refresh", "exclude", "least_rows"})
    if unknown:
        raise DataError("wrong_policy", f"unknown in data: {', '.join(unknown)}")
    found: dict[str, Any] = {"window": one_of("data.window", used.get("window", "expanding"), WINDOWS), "with_original": bool(used.get("with_original", False)), "refresh": bool(used.get("refresh", False))}
    if found["window"] == "sliding" or used.get("span"):
        found["span"] = str(used.get("span", "90d"))
        seconds_of(found["span"])
    if found["window"] == "decaying":
        found["half_life"] = str(used.get("half_life", "30d"))
        seconds_of(found["half_life"])
    if found["window"] == "stratified":
        found["rows"] = int(number("data.rows", used.get("rows", 50_000), 100.0))
    if found["refresh"] and not found["with_original"]:
        raise DataError("wrong_policy", "refresh reads the original set again: it wants with_original")
    found["least_rows"] = int(number("data.least_rows", used.get("least_rows", LEAST_LEARNT), 0.0))
    excluded = used.get("exclude", [])
    if not isinstance(excluded, list):
        raise DataError("wrong_policy", "data.exclude is a list")
    found["exclude"] = [one_of("data.exclude", word, tuple(LEFT_OUT)) for word in excluded]
    return found


def choice_of(policy: dict[str, Any]) -> dict[str, Any]:
    """A policy's data as a training set is asked for (`stream.jobs.training_set.Choice`)."""
    data = policy["data"]
    return {"half_life": seconds_of(data["half_life"]) if data.get("half_life") else 0, "rows": data.get("rows", 0), "exclude": data.get("exclude", [])}


def read_trigger(data: Any) -> dict[str, Any]:
    """A trigger; `drift` and `accuracy` are measures with usual bounds."""
    if not isinstance(data, dict):
        raise DataError("wrong_policy", 'trigger is {"kind", …}')
    kind = one_of("trigger.kind", data.get("kind"), TRIGGERS)
    if kind == "schedule":
        seconds_of(data.get("every"))
        return {"kind": kind, "every": str(data["every"])}
    if kind == "actuals":
        return {"kind": kind, "count": int(number("trigger.count", data.get("count"), 1.0))}
    if kind == "manual":
        return {"kind": kind}
    usual = {"drift": {"measure": "drift.failing", "above": 0.5}, "accuracy": {"measure": "accuracy.loss", "above": 0.1}, "estimated": {"measure": "estimated.loss", "above": 0.1}}.get(kind, {})
    if "above" in data or "below" in data:
        usual = {k: v for k, v in usual.items() if k == "measure"}
    found = {**usual, **{k: v for k, v in data.items() if k in {"measure", "above", "below", "feature", "window", "least_rows"}}}
    if not known(str(found.get("measure"))) or ("above" in found) == ("below" in found):
        raise DataError("wrong_policy", "a measured trigger has a known measure and one of above and below")
    number("trigger bound", found.get("above", found.get("below")), None)
    found["window"] = str(found.get("window", "1d"))
    seconds_of(found["window"])
    if str(found["measure"]).startswith("estimated."):  # an estimate assumes that the concept stands: it never acts alone
        other = data.get("and")
        if not isinstance(other, dict) or str(other.get("measure")).startswith("estimated."):
            raise DataError("wrong_policy", 'an estimate never acts alone: add "and": {"measure": …, "above": …} of something that was measured')
        found["and"] = {k: v for k, v in read_trigger({"kind": "measure", **other}).items() if k != "kind"}
    return {"kind": kind, **found}


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """A word of a list."""
    if value not in words:
        raise DataError("wrong_policy", f"{name} is one of {', '.join(words)}, not {value!r}")
    return str(value)


def number(name: str, value: Any, least: float | None) -> float:
    """A number from some bound up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or (least is not None and value < least):
        raise DataError("wrong_policy", f"{name} must be a number" + (f" of at least {least:g}" if least is not None else ""))
    return float(value)


def rested(policy: dict[str, Any], last: int, now: int) -> bool:
    """Whether the minimum interval has passed since the last run began (0: there was none)."""
    return not last or elapsed(last, now) >= seconds_of(policy["minimum_interval"]) * MICRO


def scheduled(policy: dict[str, Any], last: int, now: int) -> bool:
    """Whether a schedule is due, from the last run or else from when it was set."""
    return elapsed(last or int(policy["set_at"]), now) >= seconds_of(policy["trigger"]["every"]) * MICRO


def crossed(trigger: dict[str, Any], value: float | None) -> bool:
    """Whether a measured trigger fires; an unknown number never does."""
    if value is None:
        return False
    return bool(value > trigger["above"] if "above" in trigger else value < trigger["below"])


@dataclass(frozen=True)
class Verdict:
    """What the gate says: `wait`, `accept` or `refuse`, in a sentence, with the numbers."""

    word: str
    sentence: str
    evidence: dict[str, Any]


def too_slow(policy: dict[str, Any], took: float | None) -> str:
    """Why a model's time for a row is over the policy's budget, or nothing."""
    budget = policy["gate"].get("ms_per_row")
    return f"too slow: {took:.3f} ms a row, {budget:g} at most" if budget is not None and took is not None and took > budget else ""


def gate(policy: dict[str, Any], compared: dict[str, Any] | None, metric: str) -> Verdict:
    """One look at the end of the soak: the paired difference in five blocks of equal time."""
    wanted, least = policy["gate"]["metric"] or metric, policy["gate"]["soak_rows"]
    rows = int(compared["rows"]) if compared else 0
    if compared is None or rows < least:
        return Verdict("wait", f"{rows} of {least} matched rows", {"rows": rows})
    found = compared["metrics"].get(wanted, {})
    evidence = {"metric": wanted, "rows": rows, **found}
    if "interval" not in found:
        return Verdict("wait", "a block of time has no defined metric yet", evidence)
    gain = found["difference"] if METRICS[wanted].higher_is_better else -found["difference"]
    told = f"{wanted} {found['champion']:.4f} against {found['challenger']:.4f} on {rows:,} rows, 95 % of the difference in {found['interval'][0]:+.4f} to {found['interval'][1]:+.4f}"
    if found["better"] and gain >= policy["gate"]["minimum_gain"]:
        return Verdict("accept", f"better than the champion: {told}", evidence)
    return Verdict("refuse", f"not better than the champion: {told}", evidence)
