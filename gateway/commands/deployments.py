"""Commands about deployments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from gateway.client import Client, Refusal
from gateway.commands.common import AS_JSON, board, brief, client, out, show, wait_for_job
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
@click.option("--query", default="", help="Predict the rows of this SELECT instead of a file's; needs --from, and -o or --to.")
@click.option("--from", "source", default="", help="The ClickHouse that the query is asked of: http://user:password@host:8123/database.")
@click.option("--to", "target", default="", help="Put the answers into --table of this ClickHouse.")
@click.option("--table", default="", help="With --to: the table; it is made where there is none.")
@click.option("--unmonitored", is_flag=True, help="Record the rows, and keep them out of drift, accuracy, service health and challengers.")
@AS_JSON
def predict(deployment: str, file: Path | None, output: Path | None, query: str, source: str, target: str, table: str, unmonitored: bool, as_json: bool) -> None:
    """Predict the rows of a CSV, Parquet or Arrow file of any size, or of a query; run again after a break, it goes on.

    Example: champion predict flights new.parquet -o scored.parquet
    """
    if bool(target) != bool(table) or (file is None and not (query and source and (output or target))):
        raise click.UsageError("give a FILE, or --query, --from, and -o or --to; --to and --table go together")
    from gateway import batch

    api = client()
    try:
        asked = None
        if file is None:
            file = asked = batch.asked_of(source, query, output or Path(f"{table}.parquet"))
        if output is None and not target:
            print_some(api, deployment, file, as_json, monitored=not unmonitored)
            return
        run = batch.run_of(deployment, file, monitored=not unmonitored)
        written = output or Path(f"{table}.{run}.parquet")
        found: dict[str, Any] = {}
        if output is not None or not written.exists():  # what was scored for a table alone is not scored again
            with Progress(TextColumn("{task.completed:,} rows"), TimeElapsedColumn(), console=out, disable=as_json) as bar:
                task = bar.add_task("", total=None)
                found = dict(batch.score(api, deployment, file, written, told=lambda done: bar.update(task, completed=done), monitored=not unmonitored))
        if target:
            found |= batch.into_table(target, table, written, run)
        if output is None:
            written.unlink()
        if asked is not None:
            asked.unlink()
    except ModelsError as error:
        raise Refusal(422, error.code, str(error)) from error
    where = table if target else str(output)
    show({**found, "output": where}, as_json=True) if as_json else out.print(f"{found['rows']:,} rows written to {where}" + (f", {found['errors']:,} of them with an error" if "errors" in found else ""))


def print_some(api: Client, deployment: str, file: Path, as_json: bool, *, monitored: bool) -> None:
    """The answers of a file's rows, in the terminal."""
    from gateway import batch

    run = new_id()[:12]
    answers: list[dict[str, object]] = []
    for number, piece in enumerate(batch.pieces(file, batch.ROWS)):
        answers.extend(batch.answered(api, deployment, piece, f"{run}-{number}", len(answers), monitored=monitored))
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
