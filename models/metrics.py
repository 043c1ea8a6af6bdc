"""The metrics, by the words of the contract: one table of name, direction and function.

Classification functions take class indices `y` (n,) and probabilities `p` (n, K); regression ones
take values and predictions (n,). A `y` of -1 is a class that was never trained: an error. Weights `w` (n,)
count a row as so many; without them each counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.classes import confusion
from models.ranking import area_under_roc, average_precision, kolmogorov_smirnov, ranking
from models.types import Floats, Ints, TaskType

EPS = 1e-15
GROUPS = 10  # of probabilities, by which calibration is judged
CLEAR = 1e-11  # beyond this, rounding to 12 digits changes no comparison
NAN = float("nan")
Weights = Floats | None


def mean(values: Any, w: Weights) -> float:
    """The mean, weighted where there are weights; NaN of nothing."""
    if not len(values) or (w is not None and not w.sum()):
        return NAN
    return float(np.mean(values) if w is None else np.average(values, weights=w))


def part(w: Weights, rows: Any) -> Weights:
    """The weights of some rows."""
    return None if w is None else w[rows]


@dataclass(frozen=True)
class Metric:
    """A metric's name, whether higher is better, and its function."""

    name: str
    higher_is_better: bool
    function: Callable[..., float]  # of y, p and optionally w


def decide(p: Floats) -> Ints:
    """The class of each row: argmax of the probabilities rounded to 12 digits, first label wins."""
    if p.shape == (1, 2):
        ((first, second),) = p.tolist()
        if abs(second - first) > CLEAR:
            return np.array([int(second > first)])
    elif p.shape[1] == 2 and len(p):  # noqa: PLR2004
        lead = p[:, 1] - p[:, 0]
        if np.abs(lead).min() > CLEAR:
            return np.asarray(lead > 0, dtype=np.int64)
    return np.asarray(np.argmax(np.round(p, 12), axis=1), dtype=np.int64)


def decide_at(p: Floats, threshold: float | None) -> Ints:
    """The class of each row where the positive one of two is decided by a threshold of its probability."""
    if threshold is None or p.shape[1] != 2:  # noqa: PLR2004
        return decide(p)
    return np.asarray(np.round(p[:, 1], 12) >= threshold, dtype=np.int64)


def log_loss(y: Ints, p: Floats, w: Weights = None) -> float:
    """Mean negative log-likelihood; an unseen class counts with p = eps."""
    if not len(y):
        return NAN
    said = np.where(y == 1, p[:, 1], p[:, 0]) if p.shape[1] == 2 else p[np.arange(len(y)), np.maximum(y, 0)]  # noqa: PLR2004
    return mean(-np.log(np.clip(np.where(y >= 0, said, EPS), EPS, 1.0)), w)


def auc_of(positive: Any, score: Floats, w: Weights = None) -> float:
    """Area under the ROC curve, ties counting half; NaN with one class."""
    return area_under_roc(ranking(positive, score, w))


def roc_auc(y: Ints, p: Floats, w: Weights = None) -> float:
    """Area under the ROC curve; several classes one-vs-rest, weighted by their share."""
    if p.shape[1] == 2:  # noqa: PLR2004
        return auc_of(y == 1, p[:, 1], w)
    return _by_share(y, p, w, lambda k: auc_of(y == k, p[:, k], w))


def _by_share(y: Ints, p: Floats, w: Weights, one: Callable[[int], float]) -> float:
    total, weight = 0.0, 0.0
    for k in range(p.shape[1]):
        count = float(np.sum(y == k) if w is None else np.sum(w[y == k]))
        value = one(k) if count else NAN
        if count and np.isfinite(value):
            total, weight = total + count * value, weight + count
    return total / weight if weight else NAN


def pr_auc(y: Ints, p: Floats, w: Weights = None) -> float:
    """Average precision; several classes one-vs-rest, weighted by their share."""
    if p.shape[1] == 2:  # noqa: PLR2004
        return average_precision(ranking(y == 1, p[:, 1], w))
    return _by_share(y, p, w, lambda k: average_precision(ranking(y == k, p[:, k], w)))


@dataclass(frozen=True)
class Decisions:
    """What came true by what was decided, as `models.classes.confusion` counts it (K + 1, K)."""

    table: Floats

    @property
    def hits(self) -> Floats:
        """What was right, by class."""
        return np.diag(self.table)

    @property
    def support(self) -> Floats:
        """What there was, by class."""
        return np.asarray(self.table[:-1].sum(axis=1))

    @property
    def decided(self) -> Floats:
        """What was decided, unseen classes included, by class."""
        return np.asarray(self.table.sum(axis=0))


def decisions(y: Ints, chosen: Ints, size: int, w: Weights = None) -> Decisions:
    """Count what was decided of `size` classes against what came."""
    return Decisions(confusion(y, chosen, size, w).astype(np.float64))


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _macro(values: Floats, support: Floats) -> float:
    if len(values) == 2:  # noqa: PLR2004 - binary: the positive class
        return float(values[1])
    present = support > 0
    return float(np.mean(values[present])) if present.any() else NAN


def accuracy_of(d: Decisions) -> float:
    """Share of rows whose decision is right."""
    rows = d.table.sum()
    return float(d.hits.sum() / rows) if rows else NAN


def precision_of(d: Decisions) -> float:
    """Precision of the positive class; several classes: mean over those present."""
    return _macro(_ratio(d.hits, d.decided), d.support)


def recall_of(d: Decisions) -> float:
    """Recall of the positive class; several classes: mean over those present."""
    return _macro(_ratio(d.hits, d.support), d.support)


def f1_of(d: Decisions) -> float:
    """Harmonic mean of precision and recall; several classes: mean over those present."""
    return _macro(_ratio(2 * d.hits, d.decided + d.support), d.support)


def balanced_accuracy_of(d: Decisions) -> float:
    """Mean recall over the classes present."""
    present = d.support > 0
    return float(np.mean(_ratio(d.hits, d.support)[present])) if present.any() else NAN


def mcc_of(d: Decisions) -> float:
    """Matthews correlation coefficient, for any number of classes (Gorodkin 2004)."""
    t, q, n, c = d.support, d.table[:-1].sum(axis=0), d.table[:-1].sum(), d.hits.sum()
    below = np.sqrt((n * n - q @ q) * (n * n - t @ t))
    return float((c * n - t @ q) / below) if below > 0 else 0.0


OF_DECISIONS: dict[str, Callable[[Decisions], float]] = {
    "accuracy": accuracy_of,
    "balanced_accuracy": balanced_accuracy_of,
    "f1": f1_of,
    "precision": precision_of,
    "recall": recall_of,
    "mcc": mcc_of,
}


def deciding(name: str) -> Callable[..., float]:
    """A metric of decisions as a function of outcomes and probabilities."""
    return lambda y, p, w=None: OF_DECISIONS[name](decisions(y, decide(p), p.shape[1], w))


def brier(y: Ints, p: Floats, w: Weights = None) -> float:
    """Mean squared error of the probabilities; binary: of the positive class alone."""
    if not len(y):
        return NAN
    if p.shape[1] == 2:  # noqa: PLR2004
        return mean((p[:, 1] - (y == 1)) ** 2, w)
    hot = (y[:, None] == np.arange(p.shape[1])[None, :]).astype(np.float64)
    return mean(((p - hot) ** 2).sum(axis=1), w)


def stated(y: Ints, p: Floats) -> tuple[Floats, Any]:
    """What is said of each row, and whether it came true: the positive class's probability, of several classes the most probable one's."""
    if p.shape[1] == 2:  # noqa: PLR2004
        return p[:, 1], y == 1
    return p.max(axis=1), decide(p) == y


def group_of(sure: Floats) -> Ints:
    """The tenth in which each probability lies."""
    return np.minimum((sure * GROUPS).astype(np.int64), GROUPS - 1)


def ece(y: Ints, p: Floats, w: Weights = None) -> float:
    """Expected calibration error over ten equal bins of the predicted probability."""
    if not len(y):
        return NAN
    sure, right = stated(y, p)
    gap = np.bincount(group_of(sure), weights=(sure - right) * (1.0 if w is None else w), minlength=GROUPS)
    return float(np.abs(gap).sum() / (len(y) if w is None else w.sum()))


def gini_norm(y: Ints, p: Floats, w: Weights = None) -> float:
    """Normalised Gini: 2 AUC - 1."""
    return 2 * roc_auc(y, p, w) - 1


def ks(y: Ints, p: Floats, w: Weights = None) -> float:
    """Largest distance between the score distributions of the two classes."""
    if p.shape[1] != 2:  # noqa: PLR2004
        return _by_share(y, p, w, lambda k: kolmogorov_smirnov(ranking(y == k, p[:, k], w)))
    return kolmogorov_smirnov(ranking(y == 1, p[:, 1], w))


def of_ranking(y: Ints, p: Floats, w: Weights) -> dict[str, float]:
    """What is known of two classes once their scores are ranked."""
    found = ranking(y == 1, p[:, 1], w)
    auc = area_under_roc(found)
    return {"roc_auc": auc, "gini_norm": 2 * auc - 1, "pr_auc": average_precision(found), "ks": kolmogorov_smirnov(found)}


def rmse(y: Floats, p: Floats, w: Weights = None) -> float:
    """Root mean squared error, in the target's unit."""
    return float(np.sqrt(mean((y - p) ** 2, w)))


def mae(y: Floats, p: Floats, w: Weights = None) -> float:
    """Mean absolute error, in the target's unit."""
    return mean(np.abs(y - p), w)


def mape(y: Floats, p: Floats, w: Weights = None) -> float:
    """Mean absolute percentage error over rows whose actual is not zero."""
    keep = y != 0
    return mean(np.abs((y[keep] - p[keep]) / y[keep]), part(w, keep))


def r2(y: Floats, p: Floats, w: Weights = None) -> float:
    """Share of the variance explained."""
    spread = mean((y - mean(y, w)) ** 2, w)
    return 1.0 - mean((y - p) ** 2, w) / spread if spread > 0 else NAN


def rmsle(y: Floats, p: Floats, w: Weights = None) -> float:
    """Root mean squared log error; NaN where an actual is at most -1."""
    if not len(y) or np.any(y <= -1):
        return NAN
    return float(np.sqrt(mean((np.log1p(y) - np.log1p(np.maximum(p, 0.0))) ** 2, w)))


def poisson_deviance(y: Floats, p: Floats, w: Weights = None) -> float:
    """Mean Poisson deviance; NaN where an actual is negative or a prediction not positive."""
    if not len(y) or np.any(y < 0) or np.any(p <= 0):
        return NAN
    log = np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / p), 0.0)
    return 2 * mean(log - y + p, w)


def gamma_deviance(y: Floats, p: Floats, w: Weights = None) -> float:
    """Mean gamma deviance; NaN where an actual or a prediction is not positive."""
    if not len(y) or np.any(y <= 0) or np.any(p <= 0):
        return NAN
    return 2 * mean(np.log(p / y) + y / p - 1, w)


def tweedie_deviance(y: Floats, p: Floats, w: Weights = None) -> float:
    """Mean Tweedie deviance of power 1.5."""
    if not len(y) or np.any(y < 0) or np.any(p <= 0):
        return NAN
    power = 1.5
    a = np.power(y, 2 - power) / ((1 - power) * (2 - power))
    b = y * np.power(p, 1 - power) / (1 - power)
    return 2 * mean(a - b + np.power(p, 2 - power) / (2 - power), w)


CLASSIFICATION = {
    m.name: m
    for m in (
        Metric("log_loss", False, log_loss),
        Metric("accuracy", True, deciding("accuracy")),
        Metric("balanced_accuracy", True, deciding("balanced_accuracy")),
        Metric("roc_auc", True, roc_auc),
        Metric("pr_auc", True, pr_auc),
        Metric("f1", True, deciding("f1")),
        Metric("precision", True, deciding("precision")),
        Metric("recall", True, deciding("recall")),
        Metric("mcc", True, deciding("mcc")),
        Metric("brier", False, brier),
        Metric("ece", False, ece),
        Metric("gini_norm", True, gini_norm),
        Metric("ks", True, ks),
    )
}
REGRESSION = {
    m.name: m
    for m in (
        Metric("rmse", False, rmse),
        Metric("mae", False, mae),
        Metric("mape", False, mape),
        Metric("r2", True, r2),
        Metric("rmsle", False, rmsle),
        Metric("poisson_deviance", False, poisson_deviance),
        Metric("gamma_deviance", False, gamma_deviance),
        Metric("tweedie_deviance", False, tweedie_deviance),
    )
}
METRICS = CLASSIFICATION | REGRESSION


def metrics_of(task: TaskType) -> dict[str, Metric]:
    """The metrics that exist for a task."""
    return REGRESSION if task == "regression" else CLASSIFICATION


def default_metric(task: TaskType) -> str:
    """What the leaderboard is sorted by unless told otherwise."""
    return "rmse" if task == "regression" else "log_loss"


def score_all(task: TaskType, y: Any, p: Floats, chosen: Ints | None = None, w: Weights = None) -> dict[str, float]:
    """Every metric of the task; NaN where it is not defined on these rows.

    `chosen` are the classes that were served, where a threshold or a rule decided otherwise than the
    greatest probability: metrics of decisions are of those.
    """
    with np.errstate(all="ignore"):
        known: dict[str, float] = {}
        if task != "regression":
            made = decisions(y, decide(p) if chosen is None else chosen, p.shape[1], w)
            known = {name: function(made) for name, function in OF_DECISIONS.items()}
            if p.shape[1] == 2:  # noqa: PLR2004
                known |= of_ranking(y, p, w)
        return {name: known[name] if name in known else metric.function(y, p, w) for name, metric in metrics_of(task).items()}
