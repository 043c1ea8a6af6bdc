"""The steward: acts on what is seen. Alerts are raised and cleared, people told, policies run.

It runs in the worker that owns control, holds no state of its own that matters, and says everything
through control: the fold decides whether it holds. Killed anywhere, the next one goes on from the events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from models.errors import ModelsError
from models.registry import Registry
from stream import alerts, policies
from stream.broker import BrokerUnavailable
from stream.clickhouse import EventLog
from stream.clock import iso, now_us, parse_time
from stream.cohorts import Maturing, read_together
from stream.concepts import Detectors
from stream.control import Follower
from stream.errors import LogUnavailable, QueryRejected, Refused
from stream.events import AlertCleared, AlertRaised, ChangeDetected, DeploymentConfigured, DriftCheckRequested, Fact, IntervalsAdapted, new_id
from stream.measures import measured, newest, seconds_of
from stream.policy_runs import PolicyRuns
from stream.queries import position_of
from stream.teller import Teller

log = logging.getLogger("champion.steward")

EVERY = 1.0
ACTOR = "steward"
CONCEPTS_EVERY = 3
SHARE = 5  # rest five times as long as looking took
SETTLE = 10  # looks after the log's last movement


class Steward:
    """Looks, decides, says."""

    def __init__(self, event_log: EventLog, registry: Registry, follower: Follower) -> None:
        """Work against the log and the folded catalog."""
        self._log, self._registry, self._follower = event_log, registry, follower
        self._teller, self._runs = Teller(follower, registry.artifacts, self._say), PolicyRuns(event_log, registry, follower, self._say)
        self._maturing: dict[str, Maturing] = {}
        self._detectors: dict[str, Detectors] = {}
        self._looked: dict[tuple[str, str], dict[str, Any]] = {}
        self._round = 0
        self._seen, self._calm = (-1, -1), 0
        self.looked_at = ""  # when the last whole look began

    async def run(self, owns: Any) -> None:
        """For ever, while this process owns control."""
        took = 0.0
        while True:
            await asyncio.sleep(max(EVERY, SHARE * took))  # looking must never be what the log is busy with
            if not owns():
                continue
            begun, at = time.monotonic(), iso(now_us())
            try:
                moved = await asyncio.to_thread(self._moved)
                if moved:
                    await self._concepts()
                    await self._checks()
                await self._alerts(moved=moved)
                await self._guards()
                await self._runs.look(moved=moved)
                self.looked_at = at
            except (LogUnavailable, BrokerUnavailable) as error:
                log.debug("later: %s", error)
            except Exception:
                log.exception("the steward stumbled")
            took = time.monotonic() - begun
            await self._teller.tell()

    def _moved(self) -> bool:
        """Whether the log has anything that it had not when it was looked at last."""
        row = self._log.rows("SELECT sum(sequence) AS s, count() AS n FROM log_progress_log FINAL")[0]
        seen = (int(row["s"]), int(row["n"]))
        moved, self._seen = seen != self._seen, seen
        self._calm = 0 if moved else self._calm + 1
        return self._calm < SETTLE  # what came last may still be being joined

    async def _say(self, fact: Fact, deployment: str, key: str) -> bool:
        """Through control; answers whether it holds."""
        try:
            await self._follower.propose(fact, actor=ACTOR, deployment=deployment, key=key)
        except Refused as error:
            log.info("refused: %s", error)
            return False
        return True

    # concept drift

    async def _concepts(self) -> None:
        """Every few seconds: cohorts that have matured, read by the champion's detectors in their order."""
        self._round += 1
        if self._round % CONCEPTS_EVERY:
            return
        for deployment in list(self._follower.catalog.deployments.values()):
            if deployment.state == "active":
                await self._concept(deployment.name)

    async def _concept(self, name: str) -> None:
        """The next cohorts, then what detectors say of them. A detector that this process lacks is made again from the events."""
        cohorts = self._follower.catalog.watch.cohorts.setdefault(name, [])
        maturing = self._maturing.setdefault(name, Maturing(self._log, name))
        found = await asyncio.to_thread(maturing.look, cohorts[-1].end if cohorts else 0)
        if found:
            self._calm = 0  # there may be more, though nothing moves
            await self._follower.propose_all([(cohort, f"{cohort.start}:{cohort.cut}") for cohort in found], actor=ACTOR, deployment=name)
        detectors, settings = self._detectors.get(name), self._follower.catalog.deployments[name].settings
        asked, steps = settings.get("detectors") or [], [settings["adaptive_intervals"]] if "adaptive_intervals" in settings else []
        if detectors is None or detectors.read > len(cohorts) or (detectors.asked, detectors.steps) != (asked, steps):
            detectors = self._detectors[name] = Detectors(self._log, self._registry, name, asked, steps)
        while detectors.read < len(cohorts):
            for cohort, fact in await asyncio.to_thread(detectors.feed, read_together(cohorts[detectors.read :])):
                which = f"{fact.detector}:{fact.on}:" if isinstance(fact, ChangeDetected) else f"{fact.TYPE}:{fact.step}:" if isinstance(fact, IntervalsAdapted) else ""
                await self._say(fact, name, f"{which}{fact.model_id}:{cohort.end}")

    async def _checks(self) -> None:
        """Drift checks that are due: one for each whole span of event time, of the span before it."""
        for deployment in list(self._follower.catalog.deployments.values()):
            asked = deployment.settings.get("drift_checks")
            if not asked or deployment.state != "active":
                continue
            every, window = (seconds_of(asked[name]) * 1_000_000 for name in ("every", "window"))
            last = await asyncio.to_thread(newest, self._log, deployment.name, matched=False)
            end = (last or 0) // every * every
            known = self._follower.catalog.drift_checks(deployment.name)
            if end and not any(job.request["scheduled"] and parse_time(job.request["end"]) >= end for job in known):
                key = f"{deployment.name}:{end}:{every}"
                await self._say(DriftCheckRequested(new_id(key)[:12], deployment.now.champion, iso(end - window), iso(end), scheduled=True), deployment.name, key)

    # alerts

    async def _alerts(self, *, moved: bool) -> None:
        watch = self._follower.catalog.watch
        for (deployment, name), rule in list(watch.rules.items()):
            if not moved and not rule["measure"].startswith(("health.", "silence.")) and self._looked.get((deployment, name)) == rule:
                continue  # the same rows give the same number
            self._looked[(deployment, name)] = rule
            try:
                await self._alert(deployment, name, rule)
            except (QueryRejected, Refused, OSError, ModelsError, KeyError) as error:
                log.warning("alert rule %s of %s: %s", name, deployment, error)

    async def _alert(self, deployment: str, name: str, rule: dict[str, Any]) -> None:
        watch, key, now = self._follower.catalog.watch, (deployment, name), now_us()
        found = await asyncio.to_thread(measured, self._log, self._registry, self._follower.catalog, deployment, rule, now)
        word = alerts.judge(rule, found.value, firing=key in watch.firing, cleared_at=watch.cleared_at.get(key, 0), now=now)
        if not word or found.value is None:
            return
        count = watch.raised.get(key, 0)
        if word == "raise":
            fact = AlertRaised(name, rule["severity"], rule["measure"], float(found.value), alerts.bound_of(rule), found.window, found.sql, position=await asyncio.to_thread(position_of, self._log))
            await self._say(fact, deployment, f"{name}:{count}:{watch.cleared_at.get(key, 0)}")
        else:
            await self._say(AlertCleared(name, rule["measure"], float(found.value), found.window), deployment, f"{name}:{count}:{watch.firing[key].event_id}")

    # routes

    async def _guards(self) -> None:
        """A canary whose own rows trip a guard answers no more; whatever else changed meanwhile stands."""
        for deployment in list(self._follower.catalog.deployments.values()):
            routes, guard = deployment.settings.get("routes") or [], deployment.settings.get("guard") or []
            for route, rule in [(route, rule) for route in routes for rule in guard] if deployment.state == "active" else []:
                asked = {**rule, "model_id": route["model_id"]}
                try:
                    found = await asyncio.to_thread(measured, self._log, self._registry, self._follower.catalog, deployment.name, asked, now_us())
                except (QueryRejected, Refused, OSError, ModelsError, KeyError) as error:
                    log.warning("a guard of %s: %s", deployment.name, error)
                    continue
                if policies.crossed(rule, found.value):
                    reason = f"routes taken away: {rule['measure']} of model {route['model_id'][:12]} is {found.value:.4g}"
                    await self._say(DeploymentConfigured({"routes": None, "guard": None}, reason), deployment.name, f"guard:{deployment.now.version}")
                    break

