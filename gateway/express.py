"""The express lane: a plain prediction request is answered in the very call that its bytes come in.

aiohttp spends more on a request than a model does on a row: a task to wake, request, response and
writer objects, middlewares, headers as multi-dicts. A connection here looks at what it receives
first. A whole, plain prediction request (POST, Content-Length, JSON of our own or Open Inference V2 with
or without binary tensors, up to 1,000 rows, a loaded
deployment, no header that asks for more) is parsed, scored, journalled and answered at once; all
else, and every request that will be refused, goes to aiohttp byte for byte, unchanged. So there is
one pipeline and one set of answers, and the lane can be left out without any answer changing.

A client that keeps its connection mostly sends the same head again, byte for byte; such a head is not read again.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, NamedTuple

import httptools
import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.asked import Asked
from gateway.auth import LOOPBACK
from gateway.keys import KEYS, SERVING, TELEMETRY
from gateway.protocols import open_inference
from gateway.protocols.native import decode_json
from gateway.protocols.run import checked, is_request_id, new_request_id
from gateway.steps import BLOCK

NATIVE, OPEN = re.compile(rb"/v1/deployments/([A-Za-z0-9_.-]{1,64})/predictions"), re.compile(rb"/v2/models/([A-Za-z0-9_.-]{1,64})/infer")
JSON, BYTES = b"application/json", b"application/octet-stream"
JSON_BYTES = open_inference.HEADER.lower().encode()
PLAIN = frozenset({b"host", b"user-agent", b"accept", b"accept-encoding", b"content-type", b"content-length", b"connection", b"authorization", b"x-request-id", b"x-consumer", JSON_BYTES})
MOST_BYTES = 1 << 20
HEAD_SECONDS = 20.0  # for a connection to say what it wants
PATIENCE = 2.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nX-Request-ID: %b\r\nContent-Length: %d\r\n\r\n"
BINARY_HEAD = HEAD[:-2] + open_inference.HEADER.encode() + b": %d\r\n\r\n"


class Parsed:
    """One request as httptools reports it."""

    __slots__ = ("begun", "body", "complete", "headers", "parser", "url")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.parser = httptools.HttpRequestParser(self)
        self.clear()

    def clear(self) -> None:
        """Make ready for the next request."""
        self.url = self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.begun = self.complete = 0

    @property
    def whole(self) -> bool:
        """Whether what was fed is one request and not a byte more."""
        return self.begun == self.complete == 1

    def on_message_begin(self) -> None:
        """Called by httptools."""
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        """Called by httptools."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by httptools."""
        name = name.lower()
        self.headers[b"twice" if name in self.headers else name] = value

    def on_body(self, body: bytes) -> None:
        """Called by httptools."""
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        """Called by httptools."""
        self.complete += 1


class Head(NamedTuple):
    """The head of a request that the lane has answered: its bytes, how long its body was, its headers and its deployment."""

    raw: bytes
    body: int
    headers: dict[bytes, bytes]
    name: str
    opened: bool  # whether it speaks Open Inference V2


class Connection(RequestHandler):
    """aiohttp's connection, with the lane before it."""

    def __init__(self, app: web.Application, server: web.Server, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        """Serve `app`, whose aiohttp server is `server`."""
        super().__init__(server, loop=loop, **options)
        self._serving, self._telemetry, self._keys = app[SERVING], app[TELEMETRY], app[KEYS]  # found once a connection, not once a request
        self._parsed = Parsed()
        self._held = b""
        self._last: Head | None = None
        self._name, self._opened = "", False
        self._plain = True
        self._local = False
        self._timer: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notice whether the peer is this machine."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._local = bool(peer) and str(peer[0]).startswith(LOOPBACK)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what was held."""
        self._stop_waiting()
        if self._slow is not None:
            self._slow.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer a plain prediction request; hand everything else to aiohttp."""
        if not self._plain or self._paused or not self._idle:
            self._hand_over(data)
            return
        begun = time.perf_counter_ns()
        last = self._last
        if last is not None and len(data) == len(last.raw) + last.body and data.startswith(last.raw) and not self._held:
            answer = self._predict(last.name, last.headers, data[len(last.raw) :], begun, opened=last.opened)
            if answer is not None:
                self._send(answer)
                return
        parsed = self._parsed
        try:
            parsed.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hand_over(data)
            return
        if not parsed.complete and len(self._held) + len(data) < MOST_BYTES and self._may_be_plain():
            self._held += data
            self._timer = self._timer or self._loop.call_later(PATIENCE, self._hand_over, b"")
            return
        answer = self._answer(parsed, begun) if parsed.whole else None
        if answer is None:
            self._hand_over(data)
            return
        self._send(answer)
        body = len(parsed.body)
        self._last = None if self._held else Head(data[:-body], body, parsed.headers, self._name, self._opened)  # what came in pieces is read again
        self._held = b""
        self._stop_waiting()
        parsed.clear()

    def _send(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    @property
    def _idle(self) -> bool:
        """Whether aiohttp waits for a request, and so nothing of this connection is under way."""
        if self._force_close or self._close:
            return False
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    def _may_be_plain(self) -> bool:
        """Whether a request that is not whole yet can become one for this lane."""
        return not self._parsed.url or (NATIVE.fullmatch(self._parsed.url) or OPEN.fullmatch(self._parsed.url)) is not None

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hand_over(self, data: bytes) -> None:
        """Give aiohttp the bytes; where they end within a request, the connection stays with it."""
        self._stop_waiting()
        data, self._held = self._held + data, b""
        if self._plain:
            self._plain = self._parsed.whole
            self._parsed.clear()
        super().data_received(data)
        if not self._plain and self._slow is None and self._current_request is None and not self._messages:
            self._slow = self._loop.call_later(HEAD_SECONDS, self._too_slow, self._request_count)

    def _too_slow(self, known: int) -> None:
        """Close a connection that began to ask and did not go on: bodies have deadlines, heads have this."""
        self._slow = None
        if self._request_count == known and self._current_request is None and self.transport is not None:
            self.transport.abort()

    def _answer(self, parsed: Parsed, begun: int) -> bytes | None:
        """The whole answer; None where this is a request for aiohttp. Nothing is recorded then."""
        headers = parsed.headers
        native = NATIVE.fullmatch(parsed.url)
        found = native or OPEN.fullmatch(parsed.url)
        if found is None or parsed.parser.get_method() != b"POST" or not PLAIN.issuperset(headers) or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        if headers.get(b"content-type", b"" if native else JSON) not in ((JSON,) if native else (JSON, BYTES)) or parsed.parser.get_http_version() != "1.1":
            return None
        self._name, self._opened = found[1].decode(), native is None
        return self._predict(self._name, headers, parsed.body, begun, opened=self._opened)

    def _predict(self, name: str, headers: dict[bytes, bytes], body: bytes, begun: int, *, opened: bool) -> bytes | None:
        """The whole answer to a plain prediction request; None where it is for aiohttp."""
        served, actor = self._serving.ready(name), self._actor(headers)
        if served is None or actor is None or served.routes:
            return None
        given = headers.get(b"x-request-id")
        request_id = new_request_id() if given is None else given.decode("latin-1")
        if given is not None and not is_request_id(request_id):
            return None
        try:
            consumer = headers.get(b"x-consumer", b"").decode() or actor
            if opened:
                length = headers.get(JSON_BYTES)
                read = open_inference.read(body, None if length is None else length.decode(), served)
                asked = Asked(read.rows, read.ids, read.times, request_id, consumer, size=len(body), columnar=True)
                plain = not read.timeout
            else:
                asked, plain = Asked(*decode_json(body), request_id, consumer, size=len(body)), True
            if not plain or len(checked(asked).rows) > BLOCK:
                return None
            answer = self._serving.predict_now(served, asked, begun, time.perf_counter_ns())
        except Exception:  # noqa: BLE001 - whatever it is, aiohttp's lane meets it again and answers it
            return None
        self._telemetry.requests[(name, 200)] += 1
        if not opened:
            said = orjson.dumps(answer)
            return HEAD % (JSON, request_id.encode(), len(said)) + said
        said, tail = open_inference.written(answer, read, served)
        if not tail:
            return HEAD % (JSON, request_id.encode(), len(said)) + said
        return BINARY_HEAD % (BYTES, request_id.encode(), len(said) + len(tail), len(said)) + said + tail

    def _actor(self, headers: dict[bytes, bytes]) -> str | None:
        """Who asks; None where aiohttp's guard has to say it."""
        store = self._keys
        if not store.hashes:
            return "local" if self._local else None
        key = headers.get(b"authorization", b"")
        return store.who(key[7:].decode("latin-1").strip()) if key.startswith(b"Bearer ") else None

