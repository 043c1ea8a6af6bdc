"""Our numbers beside those of Evidently and NannyML, computed by them (`make test-peers`)."""

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.peers.environments import python_of
from models import drift
from models.baseline import freeze
from models.estimation import estimated
from models.losses import errors_of_losses, learn_losses
from models.schema import Feature, Schema, Target

pytestmark = pytest.mark.peers
N = 50_000


def told(peer, folder):
    command = [python_of(peer), Path(__file__).parent / "ask.py", peer, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_distances_are_evidentlys_on_the_same_bins(tmp_path):
    rng = np.random.default_rng(1)
    schema = Schema(Target("y", "regression"), (Feature("x", "numeric"), Feature("skewed", "numeric"), Feature("town", "categorical", ("Oslo", "Rome", "Lima"))))
    reference = np.column_stack([rng.normal(size=N), rng.exponential(size=N), rng.choice(3, N, p=[0.5, 0.3, 0.2])])
    current = np.column_stack([rng.normal(0.4, 1.2, N), rng.exponential(1.3, N), rng.choice(3, N, p=[0.3, 0.3, 0.4])])
    baseline = freeze(schema, reference, np.zeros(N))
    counts = baseline.split(baseline.counts(current, np.zeros(N), np.zeros(N, dtype=np.int64), 1)[0])[:-1]
    ours, columns = {}, {"reference": {}, "current": {}}
    for (bins, found), name in zip(counts, schema.names, strict=True):
        a, b = bins.merged(bins.reference), bins.merged(found)
        there = (a > 0) | (b > 0)  # Evidently has no bin that nobody is in
        a, b = a[there], b[there]
        for which, size in (("reference", a), ("current", b)):
            columns[which][name] = np.repeat([f"bin {k}" for k in range(len(size))], size)
        ours[name] = {"psi": drift.psi(a, b), "hellinger": drift.hellinger(a, b), "jensenshannon": drift.jensen_shannon(a, b) * math.sqrt(math.log(2)), "kl_div": drift.kl_divergence(b, a)}
    for which, found in columns.items():
        pd.DataFrame(found).to_csv(tmp_path / f"{which}.csv", index=False)
    theirs = told("evidently", tmp_path)
    for method, values in theirs.items():
        for name, value in values.items():
            assert ours[name][method] == pytest.approx(value, rel=2e-3, abs=1e-5), (method, name)


@pytest.fixture(scope="module")
def nannyml(tmp_path_factory):
    """Calibrated probabilities whose mix shifts, and values whose noise depends on an input that shifts."""
    folder, rng = tmp_path_factory.mktemp("nannyml"), np.random.default_rng(2)
    kept = {}
    for name, a in (("classes", 0.8), ("classes_now", 1.6)):
        p = rng.beta(a, 2.0, N)
        kept[name] = {"p": p, "said": (p >= 0.5).astype(int), "y": (rng.random(N) < p).astype(int)}
    for name, low in (("values", 0.0), ("values_now", 1.2)):
        x, z = rng.uniform(low, 2, N), rng.normal(size=N)
        kept[name] = {"x": x, "z": z, "said": 2 * x, "y": 2 * x + rng.normal(size=N) * (0.3 + x)}
    for name, columns in kept.items():
        np.savez(folder / f"{name}.npz", **columns)
    return kept, told("nannyml", folder)


@pytest.mark.parametrize("metric", ["roc_auc", "f1", "precision", "recall", "accuracy"])
def test_estimated_accuracy_of_classes_is_nannymls(nannyml, metric):
    kept, theirs = nannyml
    p = kept["classes_now"]["p"]
    assert estimated(np.column_stack([1 - p, p]))[metric] == pytest.approx(theirs["CBPE"][metric], abs=2e-3)


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_the_estimated_error_of_values_is_as_near_to_the_truth_as_nannymls(nannyml, metric):
    kept, theirs = nannyml
    schema = Schema(Target("y", "regression"), (Feature("x", "numeric"), Feature("z", "numeric")))
    before, now = kept["values"], kept["values_now"]
    losses = learn_losses(schema, np.column_stack([before["x"], before["z"]]), before["y"], before["said"], 0)
    ours = errors_of_losses(losses.expected(np.column_stack([now["x"], now["z"]]), now["said"]))[metric]
    errors = now["y"] - now["said"]
    truth = {"mae": np.abs(errors).mean(), "rmse": np.sqrt((errors**2).mean())}[metric]
    assert ours == pytest.approx(truth, rel=0.02)
    assert abs(ours - truth) <= abs(theirs["DLE"][metric] - truth) + 0.01 * truth
