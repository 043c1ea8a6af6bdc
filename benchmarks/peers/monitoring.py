"""One peer's drift on the benchmark's arrays, in its own environment; the last line printed is its answer as JSON."""

import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
ROUNDS = 3


def rates(run, rows):
    """Rows a second, the median of some rounds."""
    took = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return rows / statistics.median(took)


def evidently(reference, current, asked):
    """Its data drift preset, and how often it calls the first column drifted by its own defaults."""
    import evidently as package
    from evidently import Report
    from evidently.presets import DataDriftPreset

    def report(now):
        return Report([DataDriftPreset()]).run(now, reference)

    speed = rates(lambda: report(current).dict(), len(current))
    rng, first, power = np.random.default_rng(4), reference.columns[0], {}
    small = reference[[first]].head(5000)
    for n in asked["sizes"]:
        power[str(n)] = []
        for shift in asked["shifts"]:
            hits = 0
            for _ in range(asked["trials"]):
                now = pd.DataFrame({first: rng.normal(size=n) + shift})
                found = Report([DataDriftPreset()]).run(now, small).dict()
                share = next(m["value"]["share"] for m in found["metrics"] if "DriftedColumnsCount" in json.dumps(m, default=str))
                hits += share > 0
            power[str(n)].append(hits / asked["trials"])
    return {"version": package.__version__, "rows_per_second": speed, "power": power}


def nannyml(reference, current, asked):
    """Its univariate drift, Jensen-Shannon in chunks of five thousand."""
    del asked
    import nannyml as package

    calculator = package.UnivariateDriftCalculator(column_names=list(reference.columns), continuous_methods=["jensen_shannon"], chunk_size=5000).fit(reference)
    return {"version": package.__version__, "rows_per_second": rates(lambda: calculator.calculate(current), len(current))}


def whylogs(reference, current, asked):
    """Its profile of the rows, which is what it compares later."""
    del reference, asked
    import whylogs as package

    return {"version": package.__version__, "rows_per_second": rates(lambda: package.log(current).view(), len(current))}


name, folder, asked = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
frames = [pd.DataFrame(v := np.load(folder / f"{which}.npy"), columns=[f"f{k}" for k in range(v.shape[1])]) for which in ("reference", "current")]
print(json.dumps({"evidently": evidently, "nannyml": nannyml, "whylogs": whylogs}[name](*frames, asked)))
