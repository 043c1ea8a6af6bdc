"""Drift: false alarms, power and speed, beside what others do on the same numbers: `make bench-monitoring`.

false alarms: the flights of six months in random order, fifteen inputs; bins frozen on one half, windows from the other.
power: one of the fifteen inputs moved by a share of its standard deviation; how often it is called drifted.
speed: rows a second of fifteen numeric inputs, in blocks of 500 as the worker has them.
Evidently, NannyML and whylogs run in environments of their own (peers/monitoring.py) on the same arrays.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))
from benchmarks.keep import keep  # noqa: E402
from benchmarks.peers.environments import python_of  # noqa: E402
from gateway.demo import read_flights  # noqa: E402
from models import drift  # noqa: E402
from models.baseline import Baseline, freeze  # noqa: E402
from models.schema import Feature, Schema, Target  # noqa: E402
from stream.monitoring import variables  # noqa: E402

mpl.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

FEATURES, HALF, WINDOWS = 15, 50_000, 1000
SIZES = (100, 1000, 10_000)
SHIFTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
TRIALS, PEER_TRIALS = 200, 20
FIXED = 0.15
SPEED_ROWS, BLOCK = 300_000, 500
PEERS = {"evidently": "evidently", "nannyml": "nannyml", "whylogs": "whylogs"}
NAMES = [f"f{k}" for k in range(FEATURES)]
SCHEMA = Schema(Target("y", "binary", ("0", "1"), "1"), tuple(Feature(n, "numeric") for n in NAMES))


def flights() -> tuple[Schema, np.ndarray]:
    """The flights' inputs as base values (n, 15): numbers, and categories as codes of their commonest levels; in random order."""
    table = read_flights()
    table = table.filter(pc.less_equal(table.column("month"), 6))
    numbers = ["day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay", "flight", "air_time", "distance", "hour", "minute"]
    features, columns = [], []
    for name in [*numbers, "carrier", "origin", "dest"]:
        column = table.column(name)
        if pa.types.is_string(column.type):
            coded = column.combine_chunks().dictionary_encode()
            levels = tuple(map(str, coded.dictionary.to_pylist()))
            features.append(Feature(name, "categorical", levels))
            columns.append(coded.indices.cast(pa.float64()).to_numpy(zero_copy_only=False))
        else:
            features.append(Feature(name, "numeric"))
            columns.append(column.cast(pa.float64()).to_numpy())
    base = np.column_stack(columns)
    assert base.shape[1] == FEATURES
    return Schema(SCHEMA.target, tuple(features)), np.random.default_rng(20261125).permutation(base)


def alarms(baseline: Baseline, rows: np.ndarray) -> list[str]:
    """The inputs that are not passing in a window."""
    counts = baseline.counts(rows, np.full(len(rows), 0.5), np.zeros(len(rows), dtype=np.int64), 1)[0]
    return [v["name"] for v in variables(baseline, counts, {})[:-1] if v["status"] in {"warning", "failing"}]


def false_alarms() -> dict[str, dict[str, float]]:
    """Shares of windows in which any input alarms although nothing has moved."""
    schema, base = flights()
    frozen, other = base[: len(base) // 2], base[len(base) // 2 :]
    baseline = freeze(schema, frozen, np.full(len(frozen), 0.5))
    rng, found = np.random.default_rng(1), {}
    for n in SIZES:
        drawn = sum(bool(alarms(baseline, other[rng.choice(len(other), n, replace=False)])) for _ in range(WINDOWS))
        runs = [other[at : at + n] for at in range(0, len(other) - n + 1, n)][:WINDOWS]
        found[str(n)] = {"any_input": drawn / WINDOWS, "consecutive": sum(bool(alarms(baseline, rows)) for rows in runs) / len(runs), "consecutive_windows": len(runs)}
    return found


def power() -> dict[str, dict[str, list[float]]]:
    """How often the moved input is called drifted, by window size, for each shift."""
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(HALF, FEATURES))
    baseline = freeze(SCHEMA, reference, np.full(HALF, 0.5))
    bins = baseline.features[0]
    found: dict[str, dict[str, list[float]]] = {"champion": {}, f"PSI {FIXED}": {}}
    for n in SIZES:
        ours, fixed = [], []
        for shift in SHIFTS:
            hits = [0, 0]
            for _ in range(TRIALS):
                rows = rng.normal(size=(n, FEATURES))
                rows[:, 0] += shift
                hits[0] += NAMES[0] in alarms(baseline, rows)
                counts = np.bincount(bins.place(rows[:, 0]), minlength=bins.size)
                hits[1] += drift.psi(bins.merged(bins.reference), bins.merged(counts)) >= FIXED
            ours.append(hits[0] / TRIALS)
            fixed.append(hits[1] / TRIALS)
        found["champion"][str(n)], found[f"PSI {FIXED}"][str(n)] = ours, fixed
    return found


def speed() -> float:
    """Rows a second of the drift fold's counting, blocks of 500 decoded rows."""
    rng = np.random.default_rng(3)
    reference, rows = rng.normal(size=(HALF, FEATURES)), rng.normal(size=(SPEED_ROWS, FEATURES))
    baseline = freeze(SCHEMA, reference, np.full(HALF, 0.5))
    scores, groups = np.full(BLOCK, 0.5), np.zeros(BLOCK, dtype=np.int64)
    rates = []
    for _ in range(5):
        begun, total = time.perf_counter(), np.zeros((1, baseline.size), dtype=np.int64)
        for at in range(0, SPEED_ROWS, BLOCK):
            total += baseline.counts(rows[at : at + BLOCK], scores, groups, 1)
        rates.append(SPEED_ROWS / (time.perf_counter() - begun))
        assert total.sum() == SPEED_ROWS * (FEATURES + 1)
    return statistics.median(rates)


def peer(name: str, folder: Path) -> dict[str, object]:
    """What a peer says in its own environment, made where it is missing."""
    done = subprocess.run([str(python_of(name)), str(ROOT / "peers" / "monitoring.py"), name, str(folder), json.dumps({"sizes": SIZES[:2], "shifts": SHIFTS, "trials": PEER_TRIALS})], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def plot(found: dict[str, dict[str, list[float]]]) -> None:
    """Power by shift, a panel a window size."""
    figure, axes = plt.subplots(1, len(SIZES), figsize=(11, 3.2), sharey=True)
    for axis, n in zip(axes, SIZES, strict=True):
        for name, curves in found.items():
            if str(n) in curves:
                axis.plot(SHIFTS, curves[str(n)], marker="o", markersize=3, label=name)
        axis.axhline(0.05, color="#999", linewidth=0.7, linestyle=":")
        axis.set_title(f"windows of {n:,} rows", fontsize=9)
        axis.set_xlabel("shift, standard deviations")
    axes[0].set_ylabel("called drifted")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(ROOT / "results" / "monitoring.svg")


def main() -> None:
    """Everything; results beside the others."""
    found: dict[str, object] = {"false_alarms": false_alarms()}
    print(json.dumps(found, indent=1), flush=True)
    curves = power()
    rates: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(3)
        for name, rows in (("reference", HALF), ("current", 20_000)):
            np.save(Path(folder) / f"{name}.npy", rng.normal(size=(rows, FEATURES)))
        rates["champion"] = speed()
        for name in PEERS:
            answer = peer(name, Path(folder))
            rates[name] = {k: v for k, v in answer.items() if k != "power"}
            if isinstance(answer.get("power"), dict):
                curves[f"{name}, defaults"] = answer["power"]  # type: ignore[assignment]
    found |= {"shifts": SHIFTS, "power": curves, "rows_per_second": rates}
    plot(curves)
    print(json.dumps(found, indent=1))
    keep("monitoring", found)


if __name__ == "__main__":
    main()
