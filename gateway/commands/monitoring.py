"""Commands that ask how a deployment does: drift, accuracy, comparison, explanations, groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson

from gateway.client import Refusal
from gateway.commands.common import AS_JSON, bar, client, of_window, out, show, spark, wait_for_job, window_options


@click.command()
@click.argument("deployment")
@window_options
@AS_JSON
def health(deployment: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show requests, rows, errors and latency by arrival time.

    Example: champion health flights --bucket 1h
    """
    found = of_window(deployment, "service-health", start, end, bucket, segment, at)
    if as_json:
        show(found, as_json)
        return
    buckets = found["buckets"]
    lines = {"requests": [b["requests"] for b in buckets], "rows": [b["rows"] for b in buckets], "refused for the caller's fault": [b["user_errors"] for b in buckets], "refused for ours": [b["server_errors"] for b in buckets]}
    totals = found["totals"]
    whole = {"requests": totals["requests"], "rows": totals["rows"], "refused for the caller's fault": totals["user_errors"], "refused for ours": totals["server_errors"]}
    for q, value in totals["latency_us"].items():
        lines[f"{q}, ms"], whole[f"{q}, ms"] = [None if b["latency_us"][q] is None else b["latency_us"][q] / 1000 for b in buckets], None if value is None else value / 1000
    show([{"": name, "whole": whole[name], "over time": spark(values)} for name, values in lines.items()], as_json, title=f"{deployment}: {found['status']}, {totals['consumers']} consumers")


@click.command()
@click.argument("deployment")
@click.option("--reference", default="", help="Instead of the training data: weekdays (the same ones of eight weeks before --from), or FROM..TO.")
@click.option("--bins", default="", help="Quantile bins of each number, instead of the frozen deciles.")
@click.option("--warning", default="", help="PSI from which an input is warning, instead of 0.10.")
@click.option("--failing", default="", help="PSI from which an input is failing, instead of 0.25.")
@window_options
@AS_JSON
def drift(deployment: str, reference: str, bins: str, warning: str, failing: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show the drift of each input and of the prediction.

    Example: champion drift flights --from 2013-09-01 --reference 2013-07-01..2013-08-01
    """
    found = of_window(deployment, "drift", start, end, bucket, segment, at, reference=reference, bins=bins, warning=warning, failing=failing)
    rows = [*found["totals"]["features"], found["totals"]["prediction"]]
    if not as_json:
        for row in rows:
            row["over time"] = spark([bucket["features"].get(row["name"]) if row["name"] in bucket["features"] else bucket["prediction"] for bucket in found["buckets"]])
    show(found if as_json else rows, as_json, title=f"{deployment}: {found['status']}, weighed by importance {found['weighed_status']}", columns=["name", "psi", "status", "importance", "quadrant", "rows", "over time"])
    if found["totals"]["texts"] and not as_json:
        show([{"text": t["name"], "status": t["status"], "rows": t["rows"], "length PSI": t["length"]["psi"], "unknown words PSI": t["unknown_words"]["psi"], "unknown words": t["unknown_words"]["mean"]} for t in found["totals"]["texts"]], as_json)
    if (moved := [u for u in found["totals"]["unread"] if u["status"] != "passing"]) and not as_json:
        show([{"no model reads": u["name"], "status": u["status"], "missing": f"{u['missing']['reference']:.1%} → {u['missing']['production']:.1%}"} for u in moved], as_json)
    if found["concept_drift"] and not as_json:
        show(found["concept_drift"], as_json, title="the champion's errors changed", columns=["since", "direction", "before", "after", "until"])


@click.command()
@click.argument("deployment")
@click.option("--add", "kind", default="", help="adwin, page_hinkley or kswin; on the error of classes also ddm, eddm, hddm_a or hddm_w.")
@click.option("--on", default="error", show_default=True, help="The champion's error, or a numeric input.")
@click.option("--clear", is_flag=True, help="Take all of them away.")
@AS_JSON
def detectors(deployment: str, kind: str, on: str, clear: bool, as_json: bool) -> None:
    """Show what detectors alarmed: the one on the champion's error that is always there, and those that are asked for.

    Example: champion detectors flights --add page_hinkley --on distance
    """
    api, path = client(), f"/v1/deployments/{deployment}"
    asked = api.get(path)["settings"].get("detectors") or []
    if kind or clear:
        asked = api.call("PATCH", path, {"detectors": None if clear else [*asked, {"kind": kind, "on": on}]})["settings"].get("detectors") or []
    found = api.get(path + "/drift", bucket="30d")
    alarms = [{"detector": "adwin", "on": "error (always)", "at": c["since"], **c} for c in found["concept_drift"]] + found["changes"]
    if as_json:
        show({"detectors": asked, "concept_drift": found["concept_drift"], "changes": found["changes"]}, as_json=True)
        return
    beside = ", ".join("{kind} on {on}".format(**one) for one in asked)
    out.print(f"beside ADWIN on the error: {beside or 'none'}")
    show(alarms, as_json, title="alarms", columns=["detector", "on", "at", "direction", "before", "after"])


@click.command(name="check-drift")
@click.argument("deployment")
@click.option("--from", "start", required=True)
@click.option("--to", "end", required=True)
@click.option("--reference", default="", help="Instead of the training rows: FROM..TO.")
@click.option("--every", default="", help="Also by schedule: a span of event time such as 1d.")
@AS_JSON
def check_drift(deployment: str, start: str, end: str, reference: str, every: str, as_json: bool) -> None:
    """Tell a window's rows from the training rows by all inputs together: drift that no input shows alone.

    Example: champion check-drift flights --from 2013-12-01 --to 2013-12-08 --reference 2013-07-01..2013-07-08
    """
    api, path = client(), f"/v1/deployments/{deployment}"
    if every:
        api.call("PATCH", path, {"drift_checks": {"every": every}})
    asked = {"from": start, "to": end, **({"reference": reference} if reference else {})}
    job = wait_for_job(api, deployment, api.post(path + "/drift-checks", asked)["check_id"], as_json)
    found = job["result"]
    if job["state"] == "failed":
        raise Refusal(422, "check_failed", found.get("error", "failed"))
    if as_json or found["auc"] is None:
        show(found, as_json)
        return
    title = f"{deployment}: {found['status']}; told apart with AUC {found['auc']:.3f} ({found['low']:.3f} to {found['high']:.3f}), {found['rows']:,} rows beside {found['reference_rows']:,}"
    show([{"input": name, "carries": value, **found["distances"].get(name, {})} for name, value in found["importance"].items()][:10], as_json, title=title, columns=["input", "carries", "kolmogorov_smirnov", "wasserstein"])


@click.command()
@click.argument("deployment")
@window_options
@AS_JSON
def quality(deployment: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show what is missing, out of range or unseen in each input, and why requests were refused.

    Example: champion quality flights --from 2013-09-01
    """
    found = of_window(deployment, "data-quality", start, end, bucket, segment, at)
    rows = [{"input": i["name"], "status": i["status"], **{kind: f"{p['reference']:.1%} → {p['production']:.1%}" for kind, p in i["problems"].items()}} for i in found["inputs"]]
    show(found if as_json else rows, as_json, title=f"{deployment}: {found['status']}", columns=["input", "status", "missing", "out_of_range", "unseen", "wrong_type"])
    if found["refused"] and not as_json:
        show([{"refused": code, "requests": count} for code, count in found["refused"].items()], as_json)


@click.command()
@click.argument("deployment")
@window_options
@click.option("--model", default="")
@click.option("--rule", default=None, help="First say by which rule one decides at present, to stand beside the metrics: an input's name, a segment (of two classes), or sql:EXPRESSION; empty: by none.")
@click.option("--adapt-intervals", "step", type=float, default=None, help="First have a regression's intervals follow each day's outcomes by this step, such as 0.05; 0: they stay as held out.")
@AS_JSON
def accuracy(deployment: str, start: str, end: str, bucket: str, segment: str, at: str, model: str, rule: str | None, step: float | None, as_json: bool) -> None:
    """Show the metrics on matched rows, against the holdout and the rule that decides at present.

    Example: champion accuracy flights --bucket 7d --rule "sched_dep_time>=1700"
    """
    for name, value in (("present_rule", rule), ("adaptive_intervals", step)):
        if value is not None:
            client().call("PATCH", f"/v1/deployments/{deployment}", {name: value or None})
    found = of_window(deployment, "accuracy", start, end, bucket, segment, at, model)
    if as_json:
        show(found, as_json=True)
        return
    totals = found["totals"]
    beside = (totals["present_rule"] or {}).get("metrics", {})
    rows = [{"metric": name, "value": m["value"], "baseline": m["baseline"], **({"present rule": beside.get(name, {}).get("rule")} if beside else {}), "status": m["status"], "interval": m["interval"], "over time": spark(b["metrics"][name] for b in found["buckets"])} for name, m in totals["metrics"].items()]
    show(rows, as_json, title=f"{deployment}: {found['status']}; {totals['matched']:,} matched, {totals['waiting']:,} waiting" + ("" if totals["mature"] else "; nothing is judged before they had their time"))
    if rule_said := totals["present_rule"]:
        out.print(rule_line(rule_said, found["metric"]))
    if (parts := found["by_class"]) is not None:
        show(parts["classes"], as_json, title="class by class")
    if totals["coverage"]:
        out.print("inside their intervals: " + ", ".join(f"{float(level):.0%}: {share:.1%}" for level, share in totals["coverage"].items()))
    if groups := found["calibration"]:
        lines = [{"rows": g["rows"], "said": g["predicted"], "came": g["actual"], "came less said, 95 %": interval_line([end - g["predicted"] for end in g["interval"] or ()])} for g in groups]
        show(lines, as_json, title="calibration: ten groups by what was said, and what came")
    if (guess := found["estimated"]) is not None:
        past = guess["on_matched_rows"]
        lines = [{"metric": name, "estimated": value, **{k: past.get(name, {}).get(k) for k in ("realised", "error")}} for name, value in guess["metrics"].items()]
        show(lines, as_json, title=f"before the actuals ({guess['method']}, {guess['rows']:,} rows; its own error where they are known)")
    show([{"at": b["at"][:16], "rows": b["rows"], **{k: b["metrics"][k] for k in list(b["metrics"])[:4]}} for b in found["buckets"]], as_json)


@click.command()
@click.argument("deployment")
@click.option("--payoff", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None, help="First set what predictions are worth: a JSON file {actual: {predicted: value}}.")
@click.option("--replay", "replay_id", default="", help="Instead of the challengers, the model of this replay: what would have been, had it served.")
@window_options
@AS_JSON
def compare(deployment: str, file: Path | None, replay_id: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Compare the challengers with the champion on the same matched rows, in metrics and in money.

    Example: champion compare flights --from 2013-07-01
    """
    if file is not None:
        client().call("PATCH", f"/v1/deployments/{deployment}", {"payoff": orjson.loads(file.read_bytes())})
    found = of_window(deployment, "comparison", start, end, bucket, segment, at, replay_id=replay_id)
    if as_json:
        show(found, as_json)
        return
    for one in found["challengers"]:
        rows = [{"metric": name, **values, "95 %": interval_line(values.get("interval"))} for name, values in one["metrics"].items()]
        if one["payoff"]:
            rows.append({"metric": "payoff a row", **{k: one["payoff"][k]["per_row"] for k in ("champion", "challenger")}, "difference": one["payoff"]["gain"]["per_row"], "interval": one["payoff"].get("interval_per_row"), "better": one["payoff"].get("better")})
        show(rows, as_json, title=f"{one['blueprint']} on {one['rows']:,} rows of the champion's", columns=["metric", "champion", "challenger", "difference", "better", "interval", "p_adjusted", "95 %"])
        if test := one["row_test"]:
            decided = f"; only the champion right: {test['only_champion_right']:,}, only the challenger: {test['only_challenger_right']:,}, McNemar's p {test['p_value']:.3g}" if "p_value" in test else ""
            out.print(f"assuming {test['assumes']}: {test['metric']} differs by {brief_interval(test['interval'])} (bootstrap){decided}; the blocks decide")
    if found["mature_until"]:
        out.print(f"compared are the rows until {found['mature_until'][:16]}: of those after it outcomes are still awaited")


@click.command()
@click.argument("deployment")
@click.argument("model_id", required=False, default="")
@click.option("--limit", default=10, help="How many rows to show.")
@window_options
@AS_JSON
def disagree(deployment: str, model_id: str, limit: int, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show where a challenger says something else than the champion: at which values, and on which rows most.

    Example: champion disagree flights 9c0d1e --limit 20
    """
    found = of_window(deployment, "disagreements", start, end, bucket, segment, at, model_id, limit=str(limit))
    if as_json:
        show(found, as_json)
        return
    totals = found["totals"]
    other = "" if totals["rate"] is None else f", another class in {totals['rate']:.1%}"
    title = f"{deployment}: {totals['rows']:,} rows scored by both" + (f", {totals['mean']:.4g} apart on average{other}" if totals["rows"] else "")
    show([{"input": i["name"], "explains": i["explains"], "": bar(i["explains"]), "most": brief_group(i["groups"][:1]), "least": brief_group(i["groups"][1:][-1:])} for i in found["inputs"]], as_json, title=title)
    show([{k: row[k] for k in ("at", "association_id", "difference", "champion_class", "champion_value", "challenger_class", "challenger_value")} for row in found["rows"]], as_json)


@click.command()
@click.argument("deployment")
@click.option("--share", type=float, default=None, help="First have this share of the answers explained and kept; 0: none any more.")
@window_options
@AS_JSON
def explain(deployment: str, share: float | None, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show what drove the answers, from the explained share of them.

    Example: champion explain flights --share 0.05
    """
    if share is not None:
        client().call("PATCH", f"/v1/deployments/{deployment}", {"explain": share or None})
    found = of_window(deployment, "explanations", start, end, bucket, segment, at)
    most = max((i["size"] for i in found["inputs"]), default=0.0)
    show(found if as_json else [{**i, "": bar(i["size"], most)} for i in found["inputs"]], as_json, title=f"{deployment}: {found['rows']:,} explained rows, effects in {found['scale'].replace('_', ' ')}")


def rule_line(said: dict[str, Any], metric: str) -> str:
    """What the present rule is, and how what is served does beside it."""
    if "error" in said:
        return f"present rule {said['rule']}: {said['error']}"
    main = metric if metric in said["metrics"] else next(iter(said["metrics"]), None)
    entry = said["metrics"].get(main, {})
    by = f"; in {main} what is served differs by {entry['difference']:+.4g} ({brief_interval(entry.get('interval'))}, 95 %, five blocks)" if entry.get("difference") is not None else ""
    return f"present rule {said['rule']}: on {said['rows']:,} rows{by}" + (f"; of {said['silent_rows']:,} it says nothing" if said["silent_rows"] else "")


def brief_interval(interval: list[float] | None) -> str:
    """An interval in words.

    >>> brief_interval([-0.012345, 0.5])
    '-0.01235 to +0.5'
    """
    return f"{interval[0]:+.4g} to {interval[1]:+.4g}" if interval else "unknown"


def interval_line(interval: list[float] | None, width: int = 21) -> str:
    """An interval around zero as a line, zero in its middle.

    >>> interval_line([-1.0, 0.5], 9)
    '────┼──  '
    """
    if not interval or not any(interval):
        return ""
    half, most = width // 2, max(map(abs, interval))
    low, high = (round(half + end / most * half) for end in interval)
    return "".join("┼" if k == half and low <= k <= high else "│" if k == half else "─" if low <= k <= high else " " for k in range(width))


def brief_group(groups: list[dict[str, Any]]) -> str:
    """A bin and its mean difference."""
    return "".join(f"{group['label']}: {group['mean']:.3g}" for group in groups)


@click.command()
@click.argument("deployment")
@click.option("--set", "name", default="", help="Define the metric of this name by --value.")
@click.option("--value", default="", help="An aggregate over the rows, such as avg(predicted_value - actual_value).")
@click.option("--over", default="outcomes", type=click.Choice(["outcomes", "predictions"]))
@click.option("--where", default="", help="Of the rows that meet this condition.")
@click.option("--remove", default="", help="Take this metric away.")
@window_options
@AS_JSON
def metrics(deployment: str, name: str, value: str, over: str, where: str, remove: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show a deployment's custom metrics; define one (all its history is there at once) or take one away.

    Example: champion metrics flights --set cost --value "sum(if(predicted_class = actual_class, 0, 35))"
    """
    api, path = client(), f"/v1/deployments/{deployment}/custom-metrics"
    if name:
        api.call("PUT", f"{path}/{name}", {"value": value, "over": over, **({"where": where} if where else {})})
    elif remove:
        api.call("DELETE", f"{path}/{remove}")
    found = of_window(deployment, "custom-metrics", start, end, bucket, segment, at)
    rows = [{**one, "over time": spark(b["value"] for b in one["buckets"])} for one in found["items"]]
    show(found if as_json else rows, as_json, columns=None if as_json else ["name", "over", "value", "rows", "over time"])


@click.command()
@click.argument("deployment")
@click.option("--by", required=True, help="An input, consumer, or sql:EXPRESSION.")
@click.option("--favorable", default="", help="The favourable class; the positive one by default.")
@window_options
@AS_JSON
def fairness(deployment: str, by: str, favorable: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show whether groups are treated alike, each beside the best-treated one.

    Example: champion fairness loans --by gender --favorable granted
    """
    found = of_window(deployment, "fairness", start, end, bucket, segment, at, by=by, favorable=favorable)
    rows = [{"metric": name, **row, "beside the best": bar(row["ratio"])} for name, shares in found["metrics"].items() for row in shares]
    show(found if as_json else rows, as_json, title=f"{deployment} by {by}: {found['status']}", columns=["metric", "group", "value", "ratio", "of", "status", "beside the best"])
