"""Serving beside the others: `make bench-serving`.

The same LightGBM (200 trees, 31 leaves, the flights' inputs) behind our gateway, with journal, log, drift and two challengers
on, and behind model servers that score a matrix and do nothing else. Every server on the first core, wrk on the second,
where our broker, log, worker and trainer are too, wrk before them; all of them run all the time and are asked in turn; medians of rounds.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import lightgbm
import matplotlib as mpl
import numpy as np
import orjson
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from benchmarks.keep import keep  # noqa: E402
from benchmarks.peers.environments import python_of  # noqa: E402
from benchmarks.run import CONSTANT, drained, pin, prepare  # noqa: E402
from gateway.demo import read_flights, thinned  # noqa: E402
from tests.support import free_port, start_system, stop  # noqa: E402

mpl.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

RESULTS = ROOT / "results"
SECONDS, ROUNDS, CONNECTIONS, INPUTS = 3, 5, 16, 15
PEERS = ("fastapi", "mlserver", "litserve", "bentoml", "mlflow")
PATHS = {"fastapi": "/predict", "mlserver": "/v2/models/flights/infer", "litserve": "/predict", "bentoml": "/predict", "mlflow": "/invocations"}
OURS, LINEAR = "champion, two challengers", "champion, one-hot and logistic"
JSON_TENSOR, BYTES_TENSOR, BYTES = "champion, V2 tensor as JSON", "champion, V2 tensor as bytes", "fastapi, float64 bytes"
ALONE = {"none": "no challengers", "single": "one challenger", "five": "five challengers"}
SHADOWS = ("linear_strong", "lightgbm", "histogram_boosting", "extra_trees", "random_forest")
OPEN_SECONDS, OPEN_SHARE = 15, 0.7
FIRST = ("chrt", "-f", "50", "taskset", "-c", "1")  # the generator goes before what else is on its core: its own waiting is no server's latency


def matrix() -> tuple[np.ndarray, np.ndarray]:
    """The flights of half a year as numbers (n, 15), texts as codes: what the others are given."""
    whole = read_flights()
    table = thinned(whole.filter(pc.is_valid(whole.column("late"))), 40_000)
    late = table.column("late").cast(pa.int8()).to_numpy()
    columns = []
    for name in ("month", "day", "sched_dep_time", "sched_arr_time", "flight", "distance", "hour", "minute", "carrier", "origin", "dest", "tailnum"):
        column = table.column(name).combine_chunks()
        coded = column.dictionary_encode().indices if pa.types.is_string(column.type) else column
        columns.append(coded.cast(pa.float64()).to_numpy(zero_copy_only=False))
    times = pc.cast(table.column("time_hour"), pa.timestamp("us"))
    columns += [function(times).cast(pa.float64()).to_numpy() for function in (pc.day_of_week, pc.day_of_year, pc.iso_week)]
    found = np.nan_to_num(np.column_stack(columns))
    assert found.shape[1] == INPUTS
    return found, late


def numbers(system, folder: Path, x: np.ndarray, late: np.ndarray) -> None:
    """The deployment that is asked the same numbers as the others; with two challengers like ours."""
    file = folder / "numbers.parquet"
    pyarrow.parquet.write_table(pa.table({**{f"f{k}": x[:, k] for k in range(INPUTS)}, "late": late}), file)
    project = system.api.create_project(file, "late")
    assert system.api.wait_for_project(project)["state"] == "completed"
    models = {m["blueprint"]: m["model_id"] for m in system.api.get(f"/v1/projects/{project}/leaderboard")["models"]}
    system.api.post("/v1/deployments", {"name": "numbers", "model_id": models["lightgbm_deep"]})
    for challenger in SHADOWS[:2]:
        system.api.post("/v1/deployments/numbers/challengers", {"model_id": models[challenger]})
    features = [i["name"] for i in system.api.get("/v2/models/numbers")["inputs"]]
    assert features == [f"f{k}" for k in range(INPUTS)], features


def tensor_of(rows: np.ndarray, *, binary: bool) -> tuple[bytes, int | None]:
    """One FP64 tensor in Open Inference V2, and how many bytes of the body are JSON."""
    item = {"name": "rows", "shape": list(rows.shape), "datatype": "FP64"}
    if not binary:
        return orjson.dumps({"inputs": [{**item, "data": rows.ravel().tolist()}]}), None
    head = orjson.dumps({"inputs": [{**item, "parameters": {"binary_data_size": rows.nbytes}}], "parameters": {"binary_data_output": True}})
    return head + rows.tobytes(), len(head)


def body_of(peer: str, rows: np.ndarray) -> bytes:
    """A request in the words of a server."""
    listed = rows.tolist()
    if peer == "mlserver":
        return orjson.dumps({"inputs": [{"name": "rows", "shape": list(rows.shape), "datatype": "FP64", "data": [v for row in listed for v in row]}]})
    return orjson.dumps({"inputs" if peer == "mlflow" else "rows": listed})


@contextlib.contextmanager
def others(folder: Path, x: np.ndarray, y: np.ndarray):
    """All the other servers, each asked until it answers; name → port."""
    lightgbm.train({"objective": "binary", "num_leaves": 31, "learning_rate": 0.05, "verbose": -1}, lightgbm.Dataset(x, label=y), 200).save_model(folder / "model.bst")
    ports, running = {}, []
    try:
        for name in PEERS:
            ports[name] = free_port()
            with (folder / f"{name}.log").open("w") as log:
                command = ["taskset", "-c", "0", str(python_of(name)), str(ROOT / "peers" / "serving.py"), name, str(ports[name]), str(folder)]
                running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        for name, port in ports.items():
            answered(f"http://127.0.0.1:{port}{PATHS[name]}", body_of(name, x[:1]))
        yield ports, x
    finally:
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                mine = psutil.Process(process.pid)
                for part in [*mine.children(recursive=True), mine]:
                    part.kill()


def answered(url: str, body: bytes) -> None:
    """Wait until a server answers a prediction."""
    end = time.monotonic() + 300  # five servers begin on one core
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=30) as answer:  # noqa: S310 - ours
                answer.read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def wrk(folder: Path, port: int, path: str, body: bytes, json_bytes: int | None = None, seconds: float = SECONDS) -> dict[str, float]:
    """One closed-loop measurement on the second core; `json_bytes` of the body are JSON, the rest binary."""
    (folder / "body").write_bytes(body)
    script = folder / "post.lua"
    kind = "application/json" if json_bytes is None else "application/octet-stream"
    more = f'wrk.headers["Inference-Header-Content-Length"] = "{json_bytes}"\n' if json_bytes else ""
    script.write_text(f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "{kind}"\n{more}wrk.body = io.open("{folder / "body"}", "rb"):read("*a")\n')
    command = [*FIRST, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), f"http://127.0.0.1:{port}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    units = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
    quantiles = {f"p{q}_ms": float(v) * units[u] for q, v, u in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)", text)}
    return {"requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), **quantiles}


def open_loop(port: int, path: str, body: bytes, rate: float) -> dict[str, float]:
    """Latencies at a rate that does not wait for answers."""
    command = [*FIRST, sys.executable, str(ROOT / "load.py"), str(port), path, str(CONNECTIONS), str(OPEN_SECONDS), str(rate)]
    return json.loads(subprocess.run(command, input=body, capture_output=True, check=True).stdout)


def main() -> None:
    """Everything; results and plot beside the others."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        system = start_system(folder / "var")
        bare = None
        try:
            models, rows = prepare(system, folder)
            data = matrix()
            numbers(system, folder, *data)
            deployments = {"two": SHADOWS[:2], "none": (), "single": SHADOWS[:1], "five": SHADOWS, "pipeline": ()}
            for name, challengers in deployments.items():
                model = "linear_strong" if name == "pipeline" else "lightgbm_deep"
                system.api.post("/v1/deployments", {"name": name, "model_id": models[model], "association_id": "flight_id"})
                for challenger in challengers:
                    system.api.post(f"/v1/deployments/{name}/challengers", {"model_id": models[challenger]})
            pin(system)
            port, constant = int(system.environment["CHAMPION_PORT"]), free_port()
            bare = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", CONSTANT, str(constant), str(ROOT.parent)])
            one = [{k: v for k, v in row.items() if k != "flight_id"} for row in rows[:100]]
            with others(folder, *data) as (ports, x):
                cases = {(name, size): (ports[name], PATHS[name], body_of(name, x[:size])) for name in PEERS for size in (1, 100)}
                cases |= {(OURS, size): (port, "/v1/deployments/two/predictions", orjson.dumps({"rows": one[:size]})) for size in (1, 100)}
                cases |= {(f"champion, {said}", 1): (port, f"/v1/deployments/{name}/predictions", orjson.dumps({"rows": one[:1]})) for name, said in ALONE.items()}
                for size in (1, 100):
                    cases |= {(name, size): (port, "/v2/models/numbers/infer", *tensor_of(x[:size], binary=binary)) for name, binary in ((JSON_TENSOR, False), (BYTES_TENSOR, True))}
                    cases[(BYTES, size)] = (ports["fastapi"], "/bytes", x[:size].tobytes(), 0)
                cases[(LINEAR, 1)] = (port, "/v1/deployments/pipeline/predictions", orjson.dumps({"rows": one[:1]}))
                cases[("bare aiohttp, a constant", 1)] = (constant, "/constant", orjson.dumps({"rows": one[:1]}))
                found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
                drains = []
                for size in (1, 100):
                    for _ in range(ROUNDS):
                        for case, (at, path, body, *more) in cases.items():
                            if case[1] == size:
                                found[case].append(wrk(folder, at, path, body, *more))
                                time.sleep(1)
                                if case[1] == 100 and case[0].startswith("champion"):  # what is still being published would slow down who is asked next
                                    drains.append(drained(system, rows))
                medians = {case: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for case, runs in found.items()}
                for (name, size), figures in medians.items():
                    print(f"{name:<32} {size:>3} rows {figures['requests_per_second']:>9,.0f}/s  p50 {figures['p50_ms']:.2f} ms  p99 {figures['p99_ms']:.2f} ms", flush=True)
                best = max((n for n in PEERS if n != "fastapi"), key=lambda n: medians[(n, 1)]["requests_per_second"])
                rate = OPEN_SHARE * min(medians[(n, 1)]["requests_per_second"] for n in (best, OURS))
                opened = {"rate": rate, **{name: open_loop(*cases[(name, 1)][:3], rate) for name in (best, "fastapi", OURS)}}
                print(json.dumps(opened, indent=1))
        finally:
            stop(system.process)
            if bare is not None:
                bare.kill()
    figures = {name: {str(size): medians[(name, size)] for size in (1, 100) if (name, size) in medians} for name, _ in medians}
    keep("servers", {"medians": figures, "open loop": opened, "drain_seconds": statistics.median(drains)})
    plot(figures)


def plot(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """Rows a second by server, one panel a request size."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4))
    for axis, size in zip(axes, ("1", "100"), strict=True):
        shown = {name: f[size]["requests_per_second"] for name, f in figures.items() if size in f}
        ordered = sorted(shown, key=shown.__getitem__)
        axis.barh(ordered, [shown[n] for n in ordered], color=["#0b6e4f" if n.startswith("champion") else "#999" if "constant" in n else "#3066be" for n in ordered])
        axis.set_title(f"requests a second, {size} row{'s' if size != '1' else ''} each, {CONNECTIONS} connections", fontsize=9)
    figure.tight_layout()
    figure.savefig(RESULTS / "servers.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
