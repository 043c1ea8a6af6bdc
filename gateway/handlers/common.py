"""What the handlers share: waiting for a position, windows, paging, writing through control."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from aiohttp import web

from gateway.errors import ApiError, json_response
from gateway.keys import EVENT_LOG, FOLLOWER
from stream.clock import iso, now_us, parse_time
from stream.control import catalog_as_of
from stream.events import Event, Fact, new_id
from stream.position import read_position
from stream.projections.catalog import Catalog
from stream.queries import BUCKETS, Window
from stream.segments import condition

WAIT = 15.0
CONTROL_SOURCE = "control"


async def propose(request: web.Request, fact: Fact, deployment: str = "") -> tuple[Event, str]:
    """Put a command through control; answers its event and position once the log has it."""
    follower = request.app[FOLLOWER]
    key = request.headers.get("Idempotency-Key", "")
    event = await follower.propose(fact, actor=request.get("actor", ""), deployment=deployment, key=key)
    sequence = await follower.logged(event)
    return event, f"{CONTROL_SOURCE}={sequence}"


def job_id(request: web.Request) -> str:
    """A new id, or the same one for the same idempotency key on the same path."""
    key = request.headers.get("Idempotency-Key", "")
    return new_id(f"{request.path}:{key}" if key else "")[:12]


async def wait_after(request: web.Request) -> None:
    """Read your writes: `?after=` waits until the log has the position, 504 when it takes too long."""
    text = request.query.get("after", "")
    if not text:
        return
    try:
        wanted = read_position(text)
    except ValueError as error:
        raise ApiError(422, "wrong_position", str(error)) from error
    log = request.app[EVENT_LOG]
    end = asyncio.get_running_loop().time() + WAIT
    delay = 0.02
    while True:
        have = {}
        sources = [s for s in wanted if s != CONTROL_SOURCE]
        if sources:
            sql = "SELECT source, sequence FROM log_progress WHERE source IN {sources:Array(String)}"
            have = {r["source"]: int(r["sequence"]) for r in await asyncio.to_thread(log.rows, sql, {"sources": sources})}
        if CONTROL_SOURCE in wanted:
            rows = await asyncio.to_thread(log.rows, "SELECT max(sequence) AS s FROM events_log")
            have[CONTROL_SOURCE] = int(rows[0]["s"])
        if all(have.get(s, 0) >= n for s, n in wanted.items()):
            return
        if asyncio.get_running_loop().time() > end:
            raise ApiError(504, "not_there_yet", f"the log has not reached {text} within {WAIT:g} seconds")
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, 0.25)


def window_of(request: web.Request, deployment: str, bucket: str = "1h") -> Window:
    """from, to, bucket, model_id, as_of and segment of a question."""
    bucket = request.query.get("bucket", bucket)
    if bucket not in BUCKETS:
        raise ApiError(422, "wrong_bucket", f"bucket is one of {', '.join(BUCKETS)}")
    model = request.query.get("model_id", "")
    if model:
        model = request.app[FOLLOWER].catalog.model(model).model_id
    segment = request.query.get("segment", "")
    return Window(deployment, moment(request, "from"), moment(request, "to"), BUCKETS[bucket], model, moment(request, "as_of"), condition(segment) if segment else "")


async def catalog_of(request: web.Request) -> Catalog:
    """The catalog as it is, or with `?as_of=` as it was known then."""
    at = moment(request, "as_of")
    if at is None:
        return request.app[FOLLOWER].catalog
    return await asyncio.to_thread(catalog_as_of, request.app[EVENT_LOG], at)


def moment(request: web.Request, name: str) -> int | None:
    """A time of the query string in microseconds."""
    text = request.query.get(name, "")
    if not text:
        return None
    try:
        return parse_time(text.replace(" ", "+"))
    except ValueError as error:
        raise ApiError(422, "wrong_time", f"{name}: {error}") from error


async def stamped(request: web.Request, data: dict[str, Any]) -> web.Response:
    """An answer with `as_of` and `lag_ms`: up to when the log confirmed what it holds."""
    log = request.app[EVENT_LOG]
    rows = await asyncio.to_thread(log.rows, "SELECT toUnixTimestamp64Micro(max(recorded_at)) AS t FROM log_progress_log")
    last = int(rows[0]["t"])
    now = now_us()
    return json_response({**data, "as_of": iso(last) if last else None, "lag_ms": max(0, (now - last) // 1000) if last else None})


def page(request: web.Request, items: list[Any]) -> dict[str, Any]:
    """A page of a list by `?limit=&cursor=`."""
    try:
        limit = min(max(int(request.query.get("limit", "100")), 1), 1000)
        start = int(base64.urlsafe_b64decode(request.query.get("cursor", "")).decode() or "0")
    except ValueError as error:
        raise ApiError(422, "wrong_cursor", "limit must be a number and cursor one that an answer gave") from error
    found: dict[str, Any] = {"items": items[start : start + limit]}
    if start + limit < len(items):
        found["next"] = base64.urlsafe_b64encode(str(start + limit).encode()).decode()
    return found
