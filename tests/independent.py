"""Drift and accuracy once more, from the tables alone: pandas and plain loops, nothing of ours but the package file."""

import json
import math
import zipfile

import numpy as np
import pandas as pd


def load_model(path):
    """The frozen bins and the schema out of a package's JSON."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("model.json"))


def bin_of(bins, feature, value):
    """The label of the bin a logged value falls into."""
    if bins["kind"] == "categorical":
        if value is None:
            return "missing"
        if value not in feature["levels"]:
            return "unseen"
        return value if value in bins["labels"] else "other"
    if value is None:
        return "missing"
    if value < bins["low"]:
        return "below"
    if value > bins["high"]:
        return "above"
    return bins["labels"][1 + sum(1 for edge in bins["edges"] if value >= edge)]


def drift(rows, model):
    """Counts and PSI of each input: {name: ({label: count}, psi)}."""
    found = {}
    features = {f["name"]: f for f in model["schema"]["features"]}
    for bins in [*model["baseline"]["features"], model["baseline"]["prediction"]]:
        name = bins["name"]
        counts = dict.fromkeys(bins["labels"], 0)
        for row in rows:
            value = row["predicted_value"] if name == "prediction" else row["features"].get(name)
            counts[bin_of(bins, features.get(name), value)] += 1
        reference = dict(zip(bins["labels"], bins["reference"], strict=True))
        a, b = merged(bins, reference), merged(bins, counts)
        size, m, n = len(a), sum(a), sum(b)
        p = [(c + 0.5) / (m + 0.5 * size) for c in a]
        q = [(c + 0.5) / (n + 0.5 * size) for c in b]
        found[name] = (counts, sum((y - x) * math.log(y / x) for x, y in zip(p, q, strict=True)))
    return found


def merged(bins, counts):
    """Numeric outer bins take what lies beyond."""
    values = [counts[label] for label in bins["labels"]]
    if bins["kind"] == "categorical":
        return values
    inner = values[1:-2]
    inner[0] += values[0]
    inner[-1] += values[-2]
    return [*inner, values[-1]]


def log_loss(frame, positive):
    """Mean negative log-likelihood of joined rows with columns p (of the positive class) and actual."""
    p = np.where(frame["actual"] == positive, frame["p"], 1 - frame["p"])
    return float(np.mean(-np.log(np.clip(p, 1e-15, 1))))


def join(predictions, actuals):
    """A pandas join of predictions and actuals by association id."""
    return pd.DataFrame(predictions).merge(pd.DataFrame(actuals), on="association_id", how="inner")
