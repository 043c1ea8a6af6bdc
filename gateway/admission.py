"""What a gateway process takes on: so many bytes of requests at a time, and each for so long.

A prediction request that comes while too much is under way is refused before its body is read; one whose time is
over is given up between its steps, and nothing of it is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from aiohttp import web

from gateway.errors import ApiError

HEADER = "X-Request-Timeout-Ms"
UNSAID = 1 << 20  # what a body without a length is taken for
RETRY = 1


class Admission:
    """The bytes under way, and the time that a request may take."""

    def __init__(self, most_bytes: int, most_ms: int) -> None:
        """Bound both; 0 milliseconds are no bound."""
        self._most_bytes, self._most_ms = most_bytes, most_ms
        self.under_way = 0
        self.refused = 0

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Hold so many bytes while a request is answered; 429 where others hold too many."""
        if self.under_way and self.under_way + size > self._most_bytes:
            self.refused += 1
            raise ApiError(429, "too_much_under_way", f"{self.under_way:,} bytes of requests are under way, {self._most_bytes:,} at most: ask again", retry_after=RETRY)
        self.under_way += size
        try:
            yield
        finally:
            self.under_way -= size

    def deadline(self, request: web.Request, begun: int) -> int:
        """When a request that began at a clock reading must be answered, by its header and by our bound (ns; 0: whenever)."""
        text = request.headers.get(HEADER, "")
        if text and not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 40):
            raise ApiError(422, "wrong_option", f"{HEADER} is a number of milliseconds from 1 up, not {text!r}")
        limits = [ms for ms in (int(text or 0), self._most_ms) if ms]
        return begun + min(limits) * 1_000_000 if limits else 0


def too_late() -> ApiError:
    """What is said where the time is over."""
    return ApiError(504, "deadline_exceeded", "the time for this request is over; nothing of it was recorded")


def within(deadline: int) -> None:
    """504 where the time is over."""
    if deadline and time.perf_counter_ns() > deadline:
        raise too_late()


async def body_of(request: web.Request, deadline: int) -> bytes:
    """A request's whole body; 504 where it does not come in time."""
    left = (deadline - time.perf_counter_ns()) / 1e9 if deadline else None
    try:
        return await asyncio.wait_for(request.read(), left)
    except TimeoutError as error:  # the loop's clock may be a little ahead of ours
        raise too_late() from error


def size_of(request: web.Request) -> int:
    """The bytes that a request announces."""
    return UNSAID if request.content_length is None else request.content_length
