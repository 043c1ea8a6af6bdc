"""Ten million requests while parts are killed: `make soak` (half an hour; `ARGS=1000000` for a shorter one).

One row a request, each with an id of its own, at a rate that the stream can follow for ever; each answer is compared with what
this row is answered alone. Worker, event log, publisher and broker are killed in turn, the gateway too in the last tenth. At
the end the log must hold each answered request once, with the value that was answered; memory is looked at all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import psutil
import uvloop

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from benchmarks.keep import keep  # noqa: E402
from tests.support import deploy_small, start_system, stop  # noqa: E402

RATE, CONNECTIONS, ROWS = 8000.0, 16, 1000
WARM = 0.03  # share of the requests after which the gateway's memory is the measure
KILL_EVERY = 45.0
KILLED = ("worker", "publisher", "eventlog", "broker")
ALL = 0.9  # from here on the gateway is killed too
MOST_WAITING = 512 << 20  # bytes of the journal: the requests wait for the stream past it
LATE = 1.0  # seconds
BROKER = "128MiB"  # little, so that it is renewed every other minute


@dataclass
class Asked:
    """The requests of a soak: which row is next, what was answered to each, and what was wrong."""

    total: int
    bodies: list[bytes]
    expected: list[bytes]
    next: int = 0
    answered: int = 0
    again: int = 0  # sent again because a connection broke before the answer
    wrong: list[str] = field(default_factory=list)
    unrecorded: int = 0
    took: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    allowed: float = 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection; takes the next request when there is one to take."""

    def __init__(self, asked: Asked, idle: list[Connection]) -> None:
        """Begin idle."""
        self.asked, self.idle = asked, idle
        self.number, self.tries, self.begun, self.buffer = -1, 0, 0.0, b""
        self.open = False

    def connection_made(self, transport) -> None:
        """Send what was under way on a connection before this, or wait."""
        self.transport, self.open = transport, True
        if self.number >= 0:
            self.tries += 1
            self.asked.again += 1
            self.send()
        else:
            self.idle.append(self)

    def take(self, number: int) -> None:
        """Send a request for the first time."""
        self.number, self.tries, self.begun = number, 0, time.perf_counter()
        self.send()

    def send(self) -> None:
        """Write the request; its id names its number and the try."""
        body = self.asked.bodies[self.number % ROWS] % self.number
        self.buffer = b""
        self.transport.write(b"POST /v1/deployments/soak/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Request-ID: s-%d-%d\r\nContent-Length: %d\r\n\r\n%b" % (self.number, self.tries, len(body), body))

    def data_received(self, data: bytes) -> None:
        """Compare a whole answer with what it must be."""
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.lower().index(b"content-length:") + 15
        if len(self.buffer) < head + 4 + int(self.buffer[at : self.buffer.index(b"\r\n", at)]):
            return
        asked, answer = self.asked, self.buffer
        if answer.startswith(b"HTTP/1.1 503") and self.number >= ALL * asked.total:
            asyncio.get_running_loop().call_later(0.05, self.once_more)  # a gateway that has just begun
            return
        if asked.expected[self.number % ROWS] not in answer or b'"s-%d-%d"' % (self.number, self.tries) not in answer:
            asked.wrong.append(answer[:500].decode(errors="replace"))
        asked.unrecorded += b'"recorded":true' not in answer
        asked.took[self.number] = time.perf_counter() - self.begun
        asked.answered += 1
        self.number = -1
        self.idle.append(self)

    def once_more(self) -> None:
        """Ask again under another id."""
        self.tries += 1
        self.asked.again += 1
        if self.open:
            self.send()

    def connection_lost(self, _) -> None:
        """The gateway is gone: connect again until one answers."""
        self.open = False
        with contextlib.suppress(ValueError):
            self.idle.remove(self)


async def connected(connection: Connection, port: int) -> None:
    """Keep a connection open, for ever."""
    while True:
        if not connection.open:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port)
        await asyncio.sleep(0.05)


def held(journal: Path) -> int:
    """Bytes of the journals."""
    found = 0
    for path in journal.glob("*/*.seg"):
        with contextlib.suppress(FileNotFoundError):  # trimmed meanwhile
            found += path.stat().st_size
    return found


async def ask(asked: Asked, port: int, journal: Path) -> None:
    """All requests, at the rate, while the journal is within its bound."""
    idle: list[Connection] = []
    keepers = [asyncio.create_task(connected(Connection(asked, idle), port)) for _ in range(CONNECTIONS)]
    last, looked = time.perf_counter(), 0.0
    waiting = 0
    while asked.answered < asked.total:
        now = time.perf_counter()
        if now - looked > 1.0:
            looked, waiting = now, await asyncio.to_thread(held, journal)
        if waiting < MOST_WAITING:
            asked.allowed = min(asked.allowed + (now - last) * RATE, RATE / 10)
        last = now
        while asked.allowed >= 1 and idle and asked.next < asked.total:
            asked.allowed -= 1
            idle.pop().take(asked.next)
            asked.next += 1
        await asyncio.sleep(0.0005)
    for keeper in keepers:
        keeper.cancel()


def resident(system) -> dict[str, float]:
    """MiB of each part."""
    found = {}
    for name, part in json.loads((system.folder / "run.json").read_text()).items():
        with contextlib.suppress(psutil.NoSuchProcess, TypeError):
            process = psutil.Process(part["pid"])
            found[name] = process.memory_info().rss / 2**20
            if name == "gateway":
                found["publisher"] = sum(child.memory_info().rss for child in process.children()) / 2**20
    return found


async def watch(system, asked: Asked, seen: list[dict]) -> None:
    """Memory every five seconds, a line a minute."""
    for k in itertools.count():
        now = {"answered": asked.answered, **await asyncio.to_thread(resident, system)}
        seen.append(now)
        if k % 12 == 0:
            print(json.dumps({key: round(value) for key, value in now.items()}), flush=True)
        await asyncio.sleep(5)


async def strike(system, asked: Asked, told: list[str]) -> None:
    """A part every so often, the gateway in the last tenth."""
    for name in itertools.cycle(KILLED):
        await asyncio.sleep(KILL_EVERY)
        parts = [name, *(["gateway"] if asked.answered > ALL * asked.total else [])]
        for part in parts:
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess, TypeError):
                run = json.loads((system.folder / "run.json").read_text())
                pid = next(c.pid for c in psutil.Process(run["gateway"]["pid"]).children()) if part == "publisher" else run[part]["pid"]
                os.kill(pid, signal.SIGKILL)
                told.append(f"{part} after {asked.answered}")


async def soak(system, asked: Asked) -> tuple[list[dict], list[str]]:
    """Ask, watch and strike; the memory seen and what was killed."""
    seen: list[dict] = []
    told: list[str] = []
    beside = [asyncio.create_task(watch(system, asked, seen)), asyncio.create_task(strike(system, asked, told))]
    await ask(asked, int(system.environment["CHAMPION_PORT"]), system.folder / "journal")
    for task in beside:
        task.cancel()
        if task.done() and not task.cancelled():
            task.result()
    return seen, told


def in_log(system, values: list[float]) -> dict[str, int]:
    """What the log holds of the soak: rows, numbers of which one is missing, rows more than asked, values that are not the answered ones."""
    sql = (
        "SELECT count() AS rows, uniqExact(association_id) AS numbers, uniqExact(event_id) AS events,"
        f" countIf(predicted_value != arrayElement({json.dumps(values)}, toUInt32(association_id) % {ROWS} + 1)) AS wrong"
        " FROM predictions WHERE deployment = 'soak' AND role = 'champion' AND request_id LIKE 's-%'"
    )
    return {key: int(value) for key, value in system.sql(sql)[0].items()}


def main(total: int) -> None:
    """Everything; the result beside the others."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        system = start_system(folder / "var", CHAMPION_BROKER_MEMORY=BROKER)
        try:
            deploy_small(system, folder, names=("soak",), shadows=("lightgbm", "extra_trees"))
            rng = np.random.default_rng(0)
            rows = [{"x": float(x), "z": float(z)} for x, z in rng.normal(size=(ROWS, 2))]
            answers = system.api.post("/v1/deployments/soak/predictions", {"rows": rows})["predictions"]
            values = [answer["probabilities"]["1"] for answer in answers]
            bodies = [b'{"rows":[' + json.dumps(row).encode().replace(b"%", b"%%") + b'],"association_ids":["%d"]}' for row in rows]
            asked = Asked(total, bodies, [b'"1":' + orjson.dumps(v) for v in values], took=np.zeros(total, dtype=np.float32))
            seen, told = uvloop.run(soak(system, asked))
            answered = time.monotonic() - begun
            end = time.monotonic() + 300
            while (found := in_log(system, values))["numbers"] < total and time.monotonic() < end:
                time.sleep(2)
            restarts = {name: (part["restarts"], part["reason"]) for name, part in json.loads((system.folder / "run.json").read_text()).items()}
        finally:
            stop(system.process)
    steady = [s["gateway"] for s in seen if "gateway" in s and WARM * total < s["answered"] < ALL * total]
    calm = asked.took[: int(ALL * total)]
    result = {
        "requests": total,
        "seconds": round(answered),
        "wrong_answers": len(asked.wrong),
        "not_recorded": asked.unrecorded,
        "sent_again": asked.again,
        "log": found,
        "killed": {part: sum(line.startswith(part + " ") for line in told) for part in (*KILLED, "gateway")},
        "restarts": restarts,
        "gateway_mib": {"after the first 3 %": round(steady[0], 1), "at 90 %": round(steady[-1], 1), "most": round(max(steady), 1)},
        "gateway_growth": round(steady[-1] / steady[0] - 1, 4),
        "most_mib": {part: round(max(s.get(part, 0) for s in seen)) for part in ("broker", "worker", "eventlog", "publisher", "trainer")},
        "latency_ms": {q: round(float(np.quantile(calm, float(q))) * 1000, 2) for q in ("0.5", "0.99", "0.999", "0.9999")} | {"most": round(float(calm.max()) * 1000, 1)},
        "later_than_a_second": int((calm > LATE).sum()),
    }
    keep("soak", result)
    print(json.dumps(result, indent=1))
    for text in asked.wrong[:5]:
        print(text)
    extra = found["rows"] - total  # a request may be in the log although the gateway died before its answer was out
    assert not asked.wrong
    assert (asked.unrecorded, found["wrong"]) == (0, 0)
    assert (found["numbers"], found["events"]) == (total, found["rows"])
    assert 0 <= extra <= asked.again


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
