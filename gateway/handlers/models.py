"""Models of the registry and what they tell of themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from gateway.errors import ApiError, json_response
from gateway.handlers.common import page, propose, wait_after
from gateway.handlers.projects import options_of, read_form
from gateway.keys import ARTIFACTS, FOLLOWER, REGISTRY, SERVING
from models.external import register
from models.members import EXTERNAL
from models.package import ModelPackage
from models.table import read_table
from stream.clock import iso
from stream.events import ModelRegistered
from stream.jobs.autopilot import options_from

INSIGHTS = {"confusion-matrix": "confusion", "lift": "lift", "roc": "roc", "residuals": "residuals", "calibration": "calibration"}


async def many(request: web.Request) -> web.Response:
    """All registered models, newest first."""
    await wait_after(request)
    models = sorted(request.app[FOLLOWER].catalog.models.values(), key=lambda m: -m.registered_at)
    items = [
        {"model_id": m.model_id, "blueprint": m.blueprint, "task": m.task, "target": m.target, "project_id": m.project_id, **m.summary, "registered_at": iso(m.registered_at)}
        for m in models
    ]
    catalog = request.app[FOLLOWER].catalog
    return json_response({**page(request, items), "models": [name for name, d in catalog.deployments.items() if d.state == "active"]})


async def external(request: web.Request) -> web.Response:
    """Register a model that predicts elsewhere: a file with inputs, actuals and what it said is what it is watched by."""
    fields, path = await read_form(request)
    prediction, name = str(fields.pop("prediction", "")), str(fields.pop("name", "") or EXTERNAL)
    if not prediction:
        raise ApiError(422, "missing_field", "missing: prediction, the column with what the model said (or what the columns of its classes begin with)", [{"field": "prediction"}])
    options = options_from(options_of(fields))

    def made() -> dict[str, Any]:
        table = read_table(request.app[ARTIFACTS].read(path))
        return register(request.app[REGISTRY], table, options, prediction, name)

    found = await asyncio.to_thread(made)
    kept = {k: found[k] for k in ("validation", "holdout", "ms_per_row", "recommended", "trained_on", "family")}
    fact = ModelRegistered(found["model_id"], "", found["blueprint"], found["task"], found["target"], found["metric"], kept)
    _, position = await propose(request, fact)
    return json_response({**found, "position": position}, 201)


async def load(request: web.Request) -> ModelPackage:
    """The package named in the path, by a unique prefix too."""
    model = request.app[FOLLOWER].catalog.model(request.match_info["m"])
    if model.summary.get("online"):
        raise ApiError(404, "no_package", f"{model.model_id} learns in the shadow and has no package; `learned` in the log is its whole state")
    return await asyncio.to_thread(request.app[REGISTRY].load, model.model_id)


async def one(request: web.Request) -> web.Response:
    """Everything known of one model; for a deployment's name, KServe V1's readiness."""
    name = request.match_info["m"]
    if name in request.app[FOLLOWER].catalog.deployments:
        served = await request.app[SERVING].get(name)
        return json_response({"name": served.name, "ready": True})
    return json_response(model_json(await load(request)))


def model_json(package: ModelPackage) -> dict[str, Any]:
    """A model as its readers know it."""
    schema = package.schema
    inputs = [{"name": f.name, "kind": f.kind, "levels": len(f.levels)} for f in schema.features]
    target = {"name": schema.target.name, "task": schema.target.task, "classes": list(schema.target.classes)}
    metadata = {k: v for k, v in package.metadata.items() if k not in {"insights", "importance_raw"}}
    return {"model_id": package.digest, "target": target, "inputs": inputs, "unused": list(schema.unused), **metadata}


async def importance(request: web.Request) -> web.Response:
    """Permutation importance, strongest first; 1 is the strongest input."""
    package = await load(request)
    raw = package.metadata["importance_raw"]
    items = [{"name": n, "importance": v, "loss": raw[n]} for n, v in sorted(package.metadata["importance"].items(), key=lambda t: -t[1])]
    return json_response({"metric": package.metadata["metric"], "importance": items})


async def insight(request: web.Request) -> web.Response:
    """One of the curves of held-out predictions."""
    package = await load(request)
    name = request.match_info["insight"]
    found: dict[str, Any] | None = package.metadata["insights"].get(INSIGHTS.get(name, ""))
    if found is None:
        raise ApiError(404, "no_insight", f"a {package.schema.target.task} model has no {name}; it has: {', '.join(package.metadata['insights'])}")
    return json_response({"model_id": package.digest, **found})


async def learning_curve(request: web.Request) -> web.Response:
    """The validation score by number of training rows: one point a fold (forward folds grow)."""
    package = await load(request)
    return json_response({"metric": package.metadata["metric"], "points": package.metadata["learning_curve"]})


async def describe(request: web.Request) -> web.Response:
    """The model in sentences."""
    package = await load(request)
    meta, target = package.metadata, package.schema.target
    strongest = [n for n, v in sorted(meta["importance"].items(), key=lambda t: -t[1]) if v > 0][:3]
    sentences = [
        f"{meta['blueprint']} ({meta['family']}) predicts {target.name} ({target.task}) from {len(package.schema.features)} inputs.",
    ]
    if package.plan.external:
        sentences.append(f"It predicts elsewhere; what it is compared with are {meta['rows']:,} rows, on which its {meta['metric']} is {spelt(meta['holdout'])}.")
    else:
        sentences.append(f"It was trained on {meta['rows']:,} rows ({meta['trained_on']}); {meta['partition']}.")
        sentences.append(f"Its {meta['metric']} is {spelt(meta['validation'])} in validation and {spelt(meta['holdout'])} on the holdout.")
        sentences.append(f"A single row takes {meta['ms_per_row'] * 1000:.0f} µs.")
    if strongest:
        sentences.append(f"It relies most on {', '.join(strongest)}.")
    if package.schema.unused:
        sentences.append(f"Accepted and logged but not used: {', '.join(package.schema.unused)}.")
    return json_response({"model_id": package.digest, "sentences": sentences})


def spelt(value: float | None) -> str:
    """A score in a sentence."""
    return "not defined" if value is None else f"{value:.4g}"


async def blueprint(request: web.Request) -> web.Response:
    """The recipe: members, weights, calibration."""
    package = await load(request)
    parts = [{"form": type(p.member).__name__, "weight": p.weight, "calibration": p.calibration} for p in package.plan.parts]
    return json_response({"blueprint": package.metadata["blueprint"], "family": package.metadata["family"], "parts": parts, "calibration": package.plan.calibration})
