"""What is watched and what was done about it, as a fold: channels, alert rules, alerts, policies, their runs.

Pure as the catalog is. That an alert is raised once, a notification ends once, and a deployment has one
run at a time is decided here, so it does not matter who proposes it, or how often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stream import events
from stream.errors import Refused
from stream.events import Event

Key = tuple[str, str]  # deployment, name
Adapted = tuple[int, dict[str, float]]  # since when, and the share that each level leaves outside


@dataclass
class Firing:
    """An alert that has not been cleared."""

    event_id: str
    since: int
    fact: events.AlertRaised


@dataclass
class Run:
    """A policy's run."""

    run_id: str
    deployment: str
    policy: str
    started_at: int
    evidence: dict[str, Any]
    outcome: str = ""
    sentence: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    finished_at: int = 0
    awaits: str = ""  # the model that waits for a person's word, and why it may be promoted
    proposal: str = ""
    version: int = 0  # of the deployment when it began
    looks: int = 0  # at the promoted model beside the one before, and when the last was
    looked_at: int = 0


@dataclass
class Watch:
    """The folded state."""

    channels: dict[str, events.ChannelSet] = field(default_factory=dict)
    rules: dict[Key, dict[str, Any]] = field(default_factory=dict)
    firing: dict[Key, Firing] = field(default_factory=dict)
    raised: dict[Key, int] = field(default_factory=dict)
    cleared_at: dict[Key, int] = field(default_factory=dict)
    pending: dict[tuple[str, str], Event] = field(default_factory=dict)  # (alert event, channel) that nobody was told of yet
    policies: dict[Key, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    cohorts: dict[str, list[events.CohortMatured]] = field(default_factory=dict)
    concepts: dict[str, list[events.ConceptDriftDetected]] = field(default_factory=dict)
    changes: dict[str, list[events.ChangeDetected]] = field(default_factory=dict)
    intervals: dict[tuple[str, float], dict[str, list[Adapted]]] = field(default_factory=dict)  # by deployment and step, of each model, oldest first
    told_at: dict[str, int] = field(default_factory=dict)  # when each channel was told of anything last

    def apply(self, event: Event, deployment_of: Callable[[str], Any]) -> None:
        """Apply an event; Refused where it does not fit."""
        deployment = deployment_of(event.deployment) if event.deployment else None
        APPLY[event.type](self, event, event.fact)
        if deployment is not None and isinstance(event.fact, events.PolicyRunStarted):
            self.runs[event.fact.run_id].version = deployment.now.version

    def adapted(self, deployment: str, step: float | None) -> dict[str, list[Adapted]]:
        """How the intervals of each model were adapted by a step (None: they are not), as it goes on."""
        return self.intervals.setdefault((deployment, step), {}) if step else {}

    def promoted(self, deployment: str, model_id: str) -> None:
        """A model was made the champion: a run of it waits for nobody's word any more."""
        run = self.run_of(deployment)
        if run is not None and run.awaits == model_id:
            run.awaits = ""

    def run_of(self, deployment: str) -> Run | None:
        """The run that is under way."""
        return next((run for run in self.runs.values() if run.deployment == deployment and not run.outcome), None)

    def runs_of(self, deployment: str, policy: str = "") -> list[Run]:
        """Runs, newest first."""
        found = [run for run in self.runs.values() if run.deployment == deployment and policy in {"", run.policy}]
        return found[::-1]  # by their order in the log: clocks may be set back


def _channel_set(watch: Watch, event: Event, fact: events.ChannelSet) -> None:
    del event
    watch.channels[fact.name] = fact


def _channel_removed(watch: Watch, event: Event, fact: events.ChannelRemoved) -> None:
    del event
    if watch.channels.pop(fact.name, None) is None:
        raise Refused("unknown", "unknown_channel", f"there is no channel {fact.name!r}")
    watch.pending = {key: found for key, found in watch.pending.items() if key[1] != fact.name}


def _rule_set(watch: Watch, event: Event, fact: events.AlertRuleSet) -> None:
    watch.rules[(event.deployment, fact.name)] = fact.rule


def _rule_removed(watch: Watch, event: Event, fact: events.AlertRuleRemoved) -> None:
    key = (event.deployment, fact.name)
    if watch.rules.pop(key, None) is None:
        raise Refused("unknown", "unknown_rule", f"there is no alert rule {fact.name!r}")
    watch.firing.pop(key, None)


def _raised(watch: Watch, event: Event, fact: events.AlertRaised) -> None:
    key = (event.deployment, fact.rule)
    rule = watch.rules.get(key)
    if rule is None:
        raise Refused("unknown", "unknown_rule", f"there is no alert rule {fact.rule!r}")
    if not fact.test:
        if key in watch.firing:
            raise Refused("conflict", "is_raised", f"{fact.rule!r} is raised already")
        watch.firing[key] = Firing(event.event_id, event.occurred_at, fact)
        watch.raised[key] = watch.raised.get(key, 0) + 1
    _queue(watch, event, rule)


def _cleared(watch: Watch, event: Event, fact: events.AlertCleared) -> None:
    key = (event.deployment, fact.rule)
    if watch.firing.pop(key, None) is None:
        raise Refused("conflict", "is_clear", f"{fact.rule!r} is not raised")
    watch.cleared_at[key] = event.occurred_at
    _queue(watch, event, watch.rules.get(key, {}))


def in_hours(at: int, spans: list[str]) -> bool:
    """Whether a moment (microseconds) lies in one of some daily spans of UTC, such as 22:00-06:30.

    >>> in_hours(23 * 3_600_000_000, ["22:00-06:30"]), in_hours(12 * 3_600_000_000, ["22:00-06:30"])
    (True, False)
    """
    minute = at // 60_000_000 % 1440
    for span in spans:
        start, end = (int(t[:2]) * 60 + int(t[3:]) for t in span.split("-"))
        if (start <= minute < end) if start <= end else (minute >= start or minute < end):
            return True
    return False


def _queue(watch: Watch, event: Event, rule: dict[str, Any]) -> None:
    if event.occurred_at < int(rule.get("silenced_until", 0)) or in_hours(event.occurred_at, rule.get("silent_hours", [])):
        return
    for channel in rule.get("channels", []):
        if channel in watch.channels:
            watch.pending[(event.event_id, channel)] = event


def _notification_ended(watch: Watch, event: Event, fact: events.NotificationEnded) -> None:
    if watch.pending.pop((fact.alert_id, fact.channel), None) is None:
        raise Refused("conflict", "is_told", "this channel was told already")
    watch.told_at[fact.channel] = event.occurred_at


def _policy_set(watch: Watch, event: Event, fact: events.PolicySet) -> None:
    watch.policies[(event.deployment, fact.name)] = {**fact.policy, "set_at": event.occurred_at}


def _policy_removed(watch: Watch, event: Event, fact: events.PolicyRemoved) -> None:
    if watch.policies.pop((event.deployment, fact.name), None) is None:
        raise Refused("unknown", "unknown_policy", f"there is no policy {fact.name!r}")


def _run_started(watch: Watch, event: Event, fact: events.PolicyRunStarted) -> None:
    if (event.deployment, fact.policy) not in watch.policies:
        raise Refused("unknown", "unknown_policy", f"there is no policy {fact.policy!r}")
    if watch.run_of(event.deployment) is not None:
        raise Refused("conflict", "run_under_way", f"a run of {event.deployment!r} is under way")
    watch.runs[fact.run_id] = Run(fact.run_id, event.deployment, fact.policy, event.occurred_at, fact.evidence)


def _run_awaits(watch: Watch, event: Event, fact: events.PolicyRunAwaits) -> None:
    del event
    run = watch.runs.get(fact.run_id)
    if run is None or run.outcome or run.awaits:
        raise Refused("conflict", "run_ended", f"run {fact.run_id!r} is unknown, over or waits already")
    run.awaits, run.proposal, run.result = fact.model_id, fact.sentence, fact.evidence


def _run_looked(watch: Watch, event: Event, fact: events.PolicyRunLooked) -> None:
    run = watch.runs.get(fact.run_id)
    if run is None or run.outcome or fact.look != run.looks + 1:
        raise Refused("conflict", "run_ended", f"run {fact.run_id!r} is unknown, over or was looked at already")
    run.looks, run.looked_at, run.proposal = fact.look, event.occurred_at, fact.sentence


def _run_finished(watch: Watch, event: Event, fact: events.PolicyRunFinished) -> None:
    run = watch.runs.get(fact.run_id)
    if run is None or run.outcome:
        raise Refused("conflict", "run_ended", f"run {fact.run_id!r} is unknown or over")
    run.outcome, run.sentence, run.result, run.finished_at = fact.outcome, fact.sentence, fact.evidence, event.occurred_at


def _cohort_matured(watch: Watch, event: Event, fact: events.CohortMatured) -> None:
    read = watch.cohorts.setdefault(event.deployment, [])
    if (read and fact.start < read[-1].end) or fact.after not in {-1, read[-1].end if read else 0}:
        raise Refused("conflict", "out_of_order", "detectors have read this time already, or not yet what comes before it")
    read.append(fact)


def _concept_drift(watch: Watch, event: Event, fact: events.ConceptDriftDetected) -> None:
    watch.concepts.setdefault(event.deployment, []).append(fact)


def _change(watch: Watch, event: Event, fact: events.ChangeDetected) -> None:
    watch.changes.setdefault(event.deployment, []).append(fact)


def _intervals_adapted(watch: Watch, event: Event, fact: events.IntervalsAdapted) -> None:
    watch.adapted(event.deployment, fact.step).setdefault(fact.model_id, []).append((event.occurred_at, fact.outside))


APPLY: dict[str, Callable[[Watch, Event, Any], None]] = {
    "channel_set": _channel_set,
    "channel_removed": _channel_removed,
    "alert_rule_set": _rule_set,
    "alert_rule_removed": _rule_removed,
    "alert_raised": _raised,
    "alert_cleared": _cleared,
    "notification_ended": _notification_ended,
    "policy_set": _policy_set,
    "policy_removed": _policy_removed,
    "policy_run_started": _run_started,
    "policy_run_awaits": _run_awaits,
    "policy_run_looked": _run_looked,
    "policy_run_finished": _run_finished,
    "cohort_matured": _cohort_matured,
    "concept_drift_detected": _concept_drift,
    "change_detected": _change,
    "intervals_adapted": _intervals_adapted,
}
WATCHED = frozenset(APPLY)
