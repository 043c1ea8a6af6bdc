"""Predictions by our own protocol, and their receipts."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from aiohttp import web

from gateway.asked import Asked, Served
from gateway.errors import ApiError, json_response
from gateway.handlers.common import wait_after
from gateway.keys import EVENT_LOG, REGISTRY, SERVING
from gateway.protocols import native
from gateway.protocols.run import Given, run
from models.external import outputs_of_values
from models.registry import Registry
from stream.learners import is_learner
from stream.recount import outputs_from, package_of
from stream.rehearsal import matrix_of


async def predict(request: web.Request) -> web.Response:
    """Score rows with the champion; the request is journalled before it is answered.

    ?strict=true refuses all rows where one is wrong; ?monitored=false keeps them out of drift, accuracy, service health and challengers.
    """
    return await run(request, request.match_info["d"], native.decode, native.encode)


async def external(request: web.Request) -> web.Response:
    """Hand in what a model elsewhere said: rows and predictions, one each; recorded, watched and joined like the champion's own."""
    said: list[Any] = []

    def decode(given: Given) -> Asked:
        data = native.json_object(given.body)
        if type(data.get("predictions")) is not list:
            raise ApiError(422, "missing_field", "missing: predictions, one a row", [{"field": "predictions"}])
        said.extend(data["predictions"])
        return given.asked(*native.parts_of(data))

    async def answered(served: Served, asked: Asked, begun: int, decoded: int) -> dict[str, Any]:
        if len(said) != len(asked.rows):
            raise ApiError(422, "wrong_length", f"{len(said)} predictions for {len(asked.rows)} rows")
        output = outputs_of_values(served.package.schema.target, said)
        return await request.app[SERVING].accept(served, asked, output, begun, decoded)

    return await run(request, request.match_info["d"], decode, native.encode, answered=answered)


COLUMNS = """deployment, deployment_version, association_id, request_id, occurred_at, recorded_at, model_id, role, features, features_num, features_cat,
    predicted_value, predicted_class, probabilities, latency_us, humility, event_id"""


async def receipt(request: web.Request) -> web.Response:
    """What the log holds of a request: inputs, models, answers, humility, and the actuals known by now."""
    await wait_after(request)
    log, wanted = request.app[EVENT_LOG], {"id": request.match_info["id"]}
    sql = f"SELECT {COLUMNS} FROM predictions WHERE request_id = {{id:String}} ORDER BY event_id LIMIT 1000"
    rows = await asyncio.to_thread(log.rows, sql, wanted)
    if not rows:
        raise ApiError(404, "unknown_prediction", "the log has no prediction with this request id (yet)")
    known = await asyncio.to_thread(log.rows, "SELECT event_id, actual_class, actual_value, actual_at, actual_received_at FROM outcomes WHERE request_id = {id:String}", wanted)
    actuals = {row.pop("event_id"): row for row in known}
    why = await asyncio.to_thread(log.rows, "SELECT event_id, explained_class, score, typical_score, effects FROM explanations WHERE request_id = {id:String}", wanted)
    reasons = {row.pop("event_id"): row for row in why}
    hidden = {"features_num", "features_cat"}
    shown = [{k: v for k, v in r.items() if k not in hidden} for r in rows]
    return json_response({"predictions": [{**r, "features": orjson.loads(r["features"]), "actual": actuals.get(r["event_id"]), "explanation": reasons.get(r["event_id"])} for r in shown]})


async def reexecute(request: web.Request) -> web.Response:
    """Score the stored request again with the very models, and compare with what was answered, bit for bit."""
    await wait_after(request)
    app = request.app
    sql = f"SELECT {COLUMNS} FROM predictions WHERE request_id = {{id:String}} ORDER BY event_id LIMIT 10000"
    found = await asyncio.to_thread(app[EVENT_LOG].arrow, sql, {"id": request.match_info["id"]})
    if not found.num_rows:
        raise ApiError(404, "unknown_prediction", "the log has no prediction with this request id (yet)")
    rows = await asyncio.to_thread(again, app[REGISTRY], found)
    return json_response({"rows": rows, "equal": all(row["equal"] for row in rows if row["recomputed"] is not None)})


def again(registry: Registry, found: pa.Table) -> list[dict[str, Any]]:
    """Each stored row beside what its model says now; where a rule served something else, that is said.

    An online challenger has learnt since: what it was then is only to be had by replaying its lessons.
    """
    out: list[dict[str, Any]] = []
    for model_id in pc.unique(found.column("model_id")).to_pylist():
        part = found.filter(pc.equal(found.column("model_id"), model_id)).combine_chunks()
        if is_learner(model_id):
            kept = part.select(["event_id", "role", "humility", "probabilities", "predicted_value"]).to_pylist()
            out.extend({"event_id": r["event_id"], "role": r["role"], "humility": r["humility"], "model_id": model_id, "stored": r["probabilities"] or [r["predicted_value"]], "recomputed": None, "equal": None, "served_by_rule": False} for r in kept)
            continue
        package = package_of(registry, model_id)
        output = package.plan.predict(matrix_of(package, part))
        stored = outputs_from(package, part)
        for k, row in enumerate(part.select(["event_id", "role", "humility"]).to_pylist()):
            acted = any(word in row["humility"] for word in (":override", ":fallback"))
            same = bool((output[k] == stored[k]).all())
            out.append({**row, "model_id": model_id, "stored": stored[k].tolist(), "recomputed": output[k].tolist(), "equal": same or acted, "served_by_rule": acted})
    return out
