"""Projects: a file and a target in, feature analysis and leaderboard out."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path
from typing import Any

import orjson
from aiohttp import BodyPartReader, web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import job_id, page, propose, wait_after
from gateway.keys import ARTIFACTS, EVENT_LOG, FOLLOWER, REGISTRY, SETTINGS
from stream.clock import iso
from stream.events import ProjectCreated, ProjectFailed
from stream.jobs import sources, training_set
from stream.projections.catalog import Project
from stream.recount import package_of

TEXT = ("target", "name", "metric", "association_id", "timestamp", "task", "positive_class", "drop_leakage", "group", "weight")
RANGES = {"seed": (0, 2**31 - 1), "gap_seconds": (0, 1e10), "minutes": (0.001, 1e6), "holdout": (0.05, 0.5)}
OPTIONS = frozenset({*TEXT, "minutes", "exclude", "holdout", "seed", "mode", "gap_seconds"})


async def create(request: web.Request) -> web.Response:
    """Take a CSV or Parquet file, its URL, or a query of a ClickHouse, and queue AutoPilot on it."""
    if request.content_type == "multipart/form-data":
        fields, path = await read_form(request)
    else:
        fields = await object_body(request, "source")
        path = await from_source(request, fields)
    options = options_of(fields)
    project_id = job_id(request)
    if fields.get("source"):
        await asyncio.to_thread(sources.keep_secret, request.app[ARTIFACTS], project_id, str(fields["source"]))
        options |= {"source": sources.without_password(str(fields["source"])), "query": str(fields.get("query") or "")}
    name = str(fields.get("name") or options["target"])
    fact = ProjectCreated(project_id, name, path, options)
    _, position = await propose(request, fact)
    return json_response({"project_id": project_id, "state": "queued", "position": position}, 202)


async def read_form(request: web.Request) -> tuple[dict[str, Any], str]:
    """The form's fields; the file is streamed to the artifacts, named by its content."""
    fields: dict[str, Any] = {}
    path = ""
    try:
        reader = await request.multipart()
    except ValueError as error:
        raise ApiError(422, "broken_form", f"the form cannot be read: {error}") from error
    spool = request.app[SETTINGS].data_dir / "uploads"
    await asyncio.to_thread(spool.mkdir, parents=True, exist_ok=True)
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            continue
        if part.name == "file":
            path = await store(request, part, spool / uuid.uuid4().hex)
        elif part.name == "exclude":
            fields.setdefault("exclude", []).extend(s.strip() for s in (await part.text()).split(",") if s.strip())
        else:
            fields[part.name] = await part.text()
    if not path:
        raise ApiError(422, "no_file", "send the data as the form's field 'file'")
    if not fields.get("target"):
        raise ApiError(422, "missing_field", "missing: target", [{"field": "target"}])
    return fields, path


async def store(request: web.Request, part: BodyPartReader, spool: Path) -> str:
    """Write an upload in pieces; answers its artifact name."""
    digest = hashlib.sha256()
    try:
        with spool.open("wb") as out:
            while chunk := await part.read_chunk(1 << 20):
                digest.update(chunk)
                await asyncio.to_thread(out.write, chunk)
        name = f"files/{digest.hexdigest()}"
        await asyncio.to_thread(request.app[ARTIFACTS].put, name, spool)
    finally:
        await asyncio.to_thread(spool.unlink, missing_ok=True)
    return name


async def from_source(request: web.Request, fields: dict[str, Any]) -> str:
    """Fetch {"source": URL, "query"?: SQL}; answers the artifact's name."""
    if not fields.get("target"):
        raise ApiError(422, "missing_field", "missing: target", [{"field": "target"}])
    options_of(fields)  # refused before anything is fetched
    spool = request.app[SETTINGS].data_dir / "uploads"
    return await asyncio.to_thread(sources.fetch, request.app[ARTIFACTS], spool, str(fields["source"]), str(fields.get("query") or ""))


def options_of(fields: dict[str, Any]) -> dict[str, Any]:
    """The run's options, typed; 422 for one that does not fit."""
    unknown = sorted(set(fields) - OPTIONS - {"source", "query", "file"})
    if unknown:
        raise ApiError(422, "unknown_option", f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(OPTIONS))}")
    options: dict[str, Any] = {n: str(fields[n]) for n in TEXT if fields.get(n) not in (None, "")}
    options.pop("name", None)
    leak = {"true": "all", "True": "all", "false": "none", "False": "none"}.get(options.get("drop_leakage", "high"), options.get("drop_leakage", "high"))
    if leak not in {"none", "high", "all"}:
        raise ApiError(422, "wrong_option", "drop_leakage is none, high or all")
    options["drop_leakage"] = leak
    if options.get("task", "binary") not in {"binary", "multiclass", "regression"}:
        raise ApiError(422, "wrong_option", "task is binary, multiclass or regression")
    try:
        for name, read in (("minutes", float), ("holdout", float), ("gap_seconds", float), ("seed", int)):
            if fields.get(name) not in (None, ""):
                options[name] = read(fields[name])
    except (ValueError, TypeError, OverflowError) as error:
        raise ApiError(422, "wrong_option", f"{name} must be a number") from error
    for name, (low, high) in RANGES.items():
        if not low <= options.get(name, low) <= high:
            raise ApiError(422, "wrong_option", f"{name} is between {low:g} and {high:g}")
    if fields.get("mode", "auto") not in {"quick", "auto", "comprehensive"}:
        raise ApiError(422, "wrong_option", "mode is quick, auto or comprehensive")
    options["mode"] = str(fields.get("mode", "auto"))
    exclude = fields.get("exclude") or []
    if not isinstance(exclude, str | list):
        raise ApiError(422, "wrong_option", "exclude is a list of column names")
    options["exclude"] = [exclude] if isinstance(exclude, str) else [str(name) for name in exclude]
    return options


def project_json(project: Project) -> dict[str, Any]:
    """A project as its readers know it."""
    found: dict[str, Any] = {
        "project_id": project.project_id,
        "name": project.name,
        "target": project.options.get("target"),
        "state": project.state,
        "progress": project.progress,
        "message": project.message,
        "options": project.options,
        "created_at": iso(project.created_at),
    }
    if project.deployment:
        found |= {"deployment": project.deployment, "retraining_id": project.retraining_id}
    if project.error:
        found["error"] = project.error
    return found


async def many(request: web.Request) -> web.Response:
    """All projects, newest first."""
    await wait_after(request)
    projects = sorted(request.app[FOLLOWER].catalog.projects.values(), key=lambda p: -p.created_at)
    return json_response(page(request, [project_json(p) for p in projects]))


async def one(request: web.Request) -> web.Response:
    """A project's state and progress."""
    await wait_after(request)
    return json_response(project_json(request.app[FOLLOWER].catalog.project(request.match_info["p"])))


async def cancel(request: web.Request) -> web.Response:
    """Stop a project that is queued or runs."""
    project = request.app[FOLLOWER].catalog.project(request.match_info["p"])
    _, position = await propose(request, ProjectFailed(project.project_id, "cancelled", "cancelled on request"), project.deployment)
    return json_response({"project_id": project.project_id, "state": "cancelled", "position": position})


async def features(request: web.Request) -> web.Response:
    """The feature analysis."""
    project = request.app[FOLLOWER].catalog.project(request.match_info["p"])
    if not project.features:
        if project.error:
            raise ApiError(409, project.error["code"], project.error["message"])
        raise ApiError(409, "not_ready", "the analysis is not finished yet")
    return json_response(orjson.loads(request.app[ARTIFACTS].read(project.features)))


async def leaderboard(request: web.Request) -> web.Response:
    """Ranked models."""
    project = request.app[FOLLOWER].catalog.project(request.match_info["p"])
    return json_response({"models": project.models, "metric": project.metric, "partition": project.partition, "notes": project.notes})


async def rebuild(request: web.Request) -> web.Response:
    """Make a retraining's set again from the log and compare it with what was trained on."""
    app = request.app
    project = app[FOLLOWER].catalog.project(request.match_info["p"])
    record = project.options.get("training_set")
    if not record:
        raise ApiError(409, "no_training_set", f"project {project.project_id!r} was trained on an uploaded file, not on the log")
    package = await asyncio.to_thread(package_of, app[REGISTRY], record["model_id"])
    return json_response(await asyncio.to_thread(training_set.rebuild, app[EVENT_LOG], app[ARTIFACTS], package, record))
