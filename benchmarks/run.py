"""Runs the benchmarks and writes results and plots; see README.md beside this file."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib as mpl
import orjson
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from aiohttp import web

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from gateway.client import Refusal  # noqa: E402
from gateway.demo import KNOWN_LATER, Story, read_flights, send, thinned  # noqa: E402
from tests.support import free_port, start_system, stop  # noqa: E402

mpl.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

RESULTS = ROOT / "results"
SECONDS, ROUNDS = 4.0, 3
SUSTAINED, PROBE_EVERY = 30.0, 0.3
CONSTANT = """
import asyncio, sys, uvloop
sys.path.insert(0, sys.argv[2])
from benchmarks.run import constant
uvloop.run(constant(int(sys.argv[1])))
"""


async def constant(port: int) -> None:
    """An aiohttp application that reads a body and answers a constant."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b'{"predictions": []}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/constant", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def load(port, path, body, connections=16, seconds=SECONDS):
    """One measurement by the load generator in a process of its own, on the second core."""
    command = [sys.executable, str(ROOT / "load.py"), str(port), path, str(connections), str(seconds)]
    done = subprocess.run(["taskset", "-c", "1", *command], input=body, capture_output=True, check=True)
    return json.loads(done.stdout)


def pin(system):
    """The gateway on the first core, everything else on the second, its publisher too."""
    subprocess.run(["taskset", "-a", "-cp", "1", str(system.process.pid)], stdout=subprocess.DEVNULL, check=False)  # what it starts anew stays there
    for name, part in json.loads((system.folder / "run.json").read_text()).items():
        beside = [child.pid for child in psutil.Process(part["pid"]).children(recursive=True)]
        for pid, core in ((part["pid"], "0" if name == "gateway" else "1"), *((pid, "1") for pid in beside)):
            subprocess.run(["taskset", "-a", "-cp", core, str(pid)], stdout=subprocess.DEVNULL, check=False)


def prepare(system, folder):
    """Train on flights; deploy LightGBM with 0, 1 and 3 challengers."""
    whole = read_flights()
    file = Path(folder) / "train.parquet"
    pyarrow.parquet.write_table(thinned(whole.filter(pc.less_equal(whole.column("month"), 6)), 40_000), file)
    project = system.api.create_project(file, "late", timestamp="time_hour", association_id="flight_id")
    assert system.api.wait_for_project(project)["state"] == "completed"
    models = {m["blueprint"]: m["model_id"] for m in system.api.get(f"/v1/projects/{project}/leaderboard")["models"]}
    for name, challengers in (("alone", ()), ("one", ("linear_strong",)), ("three", ("linear_strong", "lightgbm", "histogram_boosting"))):
        system.api.post("/v1/deployments", {"name": name, "model_id": models["lightgbm_deep"], "association_id": "flight_id"})
        for challenger in challengers:
            system.api.post(f"/v1/deployments/{name}/challengers", {"model_id": models[challenger]})
    july = whole.filter(pc.equal(whole.column("month"), 7)).drop_columns(KNOWN_LATER)
    rows = july.set_column(july.column_names.index("time_hour"), "time_hour", pc.cast(july.column("time_hour"), pa.string())).to_pylist()
    return models, rows


def serving(system, rows):
    """Interleaved rounds; medians."""
    port = int(system.environment["CHAMPION_PORT"])
    other = free_port()
    bare = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", CONSTANT, str(other), str(ROOT.parent)])
    time.sleep(2)
    one = [{k: v for k, v in row.items() if k != "flight_id"} for row in rows[:100]]
    cases = {"constant answer (bare aiohttp)": (other, "/constant", 1)}
    for name in ("alone", "one", "three"):
        for size in (1, 100):
            cases[f"{ {'alone': 0, 'one': 1, 'three': 3}[name] } challengers, {size} row{'s' if size > 1 else ''}"] = (port, f"/v1/deployments/{name}/predictions", size)
    found = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (at, path, size) in cases.items():
            found[name].append(load(at, path, orjson.dumps({"rows": one[:size]})))
            time.sleep(1)
    bare.terminate()
    return {name: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for name, runs in found.items()}


def visible(system, name, position):
    """Wait until the log has a position and its drift is counted, however long the queue before it."""
    while True:
        try:
            system.api.get(f"/v1/deployments/{name}/drift", after=position)
        except Refusal as error:
            if error.status != 504:
                raise
        else:
            return


def lag(system, name, rows):
    """While single rows come as fast as they are answered: seconds from asking until a row is in the tables and the drift."""
    body = {"rows": rows[:1]}
    taken, over = [], threading.Event()

    def probe():
        while not over.wait(PROBE_EVERY):
            begun = time.perf_counter()
            visible(system, name, system.api.post(f"/v1/deployments/{name}/predictions", body)["position"])
            taken.append(time.perf_counter() - begun)

    watching = threading.Thread(target=probe)
    watching.start()
    try:
        found = load(int(system.environment["CHAMPION_PORT"]), f"/v1/deployments/{name}/predictions", orjson.dumps(body), seconds=SUSTAINED)
    finally:
        over.set()
        watching.join()
    return {"requests_per_second": found["requests_per_second"], "p50_seconds": statistics.median(taken), "worst_seconds": max(taken), "probes": len(taken)}


def drained(system, rows):
    """Seconds until the tables have all that was asked: the gateway had its core, the stream lags behind a burst."""
    begun = time.perf_counter()
    for name in ("alone", "one", "three"):
        visible(system, name, system.api.post(f"/v1/deployments/{name}/predictions", {"rows": rows[:1]})["position"])
    return time.perf_counter() - begun


def cpu(system):
    """CPU seconds of each process."""
    found = {}
    for name, part in json.loads((system.folder / "run.json").read_text()).items():
        fields = Path(f"/proc/{part['pid']}/stat").read_text().split()
        found[name] = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return found


def beat(system):
    """The worker's seconds by step."""
    return orjson.loads(system.sql("SELECT detail FROM heartbeats WHERE part = 'worker' ORDER BY at DESC LIMIT 1")[0]["detail"])["seconds"]


def stream(system, models, rows):
    """Unpinned: July in requests of 100, champion and two challengers, no actuals at the same time."""
    system.api.post("/v1/deployments", {"name": "stream", "model_id": models["lightgbm"], "association_id": "flight_id", "timestamp": "time_hour"})
    for challenger in ("linear_strong", "lightgbm_deep"):
        system.api.post("/v1/deployments/stream/challengers", {"model_id": models[challenger]})
    for part in json.loads((system.folder / "run.json").read_text()).values():
        subprocess.run(["taskset", "-a", "-cp", "0,1", str(part["pid"])], stdout=subprocess.DEVNULL, check=False)
    story = Story(system.api, None, time.monotonic(), [])
    runs = []
    for k in range(ROUNDS):
        fresh = [{**row, "flight_id": f"{k}-{row['flight_id']}"} for row in rows]
        time.sleep(2.5)
        spent, steps, begun = cpu(system), beat(system), time.perf_counter()
        position = send(story, "stream", fresh, 100, 4)
        answered = time.perf_counter() - begun
        visible(system, "stream", position)
        took = time.perf_counter() - begun
        time.sleep(2.5)
        after, done = cpu(system), beat(system)
        runs.append(
            {
                "rows": len(fresh),
                "answered_rows_per_second": len(fresh) / answered,
                "visible_rows_per_second": len(fresh) / took,
                "cpu_us_per_row": {n: (after[n] - spent[n]) / len(fresh) * 1e6 for n in after},
                "worker_us_per_row": {n: (s - steps.get(n, 0.0)) / len(fresh) * 1e6 for n, s in done.items()},
            }
        )
    return sorted(runs, key=lambda r: r["visible_rows_per_second"])[len(runs) // 2]


def plots(served, streamed):
    """Bars, as SVG."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6))
    singles = {n: r["requests_per_second"] for n, r in served.items() if "100" not in n}
    axes[0].barh(list(singles), list(singles.values()), color="#0b6e4f")
    axes[0].set_title("requests a second, one row, 16 connections")
    wide = {n: r["requests_per_second"] * 100 for n, r in served.items() if "100" in n}
    axes[1].barh(list(wide), list(wide.values()), color="#3066be")
    axes[1].set_title("rows a second, requests of 100 rows")
    for axis in axes:
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(RESULTS / "serving.svg", metadata={"Date": None})
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.2))
    axes[0].barh(list(streamed["cpu_us_per_row"]), list(streamed["cpu_us_per_row"].values()), color="#0b6e4f")
    axes[0].set_title("CPU microseconds a row, by process")
    axes[1].barh(list(streamed["worker_us_per_row"]), list(streamed["worker_us_per_row"].values()), color="#3066be")
    axes[1].set_title("worker microseconds a row, by step")
    figure.tight_layout()
    figure.savefig(RESULTS / "stream.svg", metadata={"Date": None})


def main():
    """Everything."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    with tempfile.TemporaryDirectory() as folder:
        system = start_system(Path(folder) / "var")
        try:
            models, rows = prepare(system, folder)
            pin(system)
            served = serving(system, rows)
            for name, figures in served.items():
                print(f"{name:<36} {figures['requests_per_second']:>9,.0f}/s  p50 {figures['p50_ms']:.2f} ms  p99 {figures['p99_ms']:.2f} ms")
            drain = drained(system, rows)
            print(f"the stream has drained after {drain:.1f} s")
            lags = {name: lag(system, name, rows) for name in ("alone", "one")}
            for name, figures in lags.items():
                print(f"single rows, {name}: {figures['requests_per_second']:,.0f}/s for {SUSTAINED:.0f} s, in the tables after {figures['p50_seconds']:.2f} s, at worst {figures['worst_seconds']:.2f} s")
            streamed = stream(system, models, rows)
            print(f"stream: answered {streamed['answered_rows_per_second']:,.0f} rows/s, visible {streamed['visible_rows_per_second']:,.0f} rows/s")
        finally:
            stop(system.process)
    (RESULTS / "serving.json").write_text(json.dumps({"machine": machine, "medians": served, "drain_seconds": drain, "lag": lags}, indent=1))
    (RESULTS / "stream.json").write_text(json.dumps({"machine": machine, "median_run": streamed}, indent=1))
    plots(served, streamed)


if __name__ == "__main__":
    main()
