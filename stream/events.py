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
class ReplayRequested(Fact):
    """Stored requests of a window are to be scored by another model."""

    TYPE: ClassVar[str] = "replay_requested"
    replay_id: str
    model_id: str
    start: str
    end: str


@dataclass(frozen=True)
class ReplayFinished(Fact):
    """A replay ended, with its rows or its error."""

    TYPE: ClassVar[str] = "replay_finished"
    replay_id: str
    rows: int
    error: str = ""


@dataclass(frozen=True)
class RetrainingStarted(Fact):
    """A training set is to be made from the log up to a cut-off, and AutoPilot run on it."""

    TYPE: ClassVar[str] = "retraining_started"
    retraining_id: str
    cut_off: str
    start: str
    with_original: bool
    minutes: float | None = None


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
class DeadLettered(Fact):
    """Messages that could not be handled were put aside."""

    TYPE: ClassVar[str] = "dead_lettered"
    topic: str
    partition: int
    offset: int
    reason: str
    size: int
    sample: str


FACTS: dict[str, type[Fact]] = {
    kind.TYPE: kind
    for kind in (
        ProjectCreated,
        ProjectProgressed,
        ProjectCompleted,
        ProjectFailed,
        ModelRegistered,
        DeploymentCreated,
        ChampionChanged,
        ChallengerAdded,
        ChallengerRemoved,
        DeploymentStateChanged,
        ReplayRequested,
        ReplayFinished,
        RetrainingStarted,
        RetrainingFinished,
        DeadLettered,
    )
}


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
