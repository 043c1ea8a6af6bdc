"""A load generator: keep-alive connections that each send the same request.

Closed loop: as soon as the last is answered. Open loop (a rate is given): at that rate, whatever is answered; a request
that no connection is free for waits, and its waiting counts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from typing import ClassVar

import orjson
import uvloop


class Connection(asyncio.Protocol):
    """One connection; counts answers and notes how long each took."""

    def __init__(self, request: bytes, took: list[float], stop: float, done: asyncio.Event) -> None:
        """Begin when connected."""
        self.request, self.took, self.stop, self.done = request, took, stop, done
        self.buffer, self.wanted, self.bad = b"", 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send, unless the time is over."""
        begun = time.perf_counter()
        if begun >= self.stop:
            self.transport.close()
            self.done.set()
        else:
            self.ask(begun)

    def ask(self, begun: float) -> None:
        """Send a request that came at a time."""
        self.begun = begun
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        self.buffer += data
        if not self.wanted:
            head = self.buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = self.buffer.lower().index(b"content-length:") + 15
            self.wanted = head + 4 + int(self.buffer[length : self.buffer.index(b"\r\n", length)])
            self.bad += not self.buffer.startswith(b"HTTP/1.1 200")
        if len(self.buffer) >= self.wanted:
            self.took.append(time.perf_counter() - self.begun)
            self.buffer, self.wanted = b"", 0
            self.send()


class OpenConnection(Connection):
    """One of those that share the requests of an open loop."""

    free: ClassVar[deque[OpenConnection]] = deque()
    waiting: ClassVar[deque[float]] = deque()

    def send(self) -> None:
        """Take the request that has waited longest, or wait for one."""
        if self.waiting:
            self.ask(self.waiting.popleft())
        else:
            self.free.append(self)


async def open_loop(port: int, path: str, body: bytes, connections: int, seconds: float, rate: float) -> dict[str, float]:
    """Run at a rate of requests a second; latencies begin when a request is due."""
    took: list[float] = []
    request, done = request_of(path, body), asyncio.Event()
    made = []
    for _ in range(connections):
        _, protocol = await asyncio.get_running_loop().create_connection(lambda: OpenConnection(request, took, 0.0, done), "127.0.0.1", port)
        made.append(protocol)
    begun, asked = time.perf_counter(), 0
    while (now := time.perf_counter()) < begun + seconds:
        for _ in range(int((now - begun) * rate) - asked):
            asked += 1
            if OpenConnection.free:
                OpenConnection.free.popleft().ask(now)
            else:
                OpenConnection.waiting.append(now)
        await asyncio.sleep(0.0005)
    while len(took) < asked and time.perf_counter() < begun + 2 * seconds:  # noqa: ASYNC110 - bounded
        await asyncio.sleep(0.01)
    return {**quantiles(took), "requests_per_second": asked / seconds, "not_answered": asked - len(took), "not_200": sum(p.bad for p in made)}


def request_of(path: str, body: bytes) -> bytes:
    """The bytes of one request."""
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def quantiles(took: list[float]) -> dict[str, float]:
    """Of latencies, in milliseconds."""
    took.sort()
    return {"p50_ms": took[len(took) // 2] * 1000, "p99_ms": took[int(len(took) * 0.99)] * 1000}


async def main(port: int, path: str, body: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Run; answers requests a second and latency quantiles in milliseconds."""
    request = request_of(path, body)
    took: list[float] = []
    begun = time.perf_counter()
    made = []
    for _ in range(connections):
        done = asyncio.Event()
        _, protocol = await asyncio.get_running_loop().create_connection(lambda d=done: Connection(request, took, begun + seconds, d), "127.0.0.1", port)
        made.append((protocol, done))
    for _, done in made:
        await done.wait()
    return {"requests_per_second": len(took) / (time.perf_counter() - begun), **quantiles(took), "not_200": sum(p.bad for p, _ in made)}


if __name__ == "__main__":
    port, path, connections, seconds, *rate = sys.argv[1:]
    asked = (int(port), path, sys.stdin.buffer.read(), int(connections), float(seconds))
    print(orjson.dumps(uvloop.run(open_loop(*asked, float(rate[0])) if rate else main(*asked))).decode())
