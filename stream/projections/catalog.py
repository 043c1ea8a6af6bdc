"""The catalog: projects, models and deployments as a fold over the accepted events.

`apply` is a pure function of the events applied before: no clock, no randomness, no I/O. A proposal
that does not fit raises Refused and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from stream import events
from stream.errors import Refused
from stream.events import Event
from stream.projections.watch import WATCHED, Watch

RUNNING = {"queued", "analyzing", "training"}
CANCELLED = "cancelled"
OVER = {"finished", "failed", CANCELLED}


@dataclass
class Project:
    """A data set, its target and the AutoPilot run on it."""

    project_id: str
    name: str
    file: str
    options: dict[str, Any]
    deployment: str
    created_at: int
    retraining_id: str = ""
    state: str = "queued"
    progress: float = 0.0
    message: str = ""
    trainer: str = ""
    features: str = ""
    metric: str = ""
    partition: str = ""
    models: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None


@dataclass
class Model:
    """A registered package's summary."""

    model_id: str
    project_id: str
    blueprint: str
    task: str
    target: str
    metric: str
    summary: dict[str, Any]
    registered_at: int


@dataclass(frozen=True)
class Version:
    """Who served and who shadowed from a deployment version on."""

    version: int
    champion: str
    challengers: tuple[tuple[str, float], ...]
    since: int
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Deployment:
    """A stable address with its versions, newest last."""

    name: str
    association_id: str
    settings: dict[str, Any]
    created_at: int
    versions: list[Version]
    state: str = "active"

    @property
    def now(self) -> Version:
        """The version in force."""
        return self.versions[-1]

    def at(self, version: int) -> Version | None:
        """A version by its number."""
        return self.versions[version - 1] if 0 < version <= len(self.versions) else None


@dataclass
class Job:
    """A replay, a retraining or a drift check."""

    job_id: str
    kind: str
    deployment: str
    requested_at: int
    request: dict[str, Any]
    state: str = "queued"
    progress: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


@dataclass
class Catalog:
    """Everything that the accepted events say."""

    projects: dict[str, Project] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    erasures: dict[str, list[events.DataErased]] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    dead_letters: int = 0

    def apply(self, event: Event) -> None:
        """Apply an event; Refused where it does not fit, whatever is wrong with it."""
        try:
            if event.type in WATCHED:
                self.watch.apply(event, self.deployment)
            else:
                APPLY[event.type](self, event, event.fact)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Refused("invalid", "malformed", f"{event.type} cannot be applied: {error}") from error

    def drift_checks(self, deployment: str) -> list[Job]:
        """A deployment's drift checks, oldest first."""
        return [job for job in self.jobs.values() if job.deployment == deployment and job.kind == "drift_check"]

    def project(self, project_id: str) -> Project:
        """A project; Refused (unknown) where there is none."""
        if project_id not in self.projects:
            raise Refused("unknown", "unknown_project", f"there is no project {project_id!r}")
        return self.projects[project_id]

    def model(self, model_id: str) -> Model:
        """A model by its id or a unique prefix of six characters or more."""
        if model_id in self.models:
            return self.models[model_id]
        found = [m for m in self.models if m.startswith(model_id)] if len(model_id) >= 6 else []  # noqa: PLR2004
        if len(found) != 1:
            what = "more than one model begins" if found else "there is no model that begins"
            raise Refused("unknown", "unknown_model", f"{what} with {model_id!r}")
        return self.models[found[0]]

    def deployment(self, name: str) -> Deployment:
        """A deployment; Refused (unknown) where there is none."""
        if name not in self.deployments or self.deployments[name].state == "deleted":
            raise Refused("unknown", "unknown_deployment", f"there is no deployment {name!r}")
        return self.deployments[name]


def _project_created(catalog: Catalog, event: Event, fact: events.ProjectCreated) -> None:
    if fact.project_id in catalog.projects:
        raise Refused("conflict", "project_exists", f"project {fact.project_id!r} exists")
    catalog.projects[fact.project_id] = Project(
        fact.project_id, fact.name, fact.file, fact.options, event.deployment, event.occurred_at, fact.retraining_id
    )


def _project_progressed(catalog: Catalog, event: Event, fact: events.ProjectProgressed) -> None:
    del event
    project = catalog.project(fact.project_id)
    if project.state not in RUNNING:
        raise Refused("conflict", "project_ended", f"project {fact.project_id!r} is {project.state}")
    if project.trainer and fact.trainer != project.trainer:
        raise Refused("conflict", "leased", f"project {fact.project_id!r} is leased by {project.trainer}")
    project.state, project.progress, project.message, project.trainer = fact.state, fact.progress, fact.message, fact.trainer
    project.features = fact.features or project.features


def _project_completed(catalog: Catalog, event: Event, fact: events.ProjectCompleted) -> None:
    del event
    project = catalog.project(fact.project_id)
    if project.state not in RUNNING:
        raise Refused("conflict", "project_ended", f"project {fact.project_id!r} is {project.state}")
    project.state, project.progress, project.message = "completed", 1.0, ""
    project.metric, project.partition, project.models, project.notes = fact.metric, fact.partition, fact.models, fact.notes


def _project_failed(catalog: Catalog, event: Event, fact: events.ProjectFailed) -> None:
    del event
    project = catalog.project(fact.project_id)
    if project.state not in RUNNING:
        raise Refused("conflict", "project_ended", f"project {fact.project_id!r} is {project.state}")
    project.state = "cancelled" if fact.code == "cancelled" else "failed"
    project.error = {"code": fact.code, "message": fact.error}


def _model_registered(catalog: Catalog, event: Event, fact: events.ModelRegistered) -> None:
    catalog.models.setdefault(
        fact.model_id,
        Model(fact.model_id, fact.project_id, fact.blueprint, fact.task, fact.target, fact.metric, fact.summary, event.occurred_at),
    )


def _deployment_created(catalog: Catalog, event: Event, fact: events.DeploymentCreated) -> None:
    if event.deployment in catalog.deployments:
        raise Refused("conflict", "deployment_exists", f"deployment {event.deployment!r} exists")
    model = catalog.model(fact.model_id)
    first = Version(1, model.model_id, (), event.occurred_at, "created", fact.settings)
    catalog.deployments[event.deployment] = Deployment(
        event.deployment, fact.association_id, fact.settings, event.occurred_at, [first]
    )


def _champion_changed(catalog: Catalog, event: Event, fact: events.ChampionChanged) -> None:
    deployment = catalog.deployment(event.deployment)
    now, model = deployment.now, catalog.model(fact.model_id)
    if fact.expected_version is not None and fact.expected_version != now.version:
        raise Refused("conflict", "version_moved", f"the deployment is at version {now.version}, not {fact.expected_version}")
    old = catalog.models[now.champion]
    if (model.task, model.target) != (old.task, old.target):
        raise Refused("invalid", "other_target", f"model {model.model_id[:12]} predicts {model.target!r} ({model.task}), the champion {old.target!r} ({old.task})")
    if model.model_id == now.champion:
        raise Refused("conflict", "is_champion", "this model is the champion already")
    if model.summary.get("online"):
        raise Refused("invalid", "not_servable", "an online model learns in the shadow; retrain a package that can serve")
    if any(route["model_id"] == model.model_id for route in deployment.settings.get("routes") or ()):
        deployment.settings = {k: v for k, v in deployment.settings.items() if k not in {"routes", "guard"}}  # the canary has won
    kept = [pair for pair in now.challengers if pair[0] != model.model_id]
    kept.append((now.champion, 1.0))  # the old champion goes on in the shadow
    _advance(deployment, model.model_id, kept, event, fact.reason)
    catalog.watch.promoted(event.deployment, model.model_id)


def _challenger_added(catalog: Catalog, event: Event, fact: events.ChallengerAdded) -> None:
    deployment = catalog.deployment(event.deployment)
    now, model = deployment.now, catalog.model(fact.model_id)
    old = catalog.models[now.champion]
    if (model.task, model.target) != (old.task, old.target):
        raise Refused("invalid", "other_target", f"model {model.model_id[:12]} predicts another target than the champion")
    if model.model_id == now.champion or model.model_id in dict(now.challengers):
        raise Refused("conflict", "is_there", "this model is champion or challenger already")
    if not 0 < fact.fraction <= 1:
        raise Refused("invalid", "wrong_fraction", "fraction is above 0 and at most 1")
    _advance(deployment, now.champion, [*now.challengers, (model.model_id, fact.fraction)], event, "challenger added")


def _online_challenger_added(catalog: Catalog, event: Event, fact: events.OnlineChallengerAdded) -> None:
    deployment = catalog.deployment(event.deployment)
    now = deployment.now
    if fact.learner_id in catalog.models:
        raise Refused("conflict", "is_there", "this online model exists already")
    old = catalog.models[now.champion]
    summary = {"kind": fact.kind, "parameters": fact.parameters, "schema_of": now.champion, "online": True}
    catalog.models[fact.learner_id] = Model(fact.learner_id, old.project_id, f"online {fact.kind}", old.task, old.target, old.metric, summary, event.occurred_at)
    _advance(deployment, now.champion, [*now.challengers, (fact.learner_id, 1.0)], event, f"online challenger added: {fact.kind}")


def _challenger_removed(catalog: Catalog, event: Event, fact: events.ChallengerRemoved) -> None:
    deployment = catalog.deployment(event.deployment)
    model = catalog.model(fact.model_id)
    kept = [pair for pair in deployment.now.challengers if pair[0] != model.model_id]
    if len(kept) == len(deployment.now.challengers):
        raise Refused("unknown", "no_challenger", f"{model.model_id[:12]} is no challenger of {deployment.name!r}")
    _advance(deployment, deployment.now.champion, kept, event, fact.reason or "challenger removed")


def _configured(catalog: Catalog, event: Event, fact: events.DeploymentConfigured) -> None:
    deployment = catalog.deployment(event.deployment)
    merged = {**deployment.settings, **fact.settings}
    deployment.settings = {name: value for name, value in merged.items() if value is not None}
    now = deployment.now
    _advance(deployment, now.champion, list(now.challengers), event, fact.reason or f"configured: {', '.join(sorted(fact.settings))}")


def _referral_answered(catalog: Catalog, event: Event, fact: events.ReferralAnswered) -> None:
    del fact
    catalog.deployment(event.deployment)


def _advance(deployment: Deployment, champion: str, challengers: list[tuple[str, float]], event: Event, reason: str) -> None:
    number = deployment.now.version + 1
    deployment.versions.append(Version(number, champion, tuple(challengers), event.occurred_at, reason, deployment.settings))


MOVES = {"active": {"paused", "archived", "deleted"}, "paused": {"active", "archived", "deleted"}, "archived": {"active", "deleted"}}


def _state_changed(catalog: Catalog, event: Event, fact: events.DeploymentStateChanged) -> None:
    deployment = catalog.deployment(event.deployment)
    if fact.state not in MOVES.get(deployment.state, set()):
        raise Refused("conflict", "wrong_state", f"a deployment that is {deployment.state} cannot become {fact.state}")
    deployment.state = fact.state


def _replay_requested(catalog: Catalog, event: Event, fact: events.ReplayRequested) -> None:
    catalog.deployment(event.deployment)
    model = catalog.model(fact.model_id)
    request = {**event.payload, "model_id": model.model_id}
    catalog.jobs[fact.replay_id] = Job(fact.replay_id, "replay", event.deployment, event.occurred_at, request)


def _retraining_started(catalog: Catalog, event: Event, fact: events.RetrainingStarted) -> None:
    catalog.deployment(event.deployment)
    catalog.jobs[fact.retraining_id] = Job(fact.retraining_id, "retraining", event.deployment, event.occurred_at, event.payload)


def _drift_check_requested(catalog: Catalog, event: Event, fact: events.DriftCheckRequested) -> None:
    catalog.deployment(event.deployment)
    catalog.jobs[fact.check_id] = Job(fact.check_id, "drift_check", event.deployment, event.occurred_at, {**event.payload, "model_id": catalog.model(fact.model_id).model_id})


def _replay_progressed(catalog: Catalog, event: Event, fact: events.ReplayProgressed) -> None:
    job = catalog.jobs.get(fact.replay_id)
    if job is None or job.state in OVER:
        raise Refused("conflict", "job_ended", f"job {fact.replay_id!r} is unknown or over")
    job.progress, job.result = (fact.rows / fact.total if fact.total else 1.0), event.payload


def _job_finished(catalog: Catalog, event: Event, fact: events.ReplayFinished | events.RetrainingFinished | events.DriftChecked) -> None:
    job_id = fact.replay_id if isinstance(fact, events.ReplayFinished) else fact.retraining_id if isinstance(fact, events.RetrainingFinished) else fact.check_id
    job = catalog.jobs.get(job_id)
    if job is None or job.state in OVER:
        raise Refused("conflict", "job_ended", f"job {job_id!r} is unknown or over")
    job.state, job.result = (CANCELLED if fact.error == CANCELLED else "failed" if fact.error else "finished"), event.payload
    job.progress = job.progress if fact.error else 1.0


def _dead_lettered(catalog: Catalog, event: Event, fact: events.DeadLettered) -> None:
    del event
    catalog.dead_letters += fact.count


def _dead_letters_replayed(catalog: Catalog, event: Event, fact: events.DeadLettersReplayed) -> None:
    del catalog, event, fact


def _data_erased(catalog: Catalog, event: Event, fact: events.DataErased) -> None:
    catalog.erasures.setdefault(event.deployment, []).append(fact)


Apply = Callable[[Catalog, Event, Any], None]
APPLY: dict[str, Apply] = {
    kind.TYPE: cast("Apply", function)
    for kind, function in (
        (events.ProjectCreated, _project_created),
        (events.ProjectProgressed, _project_progressed),
        (events.ProjectCompleted, _project_completed),
        (events.ProjectFailed, _project_failed),
        (events.ModelRegistered, _model_registered),
        (events.DeploymentCreated, _deployment_created),
        (events.ChampionChanged, _champion_changed),
        (events.ChallengerAdded, _challenger_added),
        (events.OnlineChallengerAdded, _online_challenger_added),
        (events.ChallengerRemoved, _challenger_removed),
        (events.DeploymentStateChanged, _state_changed),
        (events.DeploymentConfigured, _configured),
        (events.ReferralAnswered, _referral_answered),
        (events.ReplayRequested, _replay_requested),
        (events.ReplayProgressed, _replay_progressed),
        (events.ReplayFinished, _job_finished),
        (events.DriftCheckRequested, _drift_check_requested),
        (events.DriftChecked, _job_finished),
        (events.RetrainingStarted, _retraining_started),
        (events.RetrainingFinished, _job_finished),
        (events.DeadLettered, _dead_lettered),
        (events.DeadLettersReplayed, _dead_letters_replayed),
        (events.DataErased, _data_erased),
    )
}
