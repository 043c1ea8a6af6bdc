"""A load generator: keep-alive connections that each send the same request as soon as the last is answered."""

from __future__ import annotations

import asyncio
import sys
import time

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
        self.begun = time.perf_counter()
        if self.begun >= self.stop:
            self.transport.close()
            self.done.set()
        else:
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


async def main(port: int, path: str, body: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Run; answers requests a second and latency quantiles in milliseconds."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    took: list[float] = []
    begun = time.perf_counter()
    made = []
    for _ in range(connections):
        done = asyncio.Event()
        _, protocol = await asyncio.get_running_loop().create_connection(lambda d=done: Connection(head.encode() + body, took, begun + seconds, d), "127.0.0.1", port)
        made.append((protocol, done))
    for _, done in made:
        await done.wait()
    took.sort()
    return {
        "requests_per_second": len(took) / (time.perf_counter() - begun),
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[int(len(took) * 0.99)] * 1000,
        "not_200": sum(p.bad for p, _ in made),
    }


if __name__ == "__main__":
    port, path, connections, seconds = sys.argv[1:5]
    print(orjson.dumps(uvloop.run(main(int(port), path, sys.stdin.buffer.read(), int(connections), float(seconds)))).decode())
