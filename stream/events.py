"""Every event of the catalog, past tense and frozen, on one page; encode and decode by explicit names.

An event on the control topic is a proposal until the fold accepts it (`projections/catalog.py`); the
owner of the control partition appends the accepted ones to the log. Old versions stay readable.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import orjson

from stream.errors import Malformed


@dataclass(frozen=True)
class Fact:
    """What happened; each kind has a stored name and a version."""

    TYPE: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True)
class ProjectCreated(Fact):
    """A data set was handed over to learn from."""

    TYPE: ClassVar[str] = "project_created"
    project_id: str
    name: str
    file: str
    options: dict[str, Any]
    retraining_id: str = ""


@dataclass(frozen=True)
class ProjectProgressed(Fact):
    """A trainer took a project on, or came further with it."""

    TYPE: ClassVar[str] = "project_progressed"
    project_id: str
    state: str
    progress: float
    message: str
    trainer: str
    features: str = ""


@dataclass(frozen=True)
class ProjectCompleted(Fact):
    """AutoPilot finished; its models are registered."""

    TYPE: ClassVar[str] = "project_completed"
    project_id: str
    metric: str
    partition: str
    models: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class ProjectFailed(Fact):
    """A project ended without models."""

    TYPE: ClassVar[str] = "project_failed"
    project_id: str
    code: str
    error: str


@dataclass(frozen=True)
class ModelRegistered(Fact):
    """A package lies in the registry."""

    TYPE: ClassVar[str] = "model_registered"
    model_id: str
    project_id: str
    blueprint: str
    task: str
    target: str
    metric: str
    summary: dict[str, Any]


@dataclass(frozen=True)
class DeploymentCreated(Fact):
    """A stable address was given to a model."""

    TYPE: ClassVar[str] = "deployment_created"
    model_id: str
    association_id: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChampionChanged(Fact):
    """Another model answers from now on."""

    TYPE: ClassVar[str] = "champion_changed"
    model_id: str
    reason: str
    expected_version: int | None = None


@dataclass(frozen=True)
class ChallengerAdded(Fact):
    """A model is scored on the same rows in the shadow."""

    TYPE: ClassVar[str] = "challenger_added"
    model_id: str
    fraction: float = 1.0


@dataclass(frozen=True)
class OnlineChallengerAdded(Fact):
    """A model was born in the shadow that learns from each outcome."""

    TYPE: ClassVar[str] = "online_challenger_added"
    learner_id: str
    kind: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class ChallengerRemoved(Fact):
    """A model is no longer scored in the shadow."""

    TYPE: ClassVar[str] = "challenger_removed"
    model_id: str
    reason: str = ""


@dataclass(frozen=True)
class DeploymentStateChanged(Fact):
    """A deployment was paused, resumed, archived or deleted."""

    TYPE: ClassVar[str] = "deployment_state_changed"
    state: str
    reason: str = ""


@dataclass(frozen=True)
class DeploymentConfigured(Fact):
    """How a deployment decides was changed: its threshold, its humility rules; null takes a setting away."""

    TYPE: ClassVar[str] = "deployment_configured"
    settings: dict[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class ReferralAnswered(Fact):
    """A person decided a prediction that a rule had referred to them."""

    TYPE: ClassVar[str] = "referral_answered"
    prediction_id: str
    decision: str
    note: str = ""


@dataclass(frozen=True)
class ReplayRequested(Fact):
    """Stored requests of a window are to be scored by another model."""

    TYPE: ClassVar[str] = "replay_requested"
    replay_id: str
    model_id: str
    start: str
    end: str


@dataclass(frozen=True)
class ReplayProgressed(Fact):
    """A replay has sent so many of its rows."""

    TYPE: ClassVar[str] = "replay_progressed"
    replay_id: str
    rows: int
    total: int


@dataclass(frozen=True)
class ReplayFinished(Fact):
    """A replay ended, with its rows or its error."""

    TYPE: ClassVar[str] = "replay_finished"
    replay_id: str
    rows: int
    error: str = ""


@dataclass(frozen=True)
class DriftCheckRequested(Fact):
    """The rows of a window are to be told from those a model was trained on, or from a reference window."""

    TYPE: ClassVar[str] = "drift_check_requested"
    check_id: str
    model_id: str
    start: str
    end: str
    reference_start: str = ""
    reference_end: str = ""
    scheduled: bool = False


@dataclass(frozen=True)
class DriftChecked(Fact):
    """A drift check ended: how well the rows were told apart (AUC), what each input carries of it; or its error."""

    TYPE: ClassVar[str] = "drift_checked"
    check_id: str
    model_id: str
    start: str
    end: str
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    status: str = "unknown"
    importance: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    reference_rows: int = 0
    sql: str = ""
    error: str = ""
    distances: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrainingStarted(Fact):
    """A training set is to be made from the log up to a cut-off, and AutoPilot run on it."""

    TYPE: ClassVar[str] = "retraining_started"
    retraining_id: str
    cut_off: str
    start: str
    with_original: bool
    minutes: float | None = None
    blueprints: list[str] = field(default_factory=list)
    enter: bool = True
    mode: str = ""
    choice: dict[str, Any] = field(default_factory=dict)
    keep: str = ""
    refresh: bool = False


@dataclass(frozen=True)
class RetrainingFinished(Fact):
    """A retraining ended: its project, training set and best model, or its error."""

    TYPE: ClassVar[str] = "retraining_finished"
    retraining_id: str
    project_id: str = ""
    model_id: str = ""
    training_set: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class ChannelSet(Fact):
    """Where notifications go; its secret lies in the artifacts, never here."""

    TYPE: ClassVar[str] = "channel_set"
    name: str
    kind: str
    options: dict[str, Any]


@dataclass(frozen=True)
class ChannelRemoved(Fact):
    """A channel is no longer used."""

    TYPE: ClassVar[str] = "channel_removed"
    name: str


@dataclass(frozen=True)
class AlertRuleSet(Fact):
    """What is to be watched of a deployment, and who is told."""

    TYPE: ClassVar[str] = "alert_rule_set"
    name: str
    rule: dict[str, Any]


@dataclass(frozen=True)
class AlertRuleRemoved(Fact):
    """It is no longer watched."""

    TYPE: ClassVar[str] = "alert_rule_removed"
    name: str


@dataclass(frozen=True)
class AlertRaised(Fact):
    """A number crossed its bound: with the window, the position and the SELECT that show it."""

    TYPE: ClassVar[str] = "alert_raised"
    rule: str
    severity: str
    measure: str
    value: float
    bound: float
    window: dict[str, Any]
    sql: str
    test: bool = False
    position: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AlertCleared(Fact):
    """The number is back within its bound."""

    TYPE: ClassVar[str] = "alert_cleared"
    rule: str
    measure: str
    value: float
    window: dict[str, Any]


@dataclass(frozen=True)
class NotificationEnded(Fact):
    """A channel was told of an alert, or could not be."""

    TYPE: ClassVar[str] = "notification_ended"
    alert_id: str
    channel: str
    attempts: int
    error: str = ""


@dataclass(frozen=True)
class PolicySet(Fact):
    """When a deployment is retrained, on what, and what becomes of the result."""

    TYPE: ClassVar[str] = "policy_set"
    name: str
    policy: dict[str, Any]


@dataclass(frozen=True)
class PolicyRemoved(Fact):
    """A policy is no longer in force."""

    TYPE: ClassVar[str] = "policy_removed"
    name: str


@dataclass(frozen=True)
class PolicyRunStarted(Fact):
    """A policy's trigger fired; its retraining has the run's id."""

    TYPE: ClassVar[str] = "policy_run_started"
    run_id: str
    policy: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class PolicyRunAwaits(Fact):
    """A run's model has passed its gate and waits for a person's word."""

    TYPE: ClassVar[str] = "policy_run_awaits"
    run_id: str
    model_id: str
    sentence: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class PolicyRunLooked(Fact):
    """A look at a promoted model beside the one before it, after which it stays for now."""

    TYPE: ClassVar[str] = "policy_run_looked"
    run_id: str
    look: int
    sentence: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class PolicyRunFinished(Fact):
    """What a run came to, in a sentence, with its evidence."""

    TYPE: ClassVar[str] = "policy_run_finished"
    run_id: str
    outcome: str
    sentence: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class CohortMatured(Fact):
    """The rows of a stretch of event time have their outcomes: detectors read what the log had of it.

    `cut` is when it was found so (microseconds); `position` is how far the log had come with each source of its rows and of their
    actuals (none: an event of before, which means what was recorded by `cut`).
    `after` is where the cohort before it ended (0: it is the first; -1: not said), so that none is passed over.
    """

    TYPE: ClassVar[str] = "cohort_matured"
    start: int
    end: int
    cut: int
    rows: int
    matched: int
    after: int = -1
    position: dict[str, int] | None = None


@dataclass(frozen=True)
class ConceptDriftDetected(Fact):
    """The champion's errors changed (ADWIN): which way, since when, and by how much."""

    TYPE: ClassVar[str] = "concept_drift_detected"
    model_id: str
    direction: str
    before: float
    after: float
    since: str
    until: str
    indices: list[int]
    sql: str


@dataclass(frozen=True)
class ChangeDetected(Fact):
    """A detector that was asked for alarmed, on the champion's error or on an input: where, and the means before and after."""

    TYPE: ClassVar[str] = "change_detected"
    detector: str
    on: str
    model_id: str
    direction: str
    before: float
    after: float
    at: str
    until: str
    indices: list[int]
    sql: str


@dataclass(frozen=True)
class IntervalsAdapted(Fact):
    """After a cohort a model's intervals are wider or narrower: the share of rows that each level leaves outside from now on, and what came outside of the cohort."""

    TYPE: ClassVar[str] = "intervals_adapted"
    model_id: str
    step: float
    outside: dict[str, float]
    missed: dict[str, float]
    rows: int
    until: str
    sql: str


@dataclass(frozen=True)
class DeadLettered(Fact):
    """Messages that could not be handled were put aside; what they held lies with the letters, never here."""

    TYPE: ClassVar[str] = "dead_lettered"
    topic: str
    partition: int
    offset: int
    reason: str
    size: int
    count: int = 1
    letters: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DeadLettersReplayed(Fact):
    """Messages that had been put aside were sent again."""

    TYPE: ClassVar[str] = "dead_letters_replayed"
    letters: list[str]


@dataclass(frozen=True)
class DataErased(Fact):
    """Rows were deleted on request; of an association id only its salted hash is kept ("" for all rows)."""

    TYPE: ClassVar[str] = "data_erased"
    erasure_id: str
    digest: str
    salt: str
    rows: int
    recorded_before: int


FACTS: dict[str, type[Fact]] = {kind.TYPE: kind for kind in Fact.__subclasses__()}


@dataclass(frozen=True)
class Event:
    """A fact with its identity, time (microseconds), author and deployment ("" for none)."""

    event_id: str
    occurred_at: int
    actor: str
    deployment: str
    fact: Fact

    @property
    def type(self) -> str:
        """The stored name."""
        return self.fact.TYPE

    @property
    def payload(self) -> dict[str, Any]:
        """The fact's own fields."""
        return asdict(self.fact)

    def encode(self) -> bytes:
        """The event as a JSON message."""
        return orjson.dumps(
            {
                "event_id": self.event_id,
                "type": self.type,
                "version": self.fact.VERSION,
                "occurred_at": self.occurred_at,
                "actor": self.actor,
                "deployment": self.deployment,
                "payload": self.payload,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )


def decode(data: bytes | dict[str, Any]) -> Event:
    """Read a message or a log row; Malformed where it is no event of ours."""
    try:
        found = data if isinstance(data, dict) else orjson.loads(data)
        kind = FACTS[found["type"]]
        payload = found["payload"] if isinstance(found["payload"], dict) else orjson.loads(found["payload"])
        known = {f.name: str(f.type) for f in fields(kind)}
        values = {name: value for name, value in payload.items() if name in known}
        wrong = [name for name, value in values.items() if not fits(value, known[name])]
        if wrong:
            raise Malformed(f"{found['type']}: ill-typed {', '.join(wrong)}")
        fact = kind(**values)
        return Event(str(found["event_id"]), int(found["occurred_at"]), str(found["actor"]), str(found["deployment"]), fact)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"not an event: {type(error).__name__} {error}") from error


KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "dict": (dict,), "list": (list,), "None": (type(None),)}


def fits(value: Any, annotation: str) -> bool:
    """Whether a value is of a field's type, as far as JSON tells.

    >>> fits(1, "float | None"), fits(None, "float"), fits(True, "int")
    (True, False, False)
    """
    kinds = tuple(kind for part in annotation.split("|") for kind in KINDS[part.split("[")[0].strip()])
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def new_id(key: str = "") -> str:
    """A fresh event id, or the same one for the same idempotency key."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "champion:" + key).hex if key else uuid.uuid4().hex
