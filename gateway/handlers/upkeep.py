"""Upkeep: rows erased on request, and dead letters listed and sent again."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.handlers.common import job_id, propose, wait_after
from gateway.keys import EVENT_LOG, FOLLOWER, OUTBOX, PRODUCER
from stream.association import literal
from stream.clock import now_us
from stream.dead_letters import send_again
from stream.events import DeadLettersReplayed

MOST_LETTERS = 1000


async def erase(request: web.Request) -> web.Response:
    """Delete the rows of an association id, or with `everything` those of the whole deployment, from tables, dead letters and kept training sets."""
    data = await object_body(request)
    name = request.match_info["d"]
    association = data.get("association_id") or ""
    if not isinstance(association, str) or bool(association) == bool(data.get("everything")):
        raise ApiError(422, "missing_field", 'send {"association_id": "…"} or {"everything": true}')
    if not association and name in request.app[FOLLOWER].catalog.deployments and request.app[FOLLOWER].catalog.deployments[name].state not in {"deleted", "archived"}:
        raise ApiError(409, "in_use", f"deployment {name!r} is in use: delete or archive it first")
    where = f"deployment = {literal(name)}" + (f" AND association_id = {literal(association)}" if association else "")
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, f"SELECT count() AS n FROM predictions WHERE {where}")
    erasure_id = job_id(request)
    record = {"k": "e", "d": name, "id": erasure_id, "a": association, "n": int(rows[0]["n"])}
    source, sequence = request.app[OUTBOX].record(name, record, now_us())
    return json_response({"erasure_id": erasure_id, "rows": int(rows[0]["n"]), "position": f"{source}={sequence}"}, 202)


async def letters(request: web.Request) -> web.Response:
    """Messages that could not be handled, newest first, with their reason and (base64) payload."""
    await wait_after(request)
    return json_response({"items": await asyncio.to_thread(found_letters, request, dict(request.query))})


def found_letters(request: web.Request, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Letters by id or topic."""
    parts = ["1"]
    if wanted.get("topic"):
        parts.append(f"topic = {literal(str(wanted['topic']))}")
    if wanted.get("letters"):
        parts.append(f"letter_id IN ({', '.join(literal(str(i)) for i in wanted['letters'])})")
    sql = f"SELECT * FROM dead_letters WHERE {' AND '.join(parts)} ORDER BY recorded_at DESC, letter_id LIMIT {MOST_LETTERS}"
    return request.app[EVENT_LOG].rows(sql)


async def replay_letters(request: web.Request) -> web.Response:
    """Send letters to where they came from, by their ids or by topic: for when the cause is mended."""
    data = await object_body(request)
    if not data.get("topic") and not isinstance(data.get("letters"), list):
        raise ApiError(422, "missing_field", 'send {"letters": [ids]} or {"topic": "…"}')
    rows = await asyncio.to_thread(found_letters, request, data)
    if not rows:
        raise ApiError(404, "unknown_letter", "there is no such letter")
    await send_again(request.app[PRODUCER], rows)
    _, position = await propose(request, DeadLettersReplayed([row["letter_id"] for row in rows]))
    return json_response({"sent": len(rows), "position": position}, 202)
