"""Health, metrics, events and SQL."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import wait_after
from gateway.keys import EVENT_LOG, FOLLOWER, PRODUCER, SERVING, SETTINGS, TELEMETRY
from models.compiled import BUILT
from stream.association import literal
from stream.clock import now_us
from stream.errors import LogUnavailable, QueryRejected

FRESH = 15_000_000
FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(\w+)", re.DOTALL)
READS = {"select", "with", "show", "describe", "desc", "explain", "exists"}
ONCE: set[str] = set()


async def live(request: web.Request) -> web.Response:
    """The process runs."""
    del request
    return json_response({"live": True})


async def ready(request: web.Request) -> web.Response:
    """Whether this gateway can answer, and how each part is."""
    parts = await parts_of(request.app)
    for name, part in parts.items():
        if part["ready"]:
            ONCE.add(name)
    missing = request.app[SERVING].missing
    never = [name for name in parts if name not in ONCE]
    lost = [name for name, part in parts.items() if not part["ready"]]
    able = not missing and not never
    answer: dict[str, Any] = {"ready": able, "live": True, "parts": parts}
    if missing:
        answer["reason"] = f"champions not loaded: {', '.join(missing)}"
    if lost and able:
        answer["degraded"] = True
    return json_response(answer, 200 if able else 503)


async def parts_of(app: web.Application) -> dict[str, dict[str, Any]]:
    """Broker, event log, worker, gateway and trainer as this gateway sees them."""
    settings, follower = app[SETTINGS], app[FOLLOWER]
    run = run_file(settings.data_dir)
    broker: dict[str, Any] = {"ready": follower.caught_up.is_set(), "address": settings.bootstrap}
    try:
        await asyncio.wait_for(app[PRODUCER].check(), 2)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
        broker |= {"ready": False, "reason": str(error) or type(error).__name__}
    eventlog: dict[str, Any] = {"ready": True, "address": settings.eventlog_url.split("@")[-1]}
    beats: dict[str, Any] = {}
    try:
        sql = "SELECT part, max(toUnixTimestamp64Micro(at)) AS at FROM heartbeats GROUP BY part"
        beats = {row["part"]: int(row["at"]) for row in await asyncio.to_thread(app[EVENT_LOG].rows, sql)}
    except (LogUnavailable, QueryRejected) as error:
        eventlog |= {"ready": False, "reason": str(error)}
    parts = {"broker": broker, "eventlog": eventlog}
    for name in ("worker", "trainer"):
        age = now_us() - beats.get(name, 0)
        parts[name] = {"ready": age < FRESH, "address": ""}
        if age >= FRESH:
            parts[name]["reason"] = f"no heartbeat for {age / 1e6:.0f} s" if name in beats else "no heartbeat yet"
    parts["gateway"] = {"ready": follower.caught_up.is_set(), "address": f"http://{settings.host}:{settings.port}", "trees": "C" if BUILT else "NumPy"}
    for name, found in run.items():
        if name in parts:
            parts[name] |= {"pid": found.get("pid"), "restarts": found.get("restarts", 0)}
    return parts


def run_file(folder: Any) -> dict[str, Any]:
    """What `champion up` wrote of the processes it runs."""
    try:
        return dict(json.loads((folder / "run.json").read_text()))
    except (OSError, ValueError):
        return {}


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text."""
    return web.Response(body=request.app[TELEMETRY].text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def events(request: web.Request) -> web.Response:
    """The audit trail, newest first (`order=oldest` turns it), filtered by type, deployment and sequence."""
    await wait_after(request)
    query = request.query
    parts = ["1"]
    if query.get("type"):
        parts.append(f"type = {literal(query['type'])}")
    if query.get("deployment"):
        parts.append(f"deployment = {literal(query['deployment'])}")
    try:
        start, limit = int(query.get("cursor") or "0"), min(max(int(query.get("limit", "100")), 1), 1000)
    except ValueError as error:
        raise ApiError(422, "wrong_cursor", "limit and cursor are numbers") from error
    newest = query.get("order", "newest") != "oldest"
    if start:
        parts.append(f"sequence {'<' if newest else '>'} {start}")
    sql = f"SELECT * FROM events WHERE {' AND '.join(parts)} ORDER BY sequence {'DESC' if newest else 'ASC'} LIMIT {limit}"
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, sql)
    answer: dict[str, Any] = {"items": [{**row, "payload": orjson.loads(row["payload"])} for row in rows]}
    if len(rows) == limit:
        answer["next"] = str(rows[-1]["sequence"])
    return json_response(answer)


async def sql(request: web.Request) -> web.Response:
    """Run read-only SQL over the log."""
    await wait_after(request)
    data = await object_body(request, "query")
    query = str(data["query"]).strip().rstrip(";")
    word = FIRST_WORD.match(query)
    if word is None or word[1].lower() not in READS:
        raise ApiError(403, "not_read_only", "only SELECT, WITH, SHOW, DESCRIBE, EXPLAIN and EXISTS are answered here")
    if re.search(r"\bFORMAT\s+\w+\s*$", query, re.IGNORECASE):
        raise ApiError(422, "no_format", "leave out FORMAT: the answer is JSON")
    found = orjson.loads(await asyncio.to_thread(request.app[EVENT_LOG].raw, query, None, "JSON", {"output_format_json_quote_64bit_integers": 0}))
    return json_response({"columns": found["meta"], "rows": found["data"], "count": found["rows"], "statistics": found.get("statistics")})
