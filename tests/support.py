"""Starting and stopping real parts, on ports of their own."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from gateway.client import Client, Refusal
from models.table import checked, flat, plain_text
from stream.clickhouse import EventLog

KEY = "test-writer"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(code, *arguments, **environment):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, **environment}, cwd=Path(__file__).parent.parent, start_new_session=True)


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


FRONT = """
import asyncio, sys
from pathlib import Path
from stream.embedded.eventlog import serve
asyncio.run(serve(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[2]), sys.argv[3]))
"""


@dataclass
class Front:
    url: str
    port: int
    writer: EventLog
    reader: EventLog


@dataclass
class System:
    """A running `champion up`."""

    process: subprocess.Popen
    folder: Path
    environment: dict
    api: Client

    def sql(self, query):
        return self.api.sql(query)

    def settle(self, deployment, rows, seconds=60):
        """Wait until so many outcomes are joined."""
        end = time.monotonic() + seconds
        found = -1
        while found != rows and time.monotonic() < end:
            found = self.sql(f"SELECT count() AS n FROM outcomes WHERE deployment = '{deployment}'")[0]["n"]
            time.sleep(0.1)
        return found


def start_system(folder, **more):
    ports = {"CHAMPION_PORT": free_port(), "CHAMPION_BROKER_PORT": free_port(), "CHAMPION_EVENTLOG_PORT": free_port()}
    environment = {**{k: str(v) for k, v in ports.items()}, "CHAMPION_DATA_DIR": str(folder), **more}
    return launch(folder, environment)


def launch(folder, environment):
    process = subprocess.Popen([sys.executable, "-m", "gateway", "up"], env={**os.environ, **environment}, cwd=Path(__file__).parent.parent, start_new_session=True, stdout=subprocess.DEVNULL)
    api = Client(f"http://127.0.0.1:{environment['CHAMPION_PORT']}", timeout=60)
    end = time.monotonic() + 60
    while True:
        try:
            if api.get("/health/ready")["ready"]:
                return System(process, folder, environment, api)
        except Refusal:
            pass
        if time.monotonic() > end or process.poll() is not None:
            stop(process)
            logs = "".join(p.read_text()[-1500:] for p in (folder / "logs").glob("*.log"))
            raise AssertionError(f"the system did not start: {logs}")
        time.sleep(0.1)


def deploy_small(system, folder, names=("d",), shadows=("lightgbm",)):
    """Train on 400 made-up rows; deploy the linear model with others in the shadow."""
    rng = random.Random(0)
    rows = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(400)]
    file = folder / "train.csv"
    file.write_text("\n".join(["x,z,y", *(f"{x:.4f},{z:.4f},{int(x + rng.gauss(0, 0.5) > 0)}" for x, z in rows)]))
    project = system.api.create_project(file, "y")
    assert system.api.wait_for_project(project)["state"] == "completed"
    models = {m["blueprint"]: m["model_id"] for m in system.api.get(f"/v1/projects/{project}/leaderboard")["models"]}
    for name in names:
        system.api.post("/v1/deployments", {"name": name, "model_id": models["linear"]})
        for shadow in shadows:
            system.api.post(f"/v1/deployments/{name}/challengers", {"model_id": models[shadow]})


def from_rows(rows):
    """A table from row dicts; a column with mixed types becomes text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([plain_text(v) for v in values], pa.string())
    return checked(flat(pa.table(columns)))
