"""Runs of retraining policies, taken a step further at each look: due, retrained, soaking, promoted, watched.

The catalog holds where a run stands; every step is a fact that the fold accepts once. Killed anywhere, the next
process goes on from the events.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from models.blueprints import REPOSITORY
from models.errors import ModelsError
from models.registry import Registry
from stream import policies
from stream.association import literal
from stream.clickhouse import EventLog
from stream.clock import iso, now_us
from stream.comparison import comparison_answer
from stream.control import Follower
from stream.errors import QueryRejected, Refused
from stream.events import ChallengerRemoved, ChampionChanged, PolicyRunAwaits, PolicyRunFinished, PolicyRunLooked, PolicyRunStarted, RetrainingStarted, new_id
from stream.measures import measured, seconds_of
from stream.projections.watch import Run
from stream.queries import Window
from stream.teller import Say

log = logging.getLogger("champion.steward")

RECIPES = frozenset(blueprint.name for blueprint in REPOSITORY)


class PolicyRuns:
    """Begins runs that are due and takes each that is under way a step further."""

    def __init__(self, event_log: EventLog, registry: Registry, follower: Follower, say: Say) -> None:
        """Work against the log and the folded catalog."""
        self._log, self._registry, self._follower, self._say = event_log, registry, follower, say

    async def look(self, *, moved: bool) -> None:
        """Every run a step further, and a new one where a policy is due; measured triggers only where the log `moved`."""
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
        """Why a run should begin now, or None; it waits for as many rows to learn from as the policy asks for."""
        evidence = self._fired(deployment, name, policy)
        least = policy["data"].get("least_rows", 0)
        if evidence is None or not least:
            return evidence
        since = f"AND occurred_at >= fromUnixTimestamp64Micro({self._start(deployment, policy)})"
        rows = int(self._log.rows(f"SELECT count() AS n FROM outcomes WHERE deployment = {literal(deployment)} AND role = 'champion' {since}")[0]["n"])
        return {**evidence, "rows": rows} if rows >= least else None

    def _fired(self, deployment: str, name: str, policy: dict[str, Any]) -> dict[str, Any] | None:
        """What the trigger says."""
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

    def _start(self, deployment: str, policy: dict[str, Any]) -> int:
        """Where the rows begin that a policy learns from (microseconds): its span before the newest outcome, or the beginning."""
        if not policy["data"].get("span"):
            return 0
        rows = self._log.rows(f"SELECT toUnixTimestamp64Micro(max(occurred_at)) AS t FROM outcomes_log WHERE deployment = {literal(deployment)}")
        return max(0, int(rows[0]["t"]) - seconds_of(policy["data"]["span"]) * policies.MICRO)

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
        start = iso(await asyncio.to_thread(self._start, run.deployment, policy)) if policy["data"].get("span") else ""
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
        elif any(v.champion == model_id for v in deployment.versions[run.version :]):
            await self._finish(run, "cancelled", f"model {model_id[:12]} was promoted, and another after it", evidence)
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
        """Promoted: done, or watched until the old champion has had its chances to be better, each on the rows since the one before."""
        deployment = self._follower.catalog.deployment(run.deployment)
        promoted = next((v for v in deployment.versions[run.version :] if v.champion == model_id), deployment.now)
        old = deployment.versions[promoted.version - 2].champion
        evidence: dict[str, Any] = {"model_id": model_id, "before": old, "reason": promoted.reason}
        if old == model_id or not run.version < promoted.version:
            await self._finish(run, "refused", f"model {model_id[:12]} is the champion itself: the retraining changed nothing", evidence)
            return
        least = policy["gate"]["rollback_rows"]
        if not least:
            await self._finish(run, "promoted", f"model {model_id[:12]} is champion since {iso(promoted.since)}: {promoted.reason}", evidence)
            return
        compared, metric = await asyncio.to_thread(self._compare, run.deployment, old, run.looked_at or promoted.since)
        look, last = run.looks + 1, int(policy["gate"].get("rollback_looks", 1))
        back = {**policy, "gate": {**policy["gate"], "soak_rows": least, "minimum_gain": 0.0}}
        verdict = policies.gate(back, compared, metric)
        if verdict.word == "accept":
            await self._say(ChampionChanged(old, f"rolled back by policy {run.policy}: the old champion is {verdict.sentence}", deployment.now.version), run.deployment, f"{run.run_id}:back:{deployment.now.version}")
            await self._finish(run, "rolled_back", f"the old champion {old[:12]} is {verdict.sentence}", {**evidence, **verdict.evidence})
        elif verdict.word == "refuse" and look < last:
            sentence = f"look {look} of {last} after the promotion: the old champion is {verdict.sentence}"
            await self._say(PolicyRunLooked(run.run_id, look, sentence, {**evidence, **verdict.evidence}), run.deployment, f"{run.run_id}:look:{look}")
        elif verdict.word == "refuse":
            await self._finish(run, "promoted", f"model {model_id[:12]} is champion and stays: the old one is {verdict.sentence}", {**evidence, **verdict.evidence})

    def _compare(self, deployment: str, model_id: str, since: int) -> tuple[dict[str, Any] | None, str]:
        """A challenger beside the champion on the rows recorded since."""
        window = Window(deployment, segment=f"recorded_at >= fromUnixTimestamp64Micro({since})")
        found = comparison_answer(self._log, self._registry, self._follower.catalog, window)
        return next((c for c in found["challengers"] if c["model_id"] == model_id), None), str(found["metric"])

    async def _finish(self, run: Run, outcome: str, sentence: str, evidence: dict[str, Any]) -> bool:
        return await self._say(PolicyRunFinished(run.run_id, outcome, sentence, evidence), run.deployment, f"{run.run_id}:{outcome}")
