"""Whether a model treats groups alike: what each group is given and what then came true, beside the best-treated one.

Groups are the values of an input, the consumer, or an SQL expression; of any past window, for they are
counted from the rows. Of two classes or more, one is the favourable outcome. (Definitions: Hardt, Price and
Srebro 2016 for equal opportunity; the four-fifths rule of the US Uniform Guidelines of 1978 as bound.)
"""

from __future__ import annotations

from typing import Any

from models.schema import Target
from stream.association import literal
from stream.clickhouse import EventLog
from stream.errors import Refused
from stream.queries import SERVED, Window, outcomes_as_of
from stream.segments import COLUMNS, expression

BOUND = 0.8
LEAST = 100  # rows below which a share says too little
MOST_GROUPS = 100
# name → (what is counted, of what): shares of a group
SHARES = {
    "proportional_parity": ("given", "rows"),
    "true_favorable_rate": ("given_right", "true"),
    "true_unfavorable_rate": ("denied_right", "false"),
    "favorable_predictive_value": ("given_right", "given_known"),
    "unfavorable_predictive_value": ("denied_right", "denied_known"),
}
MEANS = {"favorable_class_balance": ("score_true", "true"), "unfavorable_class_balance": ("score_false", "false")}


def group_of(by: str) -> str:
    """The SQL expression of a row's group."""
    if by.startswith("sql:"):
        return f"toString({expression(by[4:])})"
    if by in COLUMNS:
        return f"toString({by})"
    key = literal(by)
    return f"multiIf(mapContains(features_cat, {key}), features_cat[{key}], mapContains(features_num, {key}), toString(features_num[{key}]), '')"


def fairness(log: EventLog, window: Window, target: Target, by: str, favorable: str = "") -> dict[str, Any]:
    """Each group's shares and their ratio to the best-treated group's; Refused where there are no classes."""
    if target.task == "regression":
        raise Refused("invalid", "wrong_task", "fairness asks which class is favourable: a regression has none")
    favorable = favorable or target.positive or target.classes[-1]
    if favorable not in target.classes:
        raise Refused("invalid", "wrong_class", f"there is no class {favorable!r}; classes: {', '.join(target.classes)}")
    group, wanted, place = group_of(by), literal(favorable), target.classes.index(favorable) + 1
    where = f"{window.where()} AND role = 'champion' AND {SERVED}"
    source = f"{outcomes_as_of(window.deployment, window.as_of)} AS known" if window.as_of is not None else "outcomes"
    given = f"SELECT {group} AS grp, count() AS rows, countIf(predicted_class = {wanted}) AS given FROM predictions WHERE {where} GROUP BY grp ORDER BY rows DESC, grp LIMIT {MOST_GROUPS + 1}"
    known = f"""SELECT {group} AS grp, count() AS matched, countIf(actual_class = {wanted}) AS true, countIf(actual_class != {wanted}) AS false,
    countIf(predicted_class = {wanted}) AS given_known, countIf(predicted_class != {wanted}) AS denied_known,
    countIf(predicted_class = {wanted} AND actual_class = {wanted}) AS given_right, countIf(predicted_class != {wanted} AND actual_class != {wanted}) AS denied_right,
    sumIf(probabilities[{place}], actual_class = {wanted}) AS score_true, sumIf(probabilities[{place}], actual_class != {wanted}) AS score_false
FROM {source} WHERE {where} GROUP BY grp"""
    outcomes = {row["grp"]: row for row in log.rows(known)}
    groups = [{"group": row["grp"], "matched": 0, **{k: v for k, v in outcomes.get(row["grp"], {}).items() if k != "grp"}, "rows": row["rows"], "given": row["given"]} for row in log.rows(given)]
    if len(groups) > MOST_GROUPS:
        raise Refused("invalid", "too_many_groups", f"{by!r} has more than {MOST_GROUPS} values: group them by sql:EXPRESSION")
    metrics = {name: compared(groups, top, bottom) for name, (top, bottom) in {**SHARES, **MEANS}.items()}
    metrics["equal_parity"] = compared(groups, "given", "")
    unfair = sorted(name for name, rows in metrics.items() if name != "equal_parity" and any(row["status"] == "failing" for row in rows))
    status = "failing" if unfair else "passing" if any(row["status"] == "passing" for rows in metrics.values() for row in rows) else "unknown"
    return {"by": by, "favorable": favorable, "bound": BOUND, "groups": groups, "metrics": metrics, "unfair": unfair, "status": status, "sql": {"given": given, "known": known}}


def compared(groups: list[dict[str, Any]], top: str, bottom: str) -> list[dict[str, Any]]:
    """A share of each group, and its ratio to the greatest among groups that are large enough."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        count = int(group.get(bottom, 0)) if bottom else int(group["rows"])
        value = None if not count else float(group.get(top, 0)) / (count if bottom else 1)
        rows.append({"group": group["group"], "value": value, "of": count})
    best = max((row["value"] for row in rows if row["value"] is not None and row["of"] >= LEAST), default=None)
    for row in rows:
        enough = row["of"] >= LEAST and best is not None and best > 0
        row["ratio"] = row["value"] / best if enough else None
        row["status"] = "unknown" if not enough else "passing" if row["ratio"] >= BOUND else "failing"
        if not enough:
            row["warning"] = f"{row['of']} rows: {LEAST} are needed" if row["of"] < LEAST else "no group has any"
    return rows
