"""Who answers: the loaded champions, and the prediction pipeline from rows to a journalled answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import numpy as np

from gateway.admission import within
from gateway.asked import Asked, Outputs, Served, association_ids, row_times
from gateway.errors import ApiError
from gateway.guards import add_more, check_more, humble, models_of, say_humility
from gateway.routing import errors_of, joined, parts_of
from gateway.steps import BLOCK, columns_of, encode_in_blocks, refuse_unusable, score_in_blocks, sum_of
from gateway.telemetry import Telemetry
from models.errors import ModelsError
from models.humility import Humbled, Rule, hits_text, overridden, read_rule
from models.metrics import decide_at
from models.package import ModelPackage
from models.registry import Registry
from models.schema import TOGETHER, Encoded
from models.types import Floats
from stream.batches import BATCH, ROUTE_FAILED, own_ids
from stream.clock import now_us
from stream.control import Follower
from stream.errors import JournalFull
from stream.events import Event
from stream.outbox import Outbox
from stream.projections.catalog import Deployment

log = logging.getLogger("champion.serving")

RETRY = 5.0
RECORD_ROWS = 1000
RECORD_BYTES = 8 << 20


class Serving:
    """Keeps the champions loaded as the catalog changes."""

    def __init__(self, follower: Follower, registry: Registry, outbox: Outbox, telemetry: Telemetry, *, on_full: str) -> None:
        """Listen to the follower; `on_full` is answer or refuse."""
        self._follower, self._registry, self._outbox, self._telemetry = follower, registry, outbox, telemetry
        self._refuse = on_full == "refuse"
        self._served: dict[str, Served] = {}
        self._failed: dict[str, str] = {}
        self._unrouted: set[str] = set()  # deployments of which a route could not be loaded yet
        self._packages: dict[str, ModelPackage] = {}
        self._changed = asyncio.Event()
        follower.listeners.append(self._noticed)

    def _noticed(self, event: Event) -> None:
        if event.deployment:
            self._changed.set()

    async def run(self) -> None:
        """Load what is deployed, again at every change; for ever."""
        while True:
            self._changed.clear()
            for name, deployment in list(self._follower.catalog.deployments.items()):
                await self._load(name, deployment)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RETRY if self._failed or self._unrouted else None)

    async def _load(self, name: str, deployment: Deployment) -> None:
        now = deployment.now
        served = self._served.get(name)
        if deployment.state in {"deleted", "archived"}:
            self._served.pop(name, None)
            return
        if served is not None and served.version == now.version and name not in self._unrouted:
            return
        try:
            if now.champion not in self._packages:
                self._packages[now.champion] = await asyncio.to_thread(self._warm, now.champion)
        except (ModelsError, OSError) as error:
            self._failed[name] = str(error)
            log.error("champion of %s cannot be loaded: %s", name, error)  # noqa: TRY400
            return
        self._failed.pop(name, None)
        package = self._packages[now.champion]
        rules = await self._rules(name, deployment, package)
        settings = deployment.settings
        routes = await self._routes(name, settings)
        others = {m: self._packages[m] for m in [*(m for rule in rules for m in models_of(rule)), *(m for m, _ in routes)]}
        self._served[name] = Served(name, now.version, deployment.association_id, str(settings.get("timestamp", "")), package, settings.get("threshold"), rules, others, routes, self._follower.catalog.watch.adapted(name, settings.get("adaptive_intervals")))

    async def _routes(self, name: str, settings: dict[str, Any]) -> tuple[tuple[str, float], ...]:
        """The routes whose models answer here; while one cannot be loaded the champion answers for it, and it is tried again."""
        found: list[tuple[str, float]] = []
        self._unrouted.discard(name)
        for route in settings.get("routes") or ():
            try:
                model_id, share = str(route["model_id"]), float(route["share"])
                if model_id not in self._packages:
                    self._packages[model_id] = await asyncio.to_thread(self._warm, model_id)
            except (ModelsError, OSError, KeyError, TypeError, ValueError) as error:
                log.error("a route of %s is left out: %s", name, error)  # noqa: TRY400
                self._unrouted.add(name)
                continue
            found.append((model_id, share))
        return tuple(found)

    async def _rules(self, name: str, deployment: Deployment, package: ModelPackage) -> tuple[Rule, ...]:
        """The rules that this champion can follow; one that it cannot is left out and said, and stops nothing."""
        found = []
        for data in deployment.settings.get("humility", []):
            try:
                rule = read_rule(data, package.schema)
                for model_id in models_of(rule):
                    if model_id not in self._packages:
                        self._packages[model_id] = await asyncio.to_thread(self._warm, model_id)
            except (ModelsError, OSError) as error:
                log.warning("a humility rule of %s is left out: %s", name, error)
                continue
            found.append(rule)
        return tuple(found)

    def _warm(self, model_id: str) -> ModelPackage:
        """Load a package and predict once, so that the first request finds everything ready."""
        package = self._registry.load(model_id)
        if package.plan.external:
            return package
        width = len(package.schema.features)
        package.plan.predict_one([float("nan")] * width)
        package.plan.predict(np.full((2, width), np.nan))
        return package

    def ready(self, name: str) -> Served | None:
        """The deployment, if it answers at once."""
        served = self._served.get(name)
        return served if served is not None and self._follower.catalog.deployments[name].state == "active" else None

    async def get(self, name: str) -> Served:
        """The deployment that answers; 404, or 409 where it is paused."""
        served = self._served.get(name)
        if served is None:
            served = await self._late(name)
        if self._follower.catalog.deployments[name].state == "paused":
            raise ApiError(409, "paused", f"deployment {name!r} is paused")
        return served

    async def _late(self, name: str) -> Served:
        """Before a 404 control is read to its end, and a model on its way is waited for."""
        if not self._follower.caught_up.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._follower.caught_up.wait(), 2.0)
        if self._follower.catalog.deployment(name).state == "archived":
            raise ApiError(409, "archived", f"deployment {name!r} is archived")
        for _ in range(100):
            if name in self._served:
                return self._served[name]
            if name in self._failed:
                raise ApiError(503, "model_not_loaded", self._failed[name], retry_after=5)
            await asyncio.sleep(0.05)
        raise ApiError(503, "model_not_loaded", f"the champion of {name!r} is being loaded", retry_after=1)

    async def loaded(self, name: str, version: int) -> None:
        """Wait until a version of a deployment answers; 503 where it cannot."""
        for _ in range(300):
            served = self._served.get(name)
            if served is not None and served.version >= version:
                return
            if name in self._failed:
                break
            await asyncio.sleep(0.02)
        reason = self._failed.get(name, "it is still being loaded")
        raise ApiError(503, "model_not_loaded", f"the change is recorded, but this gateway does not serve it yet: {reason}", retry_after=5)

    @property
    def missing(self) -> list[str]:
        """Deployments that should answer and cannot yet."""
        wanted = [n for n, d in self._follower.catalog.deployments.items() if d.state in {"active", "paused"}]
        return [n for n in wanted if n not in self._served]

    async def predict(self, served: Served, asked: Asked, begun: int, decoded: int) -> dict[str, Any]:
        """The pipeline: encode, score, journal, answer; `begun` and `decoded` are clock readings (ns)."""
        if served.routes:
            return await self._predict_routed(served, asked, begun, decoded)
        if len(asked.rows) <= BLOCK:
            return self.predict_now(served, asked, begun, decoded)
        encoded = await encode_in_blocks(served.package.plan.schema, asked)
        refuse_unusable(asked, encoded.errors, encoded.wrong)
        made = time.perf_counter_ns()
        output = await score_in_blocks(served, encoded, asked.deadline)
        within(asked.deadline)
        return self._finish(served, asked, encoded, output, (begun, decoded, made, time.perf_counter_ns()))

    async def _predict_routed(self, served: Served, asked: Asked, begun: int, decoded: int) -> dict[str, Any]:
        """Each part by its own model; nothing is recorded before it is sure that the request is answered."""
        ids = association_ids(served, asked) or own_ids(asked.request_id, 0, len(asked.rows))
        parts = parts_of(served, asked, ids)
        for _, part, _ in parts:
            check_more(asked, part.package)
        encoded = [await encode_in_blocks(part.package.plan.schema, some) for _, part, some in parts]
        refuse_unusable(asked, errors_of([(rows, one) for (rows, _, _), one in zip(parts, encoded, strict=True)]), sum_of([one.wrong for one in encoded]))
        scored = []
        for (rows, part, some), one in zip(parts, encoded, strict=True):
            made = time.perf_counter_ns()
            who, read, output = await self._scored(served, part, some, one)
            scored.append((rows, who, some, read, output, (begun, decoded, made, time.perf_counter_ns())))
        within(asked.deadline)
        first, arrived = 0, now_us()
        for _, _, some, read, _, _ in reversed(scored):  # a request counts where its first row lies: with the part that is done last, whose latency is the whole request's
            some.first, some.arrived = first, arrived
            first += len(some.rows) - len(read.errors)
        answers = [(rows, who, self._finish(who, some, read, output, times)) for rows, who, some, read, output, times in scored]
        return joined(asked, served, answers)

    async def _scored(self, served: Served, part: Served, some: Asked, encoded: Encoded) -> tuple[Served, Encoded, Floats]:
        """Who answers a part of a request, its rows made ready, and the outputs. Where a routed model fails the champion answers, and that it failed is recorded."""
        if part.package is served.package:
            return part, encoded, await score_in_blocks(part, encoded, some.deadline)
        try:
            output = await score_in_blocks(part, encoded, some.deadline)
            if np.isfinite(output).all():
                return part, encoded, output
            reason = "its answers are no numbers"
        except ApiError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a canary dies of, nobody waits for it in vain
            reason = f"{type(error).__name__}: {error}"
        log.warning("model %s, to which rows of %s are routed, fails: %s", part.package.digest[:12], served.name, reason)
        self.refused(served.name, some.request_id, 200, f"{ROUTE_FAILED}:{part.package.digest}", 0.0, some.consumer, {})
        read = await encode_in_blocks(served.package.plan.schema, some)
        return served, read, await score_in_blocks(served, read, some.deadline)

    async def accept(self, served: Served, asked: Asked, output: Floats, begun: int, decoded: int) -> dict[str, Any]:
        """Take what a model elsewhere said of rows as the champion's answer: recorded, watched and joined like any other."""
        if not served.package.plan.external:
            raise ApiError(409, "scored_here", f"the champion of {served.name!r} predicts here: ask it")
        encoded = await encode_in_blocks(served.package.plan.schema, asked)
        refuse_unusable(asked, encoded.errors, encoded.wrong)
        within(asked.deadline)
        made = time.perf_counter_ns()
        return self._finish(served, asked, encoded, output, (begun, decoded, made, made))

    def predict_now(self, served: Served, asked: Asked, begun: int, decoded: int) -> dict[str, Any]:
        """The pipeline for at most BLOCK rows, without giving way to others."""
        plan = served.package.plan
        encoded = plan.schema.encode_rows(asked.rows, strict=asked.strict)
        refuse_unusable(asked, encoded.errors, encoded.wrong)
        made = time.perf_counter_ns()
        matrix = encoded.matrix
        output = plan.predict_one(matrix[0].tolist()).reshape(1, -1) if len(matrix) == 1 else plan.predict(matrix)
        within(asked.deadline)
        return self._finish(served, asked, encoded, output, (begun, decoded, made, time.perf_counter_ns()))

    def _finish(self, served: Served, asked: Asked, encoded: Encoded, output: Floats, times: tuple[int, int, int, int]) -> dict[str, Any]:
        """Journal, then answer. Only the journal may still refuse: nothing is recorded then."""
        given = association_ids(served, asked)
        moments = asked.timestamps if asked.timestamps is not None else row_times(served, asked.rows)
        humbled = humble(served, encoded, output, (times[-1] - times[0]) / 1e6) if served.rules else None
        output = humbled.output if humbled else output
        target = served.package.schema.target
        chosen = [] if target.task == "regression" else decide_at(output, served.threshold).tolist()
        if humbled and target.task != "regression":
            for row, rule in humbled.acted.items():
                chosen[row] = overridden(rule, served.package.schema) if rule.action == "override" else chosen[row]
        labels = [""] * len(output) if target.task == "regression" else [target.classes[k] for k in chosen]
        columnar = asked.columnar and len(output) >= TOGETHER and not (encoded.errors or humbled or asked.explain or asked.interval)
        every: Any = np.ascontiguousarray(output) if columnar else output.tolist()
        answer = self._answer(served, asked, encoded, every, labels, given)
        if humbled:
            say_humility(answer["predictions"], humbled)
        if asked.explain or asked.interval:
            add_more(answer["predictions"], served, asked, encoded, output, chosen)
        answered = time.perf_counter_ns()
        latency = (times[-1] - times[0]) / 1000
        answer["position"], answer["recorded"] = self._record(served, asked, encoded, (every, chosen, labels), given, moments, latency, humbled)
        if encoded.wrong:  # the request is answered; the rows that could not be scored are remembered by what spoilt them
            self.refused(served.name, asked.request_id, 200, "wrong_type", latency, asked.consumer, encoded.wrong)
        self._telemetry.rows[served.name] += len(asked.rows)
        marks = (*times, answered, time.perf_counter_ns())
        self._telemetry.observe(marks)
        if asked.marks is not None:
            asked.marks[:] = marks[1:]
        return answer

    def refused(self, name: str, request_id: str, status: int, code: str, latency: float, consumer: str, wrong: dict[str, int]) -> None:
        """Record a request that was not answered, or not for all of its rows; what cannot be kept is counted."""
        record = {"k": "x", "d": name, "id": request_id, "status": status, "code": code, "lat": latency, "c": consumer, "w": wrong}
        try:
            self._outbox.record(name, record, now_us())
        except JournalFull:
            self._telemetry.unrecorded[name] += 1

    def _record(
        self, served: Served, asked: Asked, encoded: Encoded, said: tuple[Any, list[int], list[str]], ids: list[str] | None, times: list[int] | None, latency: float, humbled: Humbled | None
    ) -> tuple[str, bool]:
        values, probabilities = columns_of(served, *said[:2])
        classes = said[2]
        rows, columns = encoded.logged, encoded.columns
        humility = [hits_text(humbled, k) for k in range(len(rows))] if humbled and humbled.hits else None
        if encoded.errors:
            good = [k for k in range(len(rows)) if k not in encoded.errors]
            ids = ids or own_ids(asked.request_id, 0, len(rows))
            rows, ids = [rows[k] for k in good], [ids[k] for k in good]
            times = [times[k] for k in good] if times else None
            values, classes = [values[k] for k in good], [classes[k] for k in good]
            probabilities = [probabilities[k] for k in good]
            humility = [humility[k] for k in good] if humility else None
        source, sequence = "", 0
        now = asked.arrived or now_us()
        step = RECORD_ROWS if asked.size <= RECORD_BYTES else max(1, min(RECORD_ROWS, RECORD_BYTES * len(asked.rows) // asked.size))
        for at in range(0, len(rows), step):
            end = at + step
            record: dict[str, Any] = {
                "k": "p",
                "d": served.name,
                "v": served.version,
                "m": served.package.digest,
                "id": asked.request_id,
                "r0": asked.first + at,
                "ts": times[at:end] if times else None,
                "a": ids[at:end] if ids is not None else None,
                "y": values[at:end],
                "k1": classes[at:end],
                "q": probabilities[at:end],
                "lat": round(latency, 1),
                "c": asked.consumer,
            }
            if columns is not None:
                record["cols"] = {name: values[at:end] for name, values in columns.items()}
                record["names"], record["x"] = served.package.schema.numeric, served.package.schema.numbers(encoded.matrix[at:end])
            else:
                record["rows"] = rows[at:end]
            if not asked.monitored:
                record["role"] = BATCH
            if humility:
                record["h"] = humility[at:end]
            try:
                source, sequence = self._outbox.record(served.name, record, now)
            except JournalFull:
                self._telemetry.unrecorded[served.name] += len(rows) - at
                if self._refuse:
                    raise
                return "", False
        return f"{source}={sequence}" if source else "", True

    def _answer(self, served: Served, asked: Asked, encoded: Encoded, every: Any, labels: list[str], given: list[str] | None) -> dict[str, Any]:
        target = served.package.schema.target
        predictions: list[dict[str, Any]] = []
        outputs, ids = None, given or []
        if isinstance(every, np.ndarray):
            outputs = Outputs(labels if target.task != "regression" else None, every)
        else:
            ids = ids or own_ids(asked.request_id, 0, len(every))
            names = target.classes
            predictions = (
                [{"row": k, "association_id": ids[k], "prediction": row[0]} for k, row in enumerate(every)]
                if target.task == "regression"
                else [
                    {"row": k, "association_id": made, "prediction": label, "probabilities": dict(zip(names, p))}  # noqa: B905 - as many as classes
                    for k, (made, label, p) in enumerate(zip(ids, labels, every))  # noqa: B905 - one a row
                ]
            )
        for k, notes in encoded.warnings.items() if outputs is None else ():
            predictions[k]["warnings"] = notes
        for k, error in encoded.errors.items():
            predictions[k] = {"row": k, "association_id": ids[k], "error": error}
        return {
            "request_id": asked.request_id,
            "deployment": served.name,
            "deployment_version": served.version,
            "model_id": served.package.digest,
            "predictions": predictions,
            **({"outputs": outputs} if outputs is not None else {}),
        }
