"""One error shape for every answer, and the middleware that makes it.

ApiError carries status, code, message and details; the errors of models and stream are turned into
one here, and only here do they meet HTTP.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from models.errors import DataError, ModelsError, PackageError, ScoredElsewhere
from stream.broker import BrokerUnavailable
from stream.errors import JournalFull, LogUnavailable, Malformed, QueryRejected, Refused

log = logging.getLogger("champion.gateway")

STATUS = {"conflict": 409, "unknown": 404, "invalid": 422}
UNUSABLE = 422
FOREIGN = ("/v2/", "/predApi/", "/api/v2/")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, details: list[Any] | None = None, retry_after: int | None = None) -> None:
        """Say it once, for people and programs."""
        super().__init__(message)
        self.status, self.code, self.details, self.retry_after = status, code, details or [], retry_after
        self.wrong: dict[str, int] = {}  # rows that a value of the wrong type spoilt, by input


def api_error(error: BaseException) -> ApiError:
    """What an exception is for a client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Refused):
        return ApiError(STATUS[error.kind], error.code, str(error))
    if isinstance(error, DataError):
        return ApiError(422, error.code, str(error))
    if isinstance(error, ScoredElsewhere):
        return ApiError(409, error.code, str(error))
    if isinstance(error, PackageError):
        return ApiError(503, error.code, str(error), retry_after=1)
    if isinstance(error, ModelsError):
        return ApiError(422, error.code, str(error))
    if isinstance(error, Malformed):
        return ApiError(422, "malformed", str(error))
    if isinstance(error, QueryRejected):
        return ApiError(400, "query_rejected", str(error))
    if isinstance(error, BrokerUnavailable):
        return ApiError(503, "broker_unavailable", str(error), retry_after=1)
    if isinstance(error, LogUnavailable):
        return ApiError(503, "log_unavailable", str(error), retry_after=1)
    if isinstance(error, JournalFull):
        return ApiError(503, "journal_full", str(error), retry_after=5)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return ApiError(413, "too_large", "the body is larger than this gateway takes")
    if isinstance(error, web.HTTPNotFound):
        return ApiError(404, "unknown_path", "there is nothing at this path")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return ApiError(405, "wrong_method", f"this path takes {', '.join(sorted(error.allowed_methods))}")
    if isinstance(error, web.HTTPException):
        return ApiError(error.status, "http_error", error.reason)
    log.error("unexpected: %r", error, exc_info=error)
    return ApiError(500, "internal", "something went wrong here; the gateway's log has it")


def error_response(error: ApiError) -> web.Response:
    """The one shape."""
    body = orjson.dumps({"error": {"code": error.code, "message": str(error), "details": error.details}})
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


def text_error(error: ApiError) -> web.Response:
    """`{"error": "text"}`, as V2, MLflow and DataRobot have it, beside the latter two's own words."""
    text = str(error)
    body = orjson.dumps({"error": text, "error_code": error.code.upper(), "message": text})
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    return web.Response(status=400 if error.status == UNUSABLE else error.status, body=body, content_type="application/json", headers=headers)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into the one shape."""
    try:
        response = await handler(request)
    except web.HTTPRedirection:
        raise
    except Exception as error:  # noqa: BLE001 - the edge answers everything
        shape = text_error if request.path.startswith(FOREIGN) else error_response
        response = shape(api_error(error))
    if "X-Request-ID" not in response.headers and not response.prepared:
        given = request.headers.get("X-Request-ID", "")
        response.headers["X-Request-ID"] = given if given and given.isascii() and given.isprintable() else uuid.uuid4().hex
    return response


def json_response(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON by orjson; NumPy values and floats that are not finite are handled (null)."""
    body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


async def json_body(request: web.Request) -> Any:
    """The request's JSON; 400 where it is none."""
    body = await request.read()
    if not body:
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "broken_json", f"the body is not JSON: {error}") from error


async def object_body(request: web.Request, *required: str) -> dict[str, Any]:
    """A JSON object with some fields; 400 or 422 where it is not."""
    data = await json_body(request)
    if not isinstance(data, dict):
        raise ApiError(422, "wrong_type", "the body must be a JSON object")
    missing = [name for name in required if data.get(name) in (None, "")]
    if missing:
        raise ApiError(422, "missing_field", f"missing: {', '.join(missing)}", [{"field": name} for name in missing])
    return data
