"""The way of every prediction request: decode, predict, encode; counted, noted where refused."""

from __future__ import annotations

import itertools
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.admission import body_of, size_of
from gateway.asked import MOST_ID, Asked, Served
from gateway.errors import ApiError, api_error, error_response
from gateway.keys import ADMISSION, FOLLOWER, SERVING, TELEMETRY, TRACES

MOST_ROWS = 1_000_000
MOST_REMEMBERED = 10_000
WORTH_PACKING = 4096
PROCESS = uuid.uuid4().hex[:20]
COUNT = itertools.count(1)
REMEMBERED: OrderedDict[tuple[str, str, str], tuple[bytes, dict[str, str], str]] = OrderedDict()


@dataclass(frozen=True)
class Given:
    """What a protocol decodes: the body and where it came from."""

    request: web.Request
    served: Served
    body: bytes
    request_id: str
    begun: int = 0
    deadline: int = 0
    marks: list[int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)  # what encoding needs again of decoding

    @property
    def consumer(self) -> str:
        """Who asks, by header or by key."""
        return self.request.headers.get("X-Consumer") or self.request.get("actor", "")

    def asked(self, rows: Sequence[Any], ids: list[str] | None = None, times: list[int] | None = None, **more: Any) -> Asked:
        """The decoded request; refused without rows or with too many."""
        query = self.request.query
        strict, monitored = query.get("strict", "") in {"1", "true"}, query.get("monitored", "") not in {"0", "false"}
        return checked(Asked(rows, ids, times, self.request_id, self.consumer, strict=strict, monitored=monitored, size=len(self.body), marks=self.marks, **{"deadline": self.deadline, **more}))


Decode = Callable[[Given], Asked]
Encode = Callable[[dict[str, Any], Given], web.Response]
Answered = Callable[[Served, Asked, int, int], Awaitable[dict[str, Any]]]
Refuse = Callable[[ApiError], web.Response]


async def run(request: web.Request, name: str, decode: Decode, encode: Encode, refuse: Refuse = error_response, answered: Answered | None = None) -> web.Response:
    """Answer one request in a protocol's words; it is journalled before it is answered.

    `answered` makes the answer where this is not for the deployment's champion to do.
    """
    begun = time.perf_counter_ns()
    request_id = request_id_of(request)
    key = (request.path, name, request.headers.get("Idempotency-Key", ""))
    if key[2] and key in REMEMBERED:
        body, headers, kind = REMEMBERED[key]
        return web.Response(body=body, content_type=kind, headers={**headers, "X-Request-ID": request_id})
    telemetry = request.app[TELEMETRY]
    traces = request.app[TRACES]
    marks: list[int] | None = [] if traces is not None and "traceparent" in request.headers else None
    known = name if name in request.app[FOLLOWER].catalog.deployments else "unknown"
    try:
        admission, serving = request.app[ADMISSION], request.app[SERVING]
        deadline = admission.deadline(request, begun)
        served = await serving.get(name)
        with admission.taken(size_of(request)):
            given = Given(request, served, await body_of(request, deadline), request_id, begun, deadline, marks)
            asked = decode(given)
            answer = await (answered or serving.predict)(served, asked, begun, time.perf_counter_ns())
            response = encode(answer, given)
    except Exception as error:  # noqa: BLE001 - counted, then answered in the protocol's shape
        found = api_error(error)
        telemetry.requests[(known, found.status)] += 1
        note_refusal(request, name, request_id, found, begun)
        if traces is not None and marks is not None:
            traces.note(request.headers, name, begun, marks, {"champion.request_id": request_id, "http.response.status_code": found.status, "error.type": found.code})
        response = refuse(found)
        response.headers["X-Request-ID"] = request_id
        return response
    telemetry.requests[(known, 200)] += 1
    if traces is not None and marks is not None:
        told = {"champion.request_id": request_id, "http.response.status_code": 200, "champion.rows": len(asked.rows), "champion.deployment_version": served.version, "champion.model_id": served.package.digest}
        traces.note(request.headers, name, begun, marks, told)
    response.headers["X-Request-ID"] = request_id
    if key[2] and isinstance(response.body, bytes):
        REMEMBERED[key] = (response.body, dict(response.headers), response.content_type)
        REMEMBERED[key][1].pop("Content-Type", None)
        while len(REMEMBERED) > MOST_REMEMBERED:
            REMEMBERED.popitem(last=False)
    if isinstance(response.body, bytes) and len(response.body) >= WORTH_PACKING and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.enable_compression(web.ContentCoding.gzip)
    return response


def request_id_of(request: web.Request) -> str:
    """The caller's id where it is printable and short, else one of our own."""
    given = request.headers.get("X-Request-ID", "")
    return given if is_request_id(given) else new_request_id()


def is_request_id(text: str) -> bool:
    """Whether a caller's request id is taken as it is."""
    return 0 < len(text) <= MOST_ID and text.isascii() and text.isprintable()


def new_request_id() -> str:
    """A request id of this process."""
    return f"{PROCESS}{next(COUNT):x}"


def note_refusal(request: web.Request, name: str, request_id: str, error: ApiError, begun: int) -> None:
    """A refused request of a known deployment is part of its service health."""
    if error.status == 404:  # noqa: PLR2004
        return
    latency = (time.perf_counter_ns() - begun) / 1000
    request.app[SERVING].refused(name, request_id, error.status, error.code, latency, request.get("actor", ""), error.wrong)


def checked(asked: Asked) -> Asked:
    """Refuse no rows and too many."""
    if not asked.rows:
        raise ApiError(422, "no_rows", "there are no rows to predict")
    if len(asked.rows) > MOST_ROWS:
        raise ApiError(413, "too_many_rows", f"{len(asked.rows):,} rows; {MOST_ROWS:,} at most in one request")
    return asked

