"""POST /v1/deployments/{d}/actuals: outcomes as JSON, CSV or an uploaded CSV file."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from gateway.errors import ApiError, json_response, object_body
from gateway.keys import FOLLOWER, OUTBOX, TELEMETRY
from gateway.protocols.native import csv_rows
from stream.clock import now_us
from stream.courier import Actual, actual_id, parse_item
from stream.errors import Malformed
from stream.events import new_id
from stream.rows import number_or_none

RECORD_ROWS = 2000
MOST_REASONS = 1000
RENAMED = {"associationId": "association_id", "actualValue": "actual", "wasActedOn": "acted_on"}


async def upload(request: web.Request) -> web.Response:
    """Journal the actuals that can be read; answer which and why not."""
    return take(request, await items_of(request))


async def upload_datarobot(request: web.Request) -> web.Response:
    """The same in DataRobot's names: {"data": [{"associationId", "actualValue", "timestamp"?, "wasActedOn"?}]}."""
    data = await object_body(request, "data")
    if not isinstance(data["data"], list):
        raise ApiError(422, "wrong_type", 'send {"data": [{"associationId", "actualValue"}, …]}')
    return take(request, [{RENAMED.get(k, k): v for k, v in item.items()} if isinstance(item, dict) else item for item in data["data"]])


def take(request: web.Request, items: list[Any]) -> web.Response:
    """Accept what can be accepted."""
    name = request.match_info["d"]
    if not items:
        raise ApiError(422, "no_rows", "there are no actuals in the body")
    catalog = request.app[FOLLOWER].catalog
    known = catalog.deployments.get(name)
    regression = known is not None and catalog.models[known.now.champion].task == "regression"
    now = now_us()
    key = request.headers.get("Idempotency-Key", "")
    rows: list[Actual] = []
    rejected: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        try:
            if not isinstance(item, dict):
                raise Malformed("an actual is an object")
            association, actual, timestamp, own, acted_on = parse_item(item)
            if regression and actual is not None and number_or_none(actual) is None:
                raise Malformed(f"'actual' must be a number, not {actual!r}")
        except Malformed as error:
            rejected.append({"row": number, "reason": str(error)})
            continue
        identity = own or (new_id(f"{name}:{key}:{number}") if key else actual_id(name, association, actual, timestamp, now))
        rows.append((association, actual, timestamp, identity, acted_on))
    position = journal(request, name, rows, now)
    telemetry = request.app[TELEMETRY]
    label = name if known is not None else "unknown"
    telemetry.actuals[(label, "accepted")] += len(rows)
    telemetry.actuals[(label, "rejected")] += len(rejected)
    answer = {"accepted": len(rows), "rejected": rejected[:MOST_REASONS], "rejected_count": len(rejected), "position": position}
    if known is None:
        answer["note"] = f"no deployment {name!r} is known here yet; the actuals are kept for it"
    return json_response(answer, 202)


def journal(request: web.Request, name: str, rows: list[Actual], now: int) -> str:
    """Keep the rows; JournalFull (503) where that cannot be done: actuals are never accepted unrecorded."""
    source, sequence = "", 0
    for at in range(0, len(rows), RECORD_ROWS):
        part = rows[at : at + RECORD_ROWS]
        source, sequence = request.app[OUTBOX].record(name, {"k": "a", "d": name, "rows": part}, now)
    return f"{source}={sequence}" if source else ""


def given(rows: list[dict[str, Any]]) -> list[Any]:
    """CSV rows without their empty cells: an empty cell is no value, and no retraction."""
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


async def items_of(request: web.Request) -> list[Any]:
    """The items of whatever form the body has."""
    if request.content_type == "multipart/form-data":
        form = await request.post()
        file = form.get("file")
        if not isinstance(file, web.FileField):
            raise ApiError(422, "no_file", "send the CSV as the form's field 'file'")
        return given(csv_rows(file.file.read()))
    body = await request.read()
    if request.content_type in {"text/csv", "text/plain"}:
        return given(csv_rows(body))
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "broken_json", f"the body is not JSON: {error}") from error
    found = data.get("actuals") if isinstance(data, dict) else data
    if not isinstance(found, list):
        raise ApiError(422, "wrong_type", 'send {"actuals": [{"association_id", "actual"}, …]}')
    return found
