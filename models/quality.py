"""Data quality of an input against its reference: what is missing, out of range, never seen, or of the wrong type.

Counted from the same frozen bins as drift. A share is judged by what the reference leads one to expect of a window of
this size: the beta-binomial predictive distribution with Jeffreys' prior (Gelman et al., Bayesian Data Analysis, 2.3).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.baseline import Bins
from models.drift import LEAST_ROWS, worst
from models.types import Status

LEVEL = 0.05
WARNING, FAILING = 0.01, 0.10  # of the rows, more than in the reference
MANY = 50_000  # rows
KINDS = 3  # problems that an input may have: the level is shared among them


def found_problems(bins: Bins, counts: Any) -> dict[str, tuple[int, int]]:
    """Rows with each problem, in the reference and in production (counts, the length of the bins)."""
    both = (np.asarray(bins.reference), np.asarray(counts))
    pick = {"missing": (-1,), "unseen": (-2,)} if bins.kind == "categorical" else {"missing": (-1,), "out_of_range": (0, -2)}
    return {name: (int(sum(both[0][i] for i in at)), int(sum(both[1][i] for i in at))) for name, at in pick.items()}


def chance_of(reference: int, of: int, production: int, rows: int) -> float:
    """The probability of so many or more among `rows`, after `reference` among `of`."""
    from scipy.stats import beta, betabinom

    a, b = reference + 0.5, of - reference + 0.5
    if rows <= MANY:
        return float(betabinom.sf(production - 1, rows, a, b)) if rows else 1.0
    mean = a / (a + b)  # a sum of as many terms as rows would take seconds: the beta distribution of the same mean and variance
    sure = mean * (1 - mean) / (mean * (1 - mean) * (a + b + rows) / (rows * (a + b + 1))) - 1
    return float(beta.sf((production - 0.5) / rows, mean * sure, (1 - mean) * sure))


def judged(reference: int, of: int, production: int, rows: int, inputs: int) -> dict[str, Any]:
    """Shares of a problem and its status; unknown below a hundred rows, or where there is nothing to compare with."""
    before, now = reference / of if of else 0.0, production / rows if rows else 0.0
    status: Status = "unknown"
    if of and rows >= LEAST_ROWS:
        status = "passing"
        if now - before >= WARNING and chance_of(reference, of, production, rows) < LEVEL / (KINDS * max(inputs, 1)):
            status = "failing" if now - before >= FAILING else "warning"
    return {"reference": before, "production": now, "rows": production, "status": status}


def quality_of(bins: Bins, counts: Any, inputs: int, wrong: int = 0) -> dict[str, Any]:
    """The problems of one of so many inputs. The rows that a value of the wrong type spoilt are in no bin: they were not scored."""
    of, rows = int(sum(bins.reference)), int(np.sum(counts))
    problems = {name: judged(a, of, b, rows, inputs) for name, (a, b) in found_problems(bins, counts).items()}
    problems["wrong_type"] = judged(0, of, wrong, rows + wrong, inputs)
    return {"status": worst([p["status"] for p in problems.values()]), "problems": problems}
