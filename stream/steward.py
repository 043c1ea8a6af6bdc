"""The steward: acts on what is seen. Alerts are raised and cleared, people told, policies run.

It runs in the worker that owns control, holds no state of its own that matters, and says everything
through control: the fold decides whether it holds. Killed anywhere, the next one goes on from the events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from models.blueprints import REPOSITORY
from models.errors import ModelsError
from models.registry import Registry
from stream import alerts, policies
from stream.association import literal
from stream.broker import BrokerUnavailable
from stream.clickhouse import EventLog
from stream.clock import iso, now_us
from stream.concepts import Detectors, next_cohort
from stream.control import Follower
from stream.errors import LogUnavailable, QueryRejected, Refused
from stream.events import (
    AlertCleared,
    AlertRaised,
    ChallengerRemoved,
    ChampionChanged,
    DeploymentConfigured,
    Fact,
    NotificationEnded,
    PolicyRunAwaits,
    PolicyRunFinished,
    PolicyRunStarted,
    RetrainingStarted,
    new_id,
)
from stream.measures import measured, seconds_of
from stream.monitoring import comparison_answer
from stream.notifications import ATTEMPTS, FIRST_WAIT, MOST_WAIT, Undelivered, deliver, digest_due, secrets_of
from stream.projections.watch import Run
from stream.queries import Window

log = logging.getLogger("champion.steward")

EVERY = 1.0
ACTOR = "steward"
RECIPES = frozenset(blueprint.name for blueprint in REPOSITORY)
MOST_AT_ONCE = 8
CONCEPTS_EVERY = 3
MOST_COHORTS = 20
SHARE = 5  # rest five times as long as looking took
SETTLE = 10  # looks after the log's last movement


class Steward:
    """Looks, decides, says."""

    def __init__(self, event_log: EventLog, registry: Registry, follower: Follower) -> None:
        """Work against the log and the folded catalog."""
        self._log, self._registry, self._follower = event_log, registry, follower
        self._tries: dict[tuple[str, str], tuple[int, float]] = {}
        self._detectors: dict[str, Detectors] = {}
        self._looked: dict[tuple[str, str], dict[str, Any]] = {}
        self._round = 0
        self._seen, self._calm = (-1, -1), 0

    async def run(self, owns: Any) -> None:
        """For ever, while this process owns control."""
        took = 0.0
        while True:
            await asyncio.sleep(max(EVERY, SHARE * took))  # looking must never be what the log is busy with
            if not owns():
                continue
            begun = time.monotonic()
            try:
                moved = await asyncio.to_thread(self._moved)
                if moved:
                    await self._concepts()
                await self._alerts(moved=moved)
                await self._guards()
                await self._policies(moved=moved)
            except (LogUnavailable, BrokerUnavailable) as error:
                log.debug("later: %s", error)
            except Exception:
                log.exception("the steward stumbled")
            took = time.monotonic() - begun
            await self._tell()

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
        """Every few seconds: cohorts that have matured, read by the champion's detector in their order."""
        self._round += 1
        if self._round % CONCEPTS_EVERY:
            return
        for deployment in list(self._follower.catalog.deployments.values()):
            if deployment.state == "active":
                for _ in range(MOST_COHORTS):
                    if not await self._concept(deployment.name):
                        break

    async def _concept(self, name: str) -> bool:
        """One cohort; answers whether there was one. A detector that this process lacks is made again from the events."""
        cohorts = self._follower.catalog.watch.cohorts.get(name, [])
        detectors = self._detectors.get(name)
        if detectors is None or detectors.read > len(cohorts):
            detectors = self._detectors[name] = Detectors(self._log, self._registry, name)
        while detectors.read < len(cohorts):
            cohort = cohorts[detectors.read]
            for fact in await asyncio.to_thread(detectors.feed, cohort):
                await self._say(fact, name, f"{fact.model_id}:{cohort.end}")
        found = await asyncio.to_thread(next_cohort, self._log, name, cohorts[-1].end if cohorts else 0)
        return found is not None and await self._say(found, name, f"{found.start}:{len(cohorts)}")

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

    # notifications

    async def _tell(self) -> None:
        """Everyone who waits for a message and whose time has come: one message an alert, or one a digest."""
        watch, now = self._follower.catalog.watch, asyncio.get_running_loop().time()
        due: list[list[tuple[str, str]]] = []
        for name, channel in list(watch.channels.items()):
            keys = [key for key in list(watch.pending) if key[1] == name]
            rested = [key for key in keys if self._tries.get(key, (0, 0.0))[1] <= now]  # one that is tried again later holds up no other
            if not channel.options.get("digest"):
                due.extend([key] for key in rested)
            elif keys and keys[0] in rested and digest_due(channel, [watch.pending[key].occurred_at for key in keys], watch.told_at.get(name, 0), now_us()):
                due.append(keys)
        await asyncio.gather(*(self._tell_one(keys) for keys in due[:MOST_AT_ONCE]))

    async def _tell_one(self, keys: list[tuple[str, str]]) -> None:
        """One message to one channel; each of its alerts is said to be told, or given up after some attempts."""
        watch = self._follower.catalog.watch
        events, channel = [watch.pending[key] for key in keys if key in watch.pending], watch.channels.get(keys[0][1])
        if not events or channel is None:
            return
        attempts = self._tries.get(keys[0], (0, 0.0))[0] + 1
        reason = ""
        try:
            secrets = await asyncio.to_thread(secrets_of, self._registry.artifacts, channel.name)
            await deliver(channel, secrets, events)
        except Undelivered as error:
            reason = str(error)
            log.info("%s was not told (%d): %s", channel.name, attempts, reason)
        if reason and attempts < ATTEMPTS:
            self._tries[keys[0]] = (attempts, asyncio.get_running_loop().time() + min(FIRST_WAIT * 2**attempts, MOST_WAIT))
            return
        for event in events:
            key = (event.event_id, channel.name)
            try:
                await self._say(NotificationEnded(*key, attempts, reason), event.deployment, ":".join(key))
            except BrokerUnavailable:
                self._tries[key] = (attempts - 1, 0.0)  # told, but not written down: it may be told twice, by one key
                return
            self._tries.pop(key, None)

    # policies

    async def _policies(self, *, moved: bool) -> None:
        watch = self._follower.catalog.watch
        for run in list(watch.runs.values()):
            if not run.outcome:
                await self._step(run)
            elif run.outcome == "refused":
                await self._leave(run)
        for (deployment, name), policy in list(watch.policies.items()):
            if not moved and policy["trigger"]["kind"] != "schedule":
                continue
            if watch.run_of(deployment) is None and self._follower.catalog.deployments[deployment].state == "active":
                try:
                    evidence = await asyncio.to_thread(self._due, deployment, name, policy)
                except (QueryRejected, Refused, ModelsError, KeyError) as error:
                    log.warning("the trigger of policy %s of %s: %s", name, deployment, error)
                    continue
                if evidence is not None:
                    count = len(watch.runs_of(deployment, name))
                    await self._say(PolicyRunStarted(new_id(f"run:{deployment}:{name}:{count}")[:12], name, evidence), deployment, f"{name}:{count}")

    def _due(self, deployment: str, name: str, policy: dict[str, Any]) -> dict[str, Any] | None:
        """Why a run should begin now, or None."""
        runs, now, trigger = self._follower.catalog.watch.runs_of(deployment, name), now_us(), policy["trigger"]
        last = runs[0].started_at if runs else 0
        if trigger["kind"] == "manual" or not policies.rested(policy, last, now):
            return None
        if trigger["kind"] == "schedule":
            return {"trigger": "schedule", "every": trigger["every"]} if policies.scheduled(policy, last, now) else None
        if trigger["kind"] == "actuals":
            since = last or int(policy["set_at"])
            sql = f"SELECT count() AS n FROM actuals WHERE deployment = {literal(deployment)} AND recorded_at > fromUnixTimestamp64Micro({since})"
            count = int(self._log.rows(sql)[0]["n"])
            return {"trigger": "actuals", "count": count, "sql": sql} if count >= trigger["count"] else None
        found = measured(self._log, self._registry, self._follower.catalog, deployment, trigger, now)
        if not policies.crossed(trigger, found.value):
            return None
        evidence = {"trigger": trigger["kind"], "measure": trigger["measure"], "value": found.value, "window": found.window, "sql": found.sql}
        if "and" in trigger:
            other = measured(self._log, self._registry, self._follower.catalog, deployment, trigger["and"], now)
            if not policies.crossed(trigger["and"], other.value):
                return None
            evidence["and"] = {"measure": trigger["and"]["measure"], "value": other.value, "window": other.window, "sql": other.sql}
        return evidence

    async def _step(self, run: Run) -> None:
        """Take a run one step further."""
        catalog = self._follower.catalog
        policy = catalog.watch.policies.get((run.deployment, run.policy))
        job = catalog.jobs.get(run.run_id)
        if policy is None:
            await self._finish(run, "cancelled", "the policy was taken away", {})
        elif job is None:
            await self._retrain(run, policy)
        elif job.state == "failed":
            await self._finish(run, "failed", f"the retraining failed: {job.result.get('error')}", {})
        elif job.state == "finished":
            await self._result(run, policy, str(job.result["model_id"]))

    async def _retrain(self, run: Run, policy: dict[str, Any]) -> None:
        catalog = self._follower.catalog
        start = ""
        if policy["data"].get("span"):
            rows = await asyncio.to_thread(self._log.rows, f"SELECT toUnixTimestamp64Micro(max(occurred_at)) AS t FROM outcomes_log WHERE deployment = {literal(run.deployment)}")
            start = iso(max(0, int(rows[0]["t"]) - seconds_of(policy["data"]["span"]) * 1_000_000))
        champion = catalog.models[catalog.deployment(run.deployment).now.champion]
        names = [n for n in champion.blueprint.removeprefix("blend of ").split(", ") if n in RECIPES] if policy["model_selection"] != "autopilot" else []
        fact = RetrainingStarted(
            run.run_id,
            iso(run.started_at),
            start,
            policy["data"]["with_original"],
            policy.get("minutes"),
            names,
            policy["action"] != "register",
            policy.get("mode", ""),
            policies.choice_of(policy),
            champion.blueprint if names and policy["model_selection"] == "same_hyperparameters" else "",  # a frozen online model has no recipe
            policy["data"].get("refresh", False),
        )
        await self._say(fact, run.deployment, run.run_id)

    async def _result(self, run: Run, policy: dict[str, Any], model_id: str) -> None:
        """The retrained model is there: register, challenge, or soak and decide."""
        deployment = self._follower.catalog.deployment(run.deployment)
        evidence: dict[str, Any] = {"model_id": model_id}
        if policy["action"] == "register":
            await self._finish(run, "registered", f"model {model_id[:12]} lies in the registry", evidence)
        elif policy["action"] == "challenge":
            await self._finish(run, "challenging", f"model {model_id[:12]} is scored in the shadow", evidence)
        elif deployment.now.champion == model_id:
            await self._after_promotion(run, policy, model_id)
        elif model_id not in dict(deployment.now.challengers):
            await self._finish(run, "cancelled", f"model {model_id[:12]} is no challenger any more", evidence)
        elif slow := policies.too_slow(policy, self._follower.catalog.models[model_id].summary.get("ms_per_row")):
            await self._finish(run, "refused", f"model {model_id[:12]} is {slow}", evidence)
        elif not run.awaits:
            since = next(v.since for v in deployment.versions if model_id in dict(v.challengers))
            compared, metric = await asyncio.to_thread(self._compare, run.deployment, model_id, since)
            verdict = policies.gate(policy, compared, metric)
            if verdict.word == "accept" and policy["gate"]["person"]:
                await self._say(PolicyRunAwaits(run.run_id, model_id, f"model {model_id[:12]} is {verdict.sentence}", {**evidence, **verdict.evidence}), run.deployment, f"{run.run_id}:awaits")
            elif verdict.word == "accept":
                await self._say(ChampionChanged(model_id, f"policy {run.policy}: {verdict.sentence}", deployment.now.version), run.deployment, f"{run.run_id}:promote:{deployment.now.version}")
            elif verdict.word == "refuse":
                sentence = f"model {model_id[:12]} is {verdict.sentence}"
                await self._finish(run, "refused", sentence, {**evidence, **verdict.evidence})  # _leave takes it away

    async def _leave(self, run: Run) -> None:
        """A refused model is no challenger any more; said once, however often this is looked at."""
        model_id = str(run.result.get("model_id"))
        if model_id in dict(self._follower.catalog.deployment(run.deployment).now.challengers):
            await self._say(ChallengerRemoved(model_id, f"policy {run.policy}: refused"), run.deployment, f"{run.run_id}:remove")

    async def _after_promotion(self, run: Run, policy: dict[str, Any], model_id: str) -> None:
        """Promoted: done, or watched until the old champion has had its chance to be better."""
        deployment = self._follower.catalog.deployment(run.deployment)
        promoted = next(v for v in deployment.versions if v.champion == model_id and v.since >= run.started_at)
        old = deployment.versions[promoted.version - 2].champion
        evidence: dict[str, Any] = {"model_id": model_id, "before": old, "reason": promoted.reason}
        least = policy["gate"]["rollback_rows"]
        if not least:
            await self._finish(run, "promoted", f"model {model_id[:12]} is champion since {iso(promoted.since)}: {promoted.reason}", evidence)
            return
        compared, metric = await asyncio.to_thread(self._compare, run.deployment, old, promoted.since)
        back = {**policy, "gate": {**policy["gate"], "soak_rows": least, "minimum_gain": 0.0}}
        verdict = policies.gate(back, compared, metric)
        if verdict.word == "accept":
            await self._say(ChampionChanged(old, f"rolled back by policy {run.policy}: the old champion is {verdict.sentence}", deployment.now.version), run.deployment, f"{run.run_id}:back:{deployment.now.version}")
            await self._finish(run, "rolled_back", f"the old champion {old[:12]} is {verdict.sentence}", {**evidence, **verdict.evidence})
        elif verdict.word == "refuse":
            await self._finish(run, "promoted", f"model {model_id[:12]} is champion and stays: the old one is {verdict.sentence}", {**evidence, **verdict.evidence})

    def _compare(self, deployment: str, model_id: str, since: int) -> tuple[dict[str, Any] | None, str]:
        """A challenger beside the champion on the rows recorded since."""
        window = Window(deployment, segment=f"recorded_at >= fromUnixTimestamp64Micro({since})")
        found = comparison_answer(self._log, self._registry, self._follower.catalog, window)
        return next((c for c in found["challengers"] if c["model_id"] == model_id), None), str(found["metric"])

    async def _finish(self, run: Run, outcome: str, sentence: str, evidence: dict[str, Any]) -> bool:
        return await self._say(PolicyRunFinished(run.run_id, outcome, sentence, evidence), run.deployment, f"{run.run_id}:{outcome}")


def position_of(log: EventLog) -> dict[str, int]:
    """How far the log had come with each source when a number was read from it."""
    return {row["source"]: int(row["sequence"]) for row in log.rows("SELECT source, sequence FROM log_progress ORDER BY source")}
