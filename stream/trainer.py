"""The trainer: takes queued projects, retrainings, replays and drift checks from the catalog, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from typing import Any

from models.errors import DataError
from models.registry import Artifacts, Registry
from models.table import read_table
from stream.broker import BrokerUnavailable, Producer
from stream.clickhouse import EventLog
from stream.clock import parse_time
from stream.control import Follower
from stream.erasure import ASSOCIATION
from stream.errors import LogUnavailable, QueryRejected, Refused
from stream.events import (
    ChallengerAdded,
    DriftChecked,
    DriftCheckRequested,
    Fact,
    ModelRegistered,
    ProjectCompleted,
    ProjectCreated,
    ProjectFailed,
    ProjectProgressed,
    ReplayFinished,
    ReplayProgressed,
    RetrainingFinished,
)
from stream.heartbeats import heartbeats
from stream.jobs import sources, training_set
from stream.jobs.autopilot import Run
from stream.jobs.drift_check import check
from stream.jobs.replay import replay
from stream.projections.catalog import RUNNING, Job, Project
from stream.secret import checkpoint_key
from stream.settings import Settings

log = logging.getLogger("champion.trainer")

TELL_EVERY = 2.0


class Trainer:
    """One trainer process; its name is stable on a machine, so that it takes up what it had leased."""

    def __init__(self, settings: Settings, writer_key: str) -> None:
        """Wire the parts."""
        self._settings = settings
        self.name = f"trainer-{socket.gethostname()}"
        self._producer = Producer(settings.bootstrap, administer=settings.administered_partitions, hours=settings.topic_retention_hours)
        self._beats = EventLog(settings.eventlog_url, writer_key=writer_key)
        self._log = EventLog(settings.eventlog_url, timeout=900)
        self._follower = Follower(settings.bootstrap, self._producer, self._log)
        self._artifacts = Artifacts(settings.artifacts)
        self._registry = Registry(self._artifacts, checkpoint_key(settings))

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        tasks = [asyncio.create_task(part()) for part in (self._follower.run, self._heartbeat, self._work)]
        stopping = asyncio.create_task(stop.wait())
        waited: list[asyncio.Task[Any]] = [stopping, *tasks]
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._producer.stop()
        for ended in done - {stopping}:
            ended.result()

    async def _heartbeat(self) -> None:
        await heartbeats(self._beats, "trainer", self.name, lambda: {"pid": os.getpid()})

    async def _work(self) -> None:
        await self._follower.caught_up.wait()
        while True:
            found = self._next()
            if found is None:
                await asyncio.sleep(0.1)
            elif isinstance(found, Project):
                await self._train(found)
            else:
                await {"replay": self._replay, "drift_check": self._check, "retraining": self._prepare}[found.kind](found)

    def _next(self) -> Project | Job | None:
        """The oldest work that is queued, or that this trainer had begun before it was restarted."""
        catalog = self._follower.catalog
        for project in sorted(catalog.projects.values(), key=lambda p: p.created_at):
            if project.state in RUNNING and project.trainer in {"", self.name}:
                return project
        for job in sorted(catalog.jobs.values(), key=lambda j: j.requested_at):
            if job.state == "queued" and job.job_id not in catalog.projects:
                return job
        return None

    async def _say(self, fact: Fact, deployment: str = "", key: str = "") -> bool:
        """Put a fact through control; waits for the broker; answers whether it was accepted."""
        while True:
            try:
                await self._follower.propose(fact, actor=self.name, deployment=deployment, key=key)
            except Refused as error:
                log.info("refused: %s", error)
                return False
            except BrokerUnavailable:
                await asyncio.sleep(0.5)
            else:
                return True

    async def _train(self, project: Project) -> None:
        """Run AutoPilot on a project and register what it finds."""
        progress = ProjectProgressed(project.project_id, "analyzing", 0.0, "reading the file", self.name)
        if not await self._say(progress, project.deployment):
            return  # another trainer has it
        run = await asyncio.to_thread(Run, self._settings.artifacts, project.project_id, project.file, project.options)
        messages = run.messages()
        try:
            while True:
                message = await asyncio.to_thread(next, messages)
                if project.state not in RUNNING:
                    return  # cancelled
                if message is None:
                    continue
                if message["kind"] == "progress":
                    state = "training" if message["share"] >= 0.1 else "analyzing"  # noqa: PLR2004
                    fact = ProjectProgressed(project.project_id, state, message["share"], message["message"], self.name, message.get("features", ""))
                    await self._say(fact, project.deployment)
                elif message["kind"] == "failed":
                    await self._say(ProjectFailed(project.project_id, message["code"], message["error"]), project.deployment)
                    await self._retrained(project, {}, error=message["error"])
                    return
                else:
                    await self._register(project, message)
                    return
        finally:
            await asyncio.to_thread(run.stop)

    async def _register(self, project: Project, message: dict[str, Any]) -> None:
        target = project.options["target"]
        for model in message["models"]:
            summary = {k: model[k] for k in ("validation", "holdout", "ms_per_row", "recommended", "trained_on", "family")}
            fact = ModelRegistered(model["model_id"], project.project_id, model["blueprint"], message["task"], target, message["metric"], summary)
            await self._say(fact, project.deployment, key=f"{project.project_id}:{model['model_id']}")
        await self._say(
            ProjectCompleted(project.project_id, message["metric"], message["partition"], message["models"], message["notes"]), project.deployment
        )
        best = next((m for m in message["models"] if m["recommended"]), message["models"][0])
        await self._retrained(project, best)

    async def _retrained(self, project: Project, best: dict[str, Any], error: str = "") -> None:
        """The end of a retraining: its best model enters as challenger."""
        if not project.retraining_id:
            return
        if best and project.options.get("enter", True):
            await self._say(ChallengerAdded(best["model_id"]), project.deployment)
            deployment = self._follower.catalog.deployments.get(project.deployment)
            if deployment is not None and best["model_id"] not in {deployment.now.champion, *dict(deployment.now.challengers)}:
                error = f"model {best['model_id'][:12]} cannot shadow this champion: it predicts another target or other classes"
        record = project.options.get("training_set", {})
        fact = RetrainingFinished(project.retraining_id, project.project_id, best.get("model_id", ""), record, error)
        await self._say(fact, project.deployment)

    async def _prepare(self, job: Job) -> None:
        """A retraining's training set; AutoPilot on it is a project like any other."""
        request = job.request
        deployment = self._follower.catalog.deployments[job.deployment]
        champion = self._follower.catalog.models[deployment.now.champion]
        parent = self._follower.catalog.projects.get(champion.project_id)
        options: dict[str, Any] = inherited(parent) if parent else {"target": champion.target}
        asked = dict(options)  # what the set is made by: of a set read again, its first project's columns
        original = parent.file if parent and request["with_original"] else ""
        try:
            package = await asyncio.to_thread(self._registry.load, champion.model_id)
            if request.get("refresh") and parent is not None:
                root = self._root(parent)
                original = await asyncio.to_thread(self._fetched_again, root)
                asked |= {name: root.options.get(name, "") for name in ("timestamp", "weight")}
            name, record = await asyncio.to_thread(
                lambda: training_set.build(
                    self._log,
                    self._artifacts,
                    package,
                    job.deployment,
                    cut_off=parse_time(request["cut_off"]),
                    start=parse_time(request["start"]) if request["start"] else 0,
                    original=original,
                    options=asked,
                    choice=training_set.read_choice(request.get("choice") or {}),
                )
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the job ends with its reason
            await self._say(RetrainingFinished(job.job_id, error=f"{error}" or type(error).__name__), job.deployment)
            return
        kept = {f.name for f in package.schema.features} | set(package.schema.unused)
        options |= {"timestamp": training_set.EVENT_TIME, "training_set": record, "task": champion.task, "association_id": ASSOCIATION, "exclude": [e for e in options.get("exclude", []) if e in kept]}
        options |= {name: request[name] for name in ("minutes", "mode", "blueprints", "keep") if request.get(name)}
        options["classes"] = list(package.schema.target.classes)  # they keep their places, whether the newest rows have them or not
        options["enter"] = bool(request.get("enter", True))
        present = await asyncio.to_thread(self._columns, name)
        options = {k: v for k, v in options.items() if k != "weight" and (k != "group" or v in present)}
        if training_set.WEIGHT in present:
            options["weight"] = training_set.WEIGHT
        if "gap_seconds" not in options:
            options |= {"gap_seconds": record["label_delay_seconds"], "gap_measured": True}
        options["exclude"] = [column for column in options["exclude"] if column in present]
        await self._say(ProjectCreated(job.job_id, f"retraining of {job.deployment}", name, options, job.job_id), job.deployment, key=job.job_id)
        await self._follower.wait_for(lambda c: job.job_id in c.projects, 15)

    def _root(self, project: Project) -> Project:
        """The project at the beginning of a line of retrainings."""
        catalog, seen = self._follower.catalog, {project.project_id}
        while "training_set" in project.options:
            model = catalog.models.get(project.options["training_set"]["model_id"])
            before = catalog.projects.get(model.project_id) if model else None
            if before is None or before.project_id in seen:
                break
            project = before
            seen.add(project.project_id)
        return project

    def _fetched_again(self, parent: Project) -> str:
        """The original set as its source has it now."""
        if not parent.options.get("source"):
            raise DataError("no_source", "the original set was uploaded: there is no source to read it from again")
        url = sources.url_of(self._artifacts, parent.project_id, parent.options["source"])
        return sources.fetch(self._artifacts, self._settings.data_dir / "uploads", url, parent.options.get("query", ""))

    def _columns(self, name: str) -> set[str]:
        """The columns of a training set."""
        return set(read_table(self._artifacts.read(name)).names)

    async def _replay(self, job: Job) -> None:
        """Score a window again; goes on where it, or the trainer before, was broken off."""
        request, rows, told = job.request, 0, time.monotonic()
        try:
            package = await asyncio.to_thread(self._registry.load, request["model_id"])
            window = {"start": parse_time(request["start"]), "end": parse_time(request["end"])}
            async for rows, total in replay(self._log, self._producer, package, job.deployment, replay_id=job.job_id, partitions=self._settings.partitions, **window):
                if job.state != "queued":
                    return  # cancelled
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    await self._say(ReplayProgressed(job.job_id, rows, total), job.deployment)
        except (BrokerUnavailable, LogUnavailable) as error:
            log.warning("a replay waits: %s", error)
            await asyncio.sleep(1.0)
            return  # it is queued still
        except Exception as error:  # noqa: BLE001 - whatever it is, the job ends with its reason
            await self._say(ReplayFinished(job.job_id, rows, f"{error}" or type(error).__name__), job.deployment)
            return
        with contextlib.suppress(LogUnavailable, QueryRejected):
            await self._until_logged(job.job_id, rows)
        await self._say(ReplayFinished(job.job_id, rows), job.deployment)

    async def _check(self, job: Job) -> None:
        """Tell a window's rows from those of its reference."""
        asked = DriftCheckRequested(**job.request)
        try:
            found = await asyncio.to_thread(check, self._log, self._registry, self._follower.catalog, job.deployment, asked)
        except (BrokerUnavailable, LogUnavailable) as error:
            log.warning("a drift check waits: %s", error)
            await asyncio.sleep(1.0)
            return  # it is queued still
        except Exception as error:  # noqa: BLE001 - whatever it is, the job ends with its reason
            found = DriftChecked(job.job_id, asked.model_id, asked.start, asked.end, error=f"{error}" or type(error).__name__)
        await self._say(found, job.deployment)

    async def _until_logged(self, replay_id: str, rows: int) -> None:
        """Wait until the log has the replay's rows, a minute at most."""
        for _ in range(240):
            found = await asyncio.to_thread(self._log.rows, "SELECT count() AS n FROM predictions WHERE replay_id = {id:String}", {"id": replay_id})
            if int(found[0]["n"]) >= rows:
                return
            await asyncio.sleep(0.25)


def inherited(parent: Project) -> dict[str, Any]:
    """What a retraining takes over from the project of its champion: what its user chose, not what a run before it did."""
    options = {k: v for k, v in parent.options.items() if k not in {"keep", "blueprints", "training_set"}}
    if options.pop("gap_measured", False):
        options.pop("gap_seconds", None)
    if options.get("weight") == training_set.WEIGHT:
        options["weight"] = parent.options.get("training_set", {}).get("weight", "")
    return options
