"""Trees and rows in C beside what stands in where no compiler was found: `make bench-forms`, half a minute.

A LightGBM of 200 trees of 31 leaves on fifteen columns of the flights, asked for other rows in each call, so that no branch is learnt;
flights as objects with names and texts made into a base matrix. The forms take turns; medians, microseconds a call.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.keep import keep
from benchmarks.servers import INPUTS, matrix
from gateway.demo import read_flights, thinned
from models import compiled
from models.native import TreePredictor
from models.preparation import Options, prepare
from models.table import Table

CALLS, SIZES = 300, (4, 12, 100, 1000, 4000)


def in_turns(forms: dict[str, Callable[[object], object]], asked: list[object]) -> dict[str, float]:
    """The median time of each form over what is asked."""
    took: dict[str, list[float]] = {name: [] for name in forms}
    for one in asked:
        for name, call in forms.items():
            begun = time.perf_counter()
            call(one)
            took[name].append(time.perf_counter() - begun)
    return {name: round(statistics.median(values) * 1e6, 1) for name, values in took.items()}


def trees() -> dict[str, dict[str, float]]:
    """Many rows by LightGBM's walk, NumPy and C; one row by LightGBM's single-row call and C."""
    x, late = matrix()
    text = lightgbm.train({"objective": "binary", "num_leaves": 31, "verbose": -1}, lightgbm.Dataset(x, late), 200).model_to_string()
    c = TreePredictor(text, INPUTS, averaged=False)
    compiled.BUILT = False
    numpy = TreePredictor(text, INPUTS, averaged=False)
    compiled.BUILT = True
    rng = np.random.default_rng(0)
    found = {"1": in_turns({"LightGBM": numpy.one, "C": c.one}, x[rng.integers(0, len(x), 10 * CALLS)].tolist())}
    for size in SIZES:
        asked = [np.asfortranarray(x[rng.integers(0, len(x), size)]) for _ in range(CALLS)]
        found[str(size)] = in_turns({"LightGBM": c.walked, "NumPy": numpy._tables.many, "C": c.many}, asked)  # noqa: SLF001 - below twelve rows it would not be asked
    return found


def rows() -> dict[str, dict[str, float]]:
    """Objects into a base matrix, in Python and in C."""
    table = thinned(read_flights(), 20_000).drop(["arr_delay", "arr_time", "dep_time", "dep_delay", "air_time"])
    schema = prepare(Table(table), Options("late", timestamp="time_hour", association_id="flight_id")).schema
    objects = table.select(schema.names).drop_null().to_pylist()

    def python(some: list[dict[str, object]]) -> None:
        compiled.BUILT = False
        schema.encode_rows(some)
        compiled.BUILT = True

    rng = np.random.default_rng(1)
    picked = {size: [[objects[k] for k in rng.integers(0, len(objects), size)] for _ in range(CALLS)] for size in (1, 100)}
    return {str(size): in_turns({"Python": python, "C": schema.encode_rows}, asked) for size, asked in picked.items()}


if __name__ == "__main__":
    assert compiled.BUILT, "there is no C compiler here, or Champion was installed without it"
    figures = {"trees": trees(), "rows": rows()}
    print(figures)
    keep("forms", figures)
