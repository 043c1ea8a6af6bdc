"""POST /v1/deployments/{d}/predictions: rows in, predictions out."""

from __future__ import annotations

import io
import itertools
import time
import uuid
from collections import OrderedDict
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
from aiohttp import web

from gateway.errors import ApiError, api_error, error_response, json_response
from gateway.keys import FOLLOWER, PUBLISHER, SERVING, TELEMETRY
from gateway.serving import MOST_ID, Asked, text_of
from stream.clock import now_us, parse_time
from stream.errors import JournalFull

MOST_ROWS = 1_000_000
PROCESS = uuid.uuid4().hex[:20]
COUNT = itertools.count(1)
REMEMBERED: OrderedDict[tuple[str, str], bytes] = OrderedDict()
MOST_REMEMBERED = 10_000


async def predict(request: web.Request) -> web.Response:
    """Score rows with the champion; the request is journalled before it is answered."""
    begun = time.perf_counter_ns()
    name = request.match_info["d"]
    headers = request.headers
    request_id = request_id_of(request)
    key = headers.get("Idempotency-Key", "")
    if key and (name, key) in REMEMBERED:
        return web.Response(body=REMEMBERED[(name, key)], content_type="application/json", headers={"X-Request-ID": request_id})
    telemetry = request.app[TELEMETRY]
    known = name if name in request.app[FOLLOWER].catalog.deployments else "unknown"
    try:
        serving = request.app[SERVING]
        served = await serving.get(name)
        asked = decode(request, await request.read(), request_id)
        answer = await serving.predict(served, asked, begun, time.perf_counter_ns())
    except Exception as error:  # noqa: BLE001 - counted, then answered in the one shape
        found = api_error(error)
        telemetry.requests[(known, found.status)] += 1
        note_refusal(request, name, request_id, found, begun)
        response = error_response(found)
        response.headers["X-Request-ID"] = request_id
        return response
    telemetry.requests[(known, 200)] += 1
    body = orjson.dumps(answer)
    if key:
        REMEMBERED[(name, key)] = body
        while len(REMEMBERED) > MOST_REMEMBERED:
            REMEMBERED.popitem(last=False)
    return web.Response(body=body, content_type="application/json", headers={"X-Request-ID": request_id})


def request_id_of(request: web.Request) -> str:
    """The caller's id where it is printable and short, else one of our own."""
    given = request.headers.get("X-Request-ID", "")
    if given and len(given) <= MOST_ID and given.isascii() and given.isprintable():
        return given
    return f"{PROCESS}{next(COUNT):x}"


def note_refusal(request: web.Request, name: str, request_id: str, error: ApiError, begun: int) -> None:
    """A refused request of a known deployment is part of its service health."""
    if error.status == 404:  # noqa: PLR2004
        return
    record = {
        "k": "x",
        "d": name,
        "id": request_id,
        "status": error.status,
        "code": error.code,
        "lat": (time.perf_counter_ns() - begun) / 1000,
        "c": request.get("actor", ""),
    }
    try:
        request.app[PUBLISHER].record(name, record, now_us())
    except JournalFull:
        request.app[TELEMETRY].unrecorded[name] += 1


def decode(request: web.Request, body: bytes, request_id: str) -> Asked:
    """JSON rows, an object with rows, or CSV."""
    kind = request.content_type
    consumer = request.headers.get("X-Consumer") or request.get("actor", "")
    strict = request.query.get("strict", "") in {"1", "true"}
    if kind in {"text/csv", "text/plain"}:
        rows = csv_rows(body)
        return checked(Asked(rows, None, None, request_id, consumer, strict, len(body)))
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "broken_json", f"the body is not JSON: {error}") from error
    if type(data) is list:
        return checked(Asked(data, None, None, request_id, consumer, strict, len(body)))
    if type(data) is not dict or type(data.get("rows")) is not list:
        raise ApiError(422, "wrong_type", 'send {"rows": [{feature: value}, …]}, a list of rows, or CSV')
    rows = data["rows"]
    ids = data.get("association_ids")
    times = data.get("timestamps")
    if ids is not None:
        ids = texts("association_ids", ids, len(rows))
    if times is not None:
        times = moments(times, len(rows))
    return checked(Asked(rows, ids, times, request_id, consumer, strict, len(body)))


def checked(asked: Asked) -> Asked:
    """Refuse no rows and too many."""
    if not asked.rows:
        raise ApiError(422, "no_rows", "there are no rows to predict")
    if len(asked.rows) > MOST_ROWS:
        raise ApiError(413, "too_many_rows", f"{len(asked.rows):,} rows; {MOST_ROWS:,} at most in one request")
    return asked


def texts(name: str, values: Any, count: int) -> list[str]:
    """A list of ids, one a row."""
    if type(values) is not list or len(values) != count:
        raise ApiError(422, "wrong_length", f"{name} must be a list with one value a row")
    found = [v if type(v) is str else text_of(v) for v in values]
    if any(not v or len(v) > 128 for v in found):  # noqa: PLR2004
        raise ApiError(422, "wrong_type", f"{name} must be texts of 1 to 128 characters")
    return found


def moments(values: Any, count: int) -> list[int]:
    """A list of times, one a row, in microseconds."""
    if type(values) is not list or len(values) != count:
        raise ApiError(422, "wrong_length", "timestamps must be a list with one time a row")
    try:
        return [parse_time(v) for v in values]
    except (ValueError, OverflowError, OSError) as error:
        raise ApiError(422, "wrong_time", f"timestamps: {error}") from error


def csv_rows(body: bytes) -> list[dict[str, Any]]:
    """CSV with a header as row dicts of texts; empty cells are missing."""
    try:
        header = next(pyarrow.csv.open_csv(io.BytesIO(body), convert_options=pyarrow.csv.ConvertOptions(null_values=[""]))).schema.names
        table = pyarrow.csv.read_csv(
            io.BytesIO(body),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True),
        )
    except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError) as error:
        raise ApiError(422, "broken_csv", f"the body is no CSV with a header row: {error}") from error
    if len(set(header)) < len(header):
        raise ApiError(422, "duplicate_columns", "a column name comes more than once")
    return list(table.to_pylist())


async def receipt(request: web.Request) -> web.Response:
    """GET /v1/predictions/{id}: what the log holds of a request."""
    import asyncio

    from gateway.handlers.common import wait_after
    from gateway.keys import EVENT_LOG

    await wait_after(request)
    sql = """SELECT deployment, deployment_version, association_id, request_id, occurred_at, recorded_at, model_id, role, features,
    predicted_value, predicted_class, probabilities, latency_us, humility, event_id
FROM predictions WHERE request_id = {id:String} ORDER BY event_id LIMIT 1000"""
    rows = await asyncio.to_thread(request.app[EVENT_LOG].rows, sql, {"id": request.match_info["id"]})
    if not rows:
        raise ApiError(404, "unknown_prediction", "the log has no prediction with this request id (yet)")
    return json_response({"predictions": [{**r, "features": orjson.loads(r["features"])} for r in rows]})
