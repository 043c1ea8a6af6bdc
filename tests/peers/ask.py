"""Run by a peer's own Python: what it makes of arrays. ask.py PEER FOLDER; the last line printed is its answer as JSON."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")


def evidently(folder):
    """Each distance of each column of categories."""
    from evidently import Report
    from evidently.metrics import ValueDrift

    reference, current = (pd.read_csv(folder / f"{name}.csv", dtype=str) for name in ("reference", "current"))
    told = {}
    for method in ("psi", "jensenshannon", "hellinger", "kl_div"):
        found = Report([ValueDrift(column=name, method=method) for name in reference.columns]).run(current, reference).dict()
        told[method] = {name: float(metric["value"]) for name, metric in zip(reference.columns, found["metrics"], strict=True)}
    return told


def nannyml(folder):
    """CBPE of two classes and DLE of values, on one chunk of analysis rows."""
    import nannyml

    def last(found, metrics):
        frame = found.filter(period="analysis").to_df()
        return {metric: float(frame[(metric, "value")].iloc[0]) for metric in metrics}

    frames = {name: pd.DataFrame(dict(np.load(folder / f"{name}.npz"))) for name in ("classes", "classes_now", "values", "values_now")}
    metrics = ["roc_auc", "f1", "precision", "recall", "accuracy"]
    n = len(frames["classes_now"])
    cbpe = nannyml.CBPE(metrics, y_pred_proba="p", y_pred="said", y_true="y", problem_type="classification_binary", chunk_size=n).fit(frames["classes"])
    told = {"CBPE": last(cbpe.estimate(frames["classes_now"]), metrics)}
    dle = nannyml.DLE(["x", "z"], y_pred="said", y_true="y", metrics=["mae", "rmse"], chunk_size=len(frames["values_now"])).fit(frames["values"])
    return {**told, "DLE": last(dle.estimate(frames["values_now"]), ["mae", "rmse"])}


print(json.dumps({"evidently": evidently, "nannyml": nannyml}[sys.argv[1]](Path(sys.argv[2]))))
