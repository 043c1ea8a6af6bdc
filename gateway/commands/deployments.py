"""Commands about deployments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from gateway import batch
from gateway.client import Refusal
from gateway.commands.common import AS_JSON, board, brief, client, out, show, wait_for_job, window_options
from models.errors import ModelsError
from stream.events import new_id


@click.command()
@click.argument("model_id")
@click.option("--name", required=True)
@click.option("--association-id", default="", help="The column that ties a prediction to its actual.")
@click.option("--timestamp", default="", help="The column that holds a row's event time.")
@AS_JSON
def deploy(model_id: str, name: str, association_id: str, timestamp: str, as_json: bool) -> None:
    """Deploy a model under a name.

    Example: champion deploy 3f2a1b --name flights
    """
    body = {"name": name, "model_id": model_id, "association_id": association_id}
    if timestamp:
        body["timestamp"] = timestamp
    show(brief(client().post("/v1/deployments", body)), as_json)


@click.command()
@click.argument("deployment")
@click.argument("model_id", required=False)
@click.option("--fraction", default=1.0)
@click.option("--online", default="", help="Bear a model that learns from each outcome: linear, naive_bayes, hoeffding_tree or adaptive_random_forest.")
@AS_JSON
def challenge(deployment: str, model_id: str | None, fraction: float, online: str, as_json: bool) -> None:
    """Score a model on the same rows in the shadow; with --online, one that learns.

    Example: champion challenge flights 9c0d1e
    """
    body = {"online": online} if online else {"model_id": model_id, "fraction": fraction}
    show(brief(client().post(f"/v1/deployments/{deployment}/challengers", body)), as_json)


@click.command()
@click.argument("deployment")
@click.argument("model_id")
@click.option("--reason", required=True)
@AS_JSON
def promote(deployment: str, model_id: str, reason: str, as_json: bool) -> None:
    """Make a model the champion.

    Example: champion promote flights 9c0d1e --reason "better since September"
    """
    show(brief(client().call("PUT", f"/v1/deployments/{deployment}/champion", {"model_id": model_id, "reason": reason})), as_json)


@click.command()
@click.argument("deployment")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Where the answers go: .csv, .parquet or .arrow.")
@click.option("--query", default="", help="Predict the rows of this SELECT instead of a file's; needs --from and -o.")
@click.option("--from", "source", default="", help="The ClickHouse that the query is asked of: http://user:password@host:8123/database.")
@click.option("--unmonitored", is_flag=True, help="Record the rows, and keep them out of drift, accuracy, service health and challengers.")
@AS_JSON
def predict(deployment: str, file: Path | None, output: Path | None, query: str, source: str, unmonitored: bool, as_json: bool) -> None:
    """Predict the rows of a CSV, Parquet or Arrow file of any size, or of a query; run again after a break, it goes on.

    Example: champion predict flights new.parquet -o scored.parquet
    """
    api = client()
    try:
        asked = None
        if file is None:
            if not (query and source and output):
                raise click.UsageError("give a FILE, or --query, --from and -o")
            file = asked = batch.asked_of(source, query, output)
        if output is not None:
            with Progress(TextColumn("{task.completed:,} rows"), TimeElapsedColumn(), console=out, disable=as_json) as bar:
                task = bar.add_task("", total=None)
                found = batch.score(api, deployment, file, output, told=lambda done: bar.update(task, completed=done), monitored=not unmonitored)
            if asked is not None:
                asked.unlink()
            show({**found, "output": str(output)}, as_json=True) if as_json else out.print(f"{found['rows']:,} rows written to {output}, {found['errors']:,} of them with an error")
            return
        run = new_id()[:12]
        answers: list[dict[str, object]] = []
        for number, piece in enumerate(batch.pieces(file, batch.ROWS)):
            answers.extend(batch.answered(api, deployment, piece, f"{run}-{number}", len(answers), monitored=not unmonitored))
    except ModelsError as error:
        raise Refusal(422, error.code, str(error)) from error
    show({"predictions": answers} if as_json else [{k: v for k, v in row.items() if v is not None and k != "model_id"} for row in answers[:20]], as_json)
    if not as_json and len(answers) > 20:  # noqa: PLR2004
        out.print(f"… and {len(answers) - 20:,} more; -o FILE writes them all")


@click.command()
@click.argument("deployment")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@AS_JSON
def actuals(deployment: str, file: Path, as_json: bool) -> None:
    """Hand in outcomes from a CSV file with association_id, actual and, optionally, timestamp.

    Example: champion actuals flights landed.csv
    """
    found = client().call("POST", f"/v1/deployments/{deployment}/actuals", file.read_bytes(), headers={"Content-Type": "text/csv"})
    show(found if as_json else [{"accepted": found["accepted"], "rejected": found["rejected_count"], "position": found["position"]}], as_json)
    if not as_json:
        for item in found["rejected"][:10]:
            out.print(f"row {item['row']}: {item['reason']}")


@click.command()
@click.argument("deployment", required=False)
@click.option("--at", default="", help="As it was known at this time.")
@AS_JSON
def status(deployment: str | None, at: str, as_json: bool) -> None:
    """Show a deployment's state, health, drift and accuracy; without a name, all of them.

    Example: champion status flights --at 2026-11-01T12:00
    """
    api = client()
    names = [deployment] if deployment else [d["name"] for d in api.items("/v1/deployments")]
    rows = []
    for name in names:
        path = f"/v1/deployments/{name}"
        item = api.get(path, as_of=at)
        health, drifting, accurate = (api.get(f"{path}/{what}", bucket="1d", as_of=at) for what in ("service-health", "drift", "accuracy"))
        totals = accurate["totals"]
        rows.append(
            {
                **brief(item),
                "rows": health["totals"]["rows"],
                "health": health["status"],
                "drift": drifting["status"],
                "accuracy": accurate["status"],
                accurate["metric"]: totals["metrics"][accurate["metric"]]["value"],
                "matched": totals["matched"],
                "waiting": totals["waiting"],
            }
        )
    show(rows, as_json, title=f"as it was known at {at}" if at else "")


@click.command()
@click.argument("deployment", required=False)
@AS_JSON
def verify(deployment: str | None, as_json: bool) -> None:
    """Rebuild every number from the log and compare it with the live one; exits 1 on a difference.

    Example: champion verify flights
    """
    api = client()
    names = [deployment] if deployment else [d["name"] for d in api.items("/v1/deployments")]
    found = [api.get(f"/v1/deployments/{name}/verify") for name in names]
    rows = [{"deployment": f["deployment"], "part": name, **{k: part.get(k) for k in ("rows", "rebuilt", "live", "equal")}} for f in found for name, part in f["parts"].items()]
    show(found if as_json else rows, as_json)
    if not all(f["equal"] for f in found):
        raise SystemExit(1)


def of_window(deployment: str, what: str, start: str, end: str, bucket: str, segment: str, at: str, model: str = "", **more: str) -> Any:
    """An answer about a deployment's window."""
    return client().call("GET", f"/v1/deployments/{deployment}/{what}", query={"from": start, "to": end, "bucket": bucket, "segment": segment, "as_of": at, "model_id": model, **more})


@click.command()
@click.argument("deployment")
@click.option("--reference", default="", help="Instead of the training data: weekdays (the same ones of eight weeks before --from), or FROM..TO.")
@window_options
@AS_JSON
def drift(deployment: str, reference: str, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Show the drift of each input and of the prediction.

    Example: champion drift flights --from 2013-09-01 --reference 2013-07-01..2013-08-01
    """
    found = of_window(deployment, "drift", start, end, bucket, segment, at, reference=reference)
    rows = [*found["totals"]["features"], found["totals"]["prediction"]]
    show(found if as_json else rows, as_json, title=f"{deployment}: {found['status']}", columns=["name", "psi", "status", "importance", "rows"])


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
    show(found if as_json else rows, as_json, title=f"{deployment}: {found['status']}", columns=["input", "status", "missing", "out_of_range", "unseen"])
    if found["refused"] and not as_json:
        show([{"refused": code, "requests": count} for code, count in found["refused"].items()], as_json)


@click.command()
@click.argument("deployment")
@window_options
@click.option("--model", default="")
@AS_JSON
def accuracy(deployment: str, start: str, end: str, bucket: str, segment: str, at: str, model: str, as_json: bool) -> None:
    """Show the metrics on matched rows, against the holdout.

    Example: champion accuracy flights --bucket 7d
    """
    found = of_window(deployment, "accuracy", start, end, bucket, segment, at, model)
    if as_json:
        show(found, as_json=True)
        return
    totals = found["totals"]
    rows = [{"metric": name, **m} for name, m in totals["metrics"].items()]
    show(rows, as_json, title=f"{deployment}: {found['status']}; {totals['matched']:,} matched, {totals['waiting']:,} waiting")
    show([{"at": b["at"][:16], "rows": b["rows"], **{k: b["metrics"][k] for k in list(b["metrics"])[:4]}} for b in found["buckets"]], as_json)


@click.command()
@click.argument("deployment")
@click.option("--payoff", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None, help="First set what predictions are worth: a JSON file {actual: {predicted: value}}.")
@window_options
@AS_JSON
def compare(deployment: str, file: Path | None, start: str, end: str, bucket: str, segment: str, at: str, as_json: bool) -> None:
    """Compare the challengers with the champion on the same matched rows, in metrics and in money.

    Example: champion compare flights --from 2013-07-01
    """
    if file is not None:
        client().call("PATCH", f"/v1/deployments/{deployment}", {"payoff": orjson.loads(file.read_bytes())})
    found = of_window(deployment, "comparison", start, end, bucket, segment, at)
    if as_json:
        show(found, as_json)
        return
    for one in found["challengers"]:
        rows = [{"metric": name, **values} for name, values in one["metrics"].items()]
        if one["payoff"]:
            rows.append({"metric": "payoff a row", **{k: one["payoff"][k]["per_row"] for k in ("champion", "challenger")}, "difference": one["payoff"]["gain"]["per_row"], "interval": one["payoff"].get("interval_per_row"), "better": one["payoff"].get("better")})
        show(rows, as_json, title=f"{one['blueprint']} on {one['rows']:,} rows of the champion's", columns=["metric", "champion", "challenger", "difference", "interval", "better"])


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
    show([{"input": i["name"], "explains": i["explains"], "most": brief_group(i["groups"][:1]), "least": brief_group(i["groups"][1:][-1:])} for i in found["inputs"]], as_json, title=title)
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
    show(found if as_json else found["inputs"], as_json, title=f"{deployment}: {found['rows']:,} explained rows, effects in {found['scale'].replace('_', ' ')}")


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
    found = api.call("GET", path, query={"from": start, "to": end, "bucket": bucket, "segment": segment, "as_of": at})
    show(found if as_json else found["items"], as_json, columns=None if as_json else ["name", "over", "value", "rows"])


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
    query = {"by": by, "favorable": favorable, "from": start, "to": end, "bucket": bucket, "segment": segment, "as_of": at}
    found = client().call("GET", f"/v1/deployments/{deployment}/fairness", query=query)
    rows = [{"metric": name, **row} for name, shares in found["metrics"].items() for row in shares]
    show(found if as_json else rows, as_json, title=f"{deployment} by {by}: {found['status']}", columns=["metric", "group", "value", "ratio", "of", "status"])


@click.command()
@click.argument("deployment")
@click.argument("model_id")
@click.option("--from", "start", required=True)
@click.option("--to", "end", required=True)
@AS_JSON
def replay(deployment: str, model_id: str, start: str, end: str, as_json: bool) -> None:
    """Score stored requests of a window with another model.

    Example: champion replay flights 9c0d1e --from 2013-07-01 --to 2013-08-01
    """
    api = client()
    job = api.post(f"/v1/deployments/{deployment}/replays", {"model_id": model_id, "from": start, "to": end})
    show(wait_for_job(api, deployment, job["replay_id"], as_json), as_json)


@click.command()
@click.argument("deployment")
@click.option("--from", "start", default="", help="Use requests from this event time on.")
@click.option("--with-original", is_flag=True, help="Add the champion's own training data.")
@click.option("--minutes", type=float, default=None)
@AS_JSON
def retrain(deployment: str, start: str, with_original: bool, minutes: float | None, as_json: bool) -> None:
    """Retrain from stored requests and the actuals known now; the best model enters as challenger.

    Example: champion retrain flights --from 2013-07-01
    """
    api = client()
    job = api.post(f"/v1/deployments/{deployment}/retraining", {"from": start, "with_original": with_original, "minutes": minutes})
    done = wait_for_job(api, deployment, job["retraining_id"], as_json)
    if done["state"] == "failed":
        raise Refusal(422, "retraining_failed", done["result"].get("error", "failed"))
    if as_json:
        show(done, as_json)
    else:
        board(api, job["retraining_id"], as_json)


@click.command()
@click.argument("deployment")
@click.option("--set", "rules", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None, help="Replace the rules by those of a JSON file.")
@click.option("--dry-run", "rehearsed", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None, help="Rehearse the rules of a JSON file on the stored past.")
@click.option("--recommend", is_flag=True, help="Print rules to begin with.")
@click.option("--threshold", type=float, default=None, help="The positive class from this probability on.")
@AS_JSON
def humility(deployment: str, rules: Path | None, rehearsed: Path | None, recommend: bool, threshold: float | None, as_json: bool) -> None:
    """Show humility rules and their hits; set, rehearse or recommend rules.

    Example: champion humility flights --recommend > rules.json
    """
    api, path = client(), f"/v1/deployments/{deployment}"
    if recommend:
        click.echo(orjson.dumps(api.get(path + "/humility/recommended")["rules"], option=orjson.OPT_INDENT_2).decode())
    elif rehearsed is not None:
        found = api.post(path + "/humility/dry-run", {"rules": orjson.loads(rehearsed.read_bytes())})
        show(found if as_json else found["rules"], as_json, title=f"{found['rows']:,} stored rows, {found['matched']:,} with an actual")
        if not as_json and found["metrics"]:
            show([{"metric": name, **values} for name, values in found["metrics"].items()], as_json)
    elif rules is not None:
        show([api.call("PUT", path + "/humility", {"rules": orjson.loads(rules.read_bytes())})], as_json)
    elif threshold is not None:
        show([api.call("PATCH", path, {"threshold": threshold})], as_json)
    else:
        found = api.get(path + "/humility")
        show(found if as_json else found["totals"]["rules"], as_json, title=f"{len(found['rules'])} rules")
