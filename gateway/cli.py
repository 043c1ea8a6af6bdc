"""The command line on top of the client: tables for people, `--json` for programs."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.client import Client, Refusal
from stream.errors import SettingsError
from stream.settings import Settings, read_settings

out = Console(highlight=False)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")


class Commands(click.Group):
    """Turns refusals into one line and a non-zero exit."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except Refusal as error:
            click.echo(f"refused: {error} ({error.code})", err=True)
            for detail in error.details[:5]:
                click.echo(f"  {detail}", err=True)
            sys.exit(1)
        except (SettingsError, FileNotFoundError) as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option("0.1.0", prog_name="champion")
def main() -> None:
    """Champion: an event-sourced gateway for tabular machine learning."""


def settings() -> Settings:
    """The settings of this process."""
    return read_settings()


def client() -> Client:
    """A client of the gateway that CHAMPION_URL names."""
    found = settings()
    return Client(found.url, found.api_key)


def show(data: Any, as_json: bool, *, title: str = "", columns: list[str] | None = None) -> None:
    """A table of rows, or JSON."""
    if as_json:
        click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
        return
    rows = data if isinstance(data, list) else data.get("items", [data])
    if not rows:
        out.print("nothing there yet")
        return
    names = columns or list(dict.fromkeys(k for row in rows for k in row))
    table = Table(title=title or None, header_style="bold")
    for name in names:
        right = any(isinstance(row.get(name), int | float) and not isinstance(row.get(name), bool) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(name, row.get(name)) for name in names))
    out.print(table)


def cell(name: str, value: Any) -> str:
    """A value for people."""
    if value is None or value == "":
        return "–"
    if name in {"model_id", "champion"} and isinstance(value, str) and len(value) > 12:  # noqa: PLR2004
        return value[:12]
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"  # noqa: PLR2004
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return str(value)


def logging_to_stderr() -> None:
    """Services log to standard error."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for noisy in ("aiokafka", "faust", "mode", "kafka"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "aiokafka" else logging.WARNING)


@main.command()
def up() -> None:
    """Start everything embedded: broker, event log, worker, gateway, trainer.

    Example: champion up
    """
    from gateway.up import up as run
    from stream.embedded.supervisor import AlreadyRunning

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        asyncio.run(run(settings(), click.echo))
    except AlreadyRunning as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


@main.command()
@click.option("--number", default=0, hidden=True)
def gateway(number: int) -> None:
    """Run a gateway process.

    Example: CHAMPION_KAFKA_URL=kafka:9092 CHAMPION_CLICKHOUSE_URL=http://clickhouse:8123 champion gateway
    """
    import uvloop

    from gateway.app import serve

    logging_to_stderr()
    uvloop.run(serve(settings(), number=number))


@main.command()
def worker() -> None:
    """Run a stream worker.

    Example: CHAMPION_KAFKA_URL=kafka:9092 CHAMPION_CLICKHOUSE_URL=http://clickhouse:8123 champion worker
    """
    from gateway.up import writer_key
    from stream.worker import Worker

    logging_to_stderr()
    found = settings()
    asyncio.run(_async(lambda: Worker(found, writer_key(found.data_dir) if found.embedded_eventlog else "").run()))


@main.command()
def trainer() -> None:
    """Run a trainer.

    Example: CHAMPION_KAFKA_URL=kafka:9092 CHAMPION_CLICKHOUSE_URL=http://clickhouse:8123 champion trainer
    """
    from gateway.up import writer_key
    from stream.trainer import Trainer

    logging_to_stderr()
    found = settings()
    asyncio.run(_async(lambda: Trainer(found, writer_key(found.data_dir) if found.embedded_eventlog else "").run()))


async def _async(make: Any) -> None:
    """Make an object inside the loop and run it: queues and locks belong to a loop."""
    await make()


@main.command()
def eventlog() -> None:
    """Serve the embedded ClickHouse engine over ClickHouse's HTTP interface.

    Example: CHAMPION_EVENTLOG_PORT=8123 champion eventlog
    """
    from gateway.up import writer_key
    from stream.embedded.eventlog import serve

    logging_to_stderr()
    found = settings()
    asyncio.run(serve(found.data_dir.resolve() / "eventlog", "127.0.0.1", found.eventlog_port, writer_key(found.data_dir)))


@main.command()
@click.option("--exit", "leave", is_flag=True, help="Stop at the end; the exit code tells whether every step held.")
@click.option("--rows", default=0, help="Stream at most so many flights (0: all).")
def demo(leave: bool, rows: int) -> None:
    """Tell the whole story on real data: flights and songs.

    Example: champion demo --exit
    """
    from gateway.demo import main as run

    sys.exit(run(leave=leave, rows=rows))


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", required=True)
@click.option("--timestamp", default=None)
@click.option("--task", default=None)
@AS_JSON
def analyze(file: Path, target: str, timestamp: str | None, task: Any, as_json: bool) -> None:
    """Analyse a file's features for a target, leakage included; needs no gateway.

    Example: champion analyze flights.csv --target late
    """
    from models.analysis import analyze as run
    from models.autopilot import features_json
    from models.errors import ModelsError
    from models.table import read_table

    try:
        found = run(read_table(file, file.name), target, task=task, timestamp=timestamp)
    except ModelsError as error:
        raise Refusal(422, error.code, str(error)) from error
    rows = features_json(found)
    if as_json:
        show({"features": rows, "notes": list(found.notes)}, as_json=True)
        return
    for row in rows:
        row["why"] = "; ".join([*row["reasons"], *row["warnings"]])
    rows.sort(key=lambda r: -r["importance"])
    show(rows, as_json, title=f"{target}: {found.target.task}", columns=["name", "kind", "missing", "unique", "importance", "leakage", "why"])


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", required=True)
@click.option("--name", default=None)
@click.option("--minutes", type=float, default=None)
@click.option("--metric", default=None)
@click.option("--association-id", default=None)
@click.option("--timestamp", default=None)
@click.option("--exclude", default="", help="Columns, separated by commas.")
@click.option("--drop-leakage", default="high", type=click.Choice(["none", "high", "all"]))
@AS_JSON
def train(file: Path, target: str, exclude: str, as_json: bool, **options: Any) -> None:
    """Run AutoPilot on a CSV or Parquet file and wait for the leaderboard.

    Example: champion train flights.csv --target late --timestamp time_hour
    """
    api = client()
    names = [name.strip() for name in exclude.split(",") if name.strip()]
    project_id = api.create_project(file, target, exclude=names, **options)
    project = follow(api, project_id, quiet=as_json)
    if project["state"] != "completed":
        error = project.get("error", {"code": project["state"], "message": project["state"]})
        raise Refusal(422, error["code"], error["message"])
    board(api, project_id, as_json)


def follow(api: Client, project_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Show a project's progress until it is over."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=out, disable=quiet, transient=False)
    with bar:
        task = bar.add_task("queued", total=1.0)
        return api.wait_for_project(project_id, lambda p: bar.update(task, completed=p["progress"], description=(p["message"] or p["state"])[:60]))


def board(api: Client, project_id: str, as_json: bool) -> None:
    """Print a leaderboard."""
    found = api.get(f"/v1/projects/{project_id}/leaderboard")
    if as_json:
        show({"project_id": project_id, **found}, as_json=True)
        return
    columns = ["model_id", "blueprint", "validation", "holdout", "ms_per_row", "train_seconds", "rows", "recommended"]
    show(found["models"], as_json, title=f"project {project_id}: {found['metric']}, {found['partition']}", columns=columns)
    for note in found["notes"]:
        out.print(f"· {note}")


@main.command()
@click.argument("project")
@AS_JSON
def leaderboard(project: str, as_json: bool) -> None:
    """Show a project's ranked models.

    Example: champion leaderboard 3f2a…
    """
    board(client(), project, as_json)


@main.command()
@AS_JSON
def models(as_json: bool) -> None:
    """List the registered models.

    Example: champion models
    """
    show(list(client().items("/v1/models")), as_json, columns=None if as_json else ["model_id", "blueprint", "target", "task", "validation", "holdout", "project_id"])


@main.command()
@click.argument("model_id")
@AS_JSON
def model(model_id: str, as_json: bool) -> None:
    """Show everything known of one model.

    Example: champion model 3f2a1b
    """
    found = client().get(f"/v1/models/{model_id}")
    if as_json:
        show(found, as_json=True)
        return
    show([{"field": k, "value": v} for k, v in found.items() if k not in {"inputs", "importance", "metrics"}], as_json)
    show([{"input": k, "importance": v} for k, v in sorted(found["importance"].items(), key=lambda t: -t[1])], as_json)
    show([{"metric": k, "holdout": v} for k, v in found["metrics"].items()], as_json)


@main.command()
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


def brief(deployment: dict[str, Any]) -> dict[str, Any]:
    """A deployment on one line."""
    return {
        "name": deployment["name"],
        "state": deployment["state"],
        "version": deployment["version"],
        "champion": f"{deployment['champion']['model_id'][:12]} {deployment['champion']['blueprint']}",
        "challengers": [f"{c['model_id'][:12]} {c['blueprint']}" for c in deployment["challengers"]],
    }


@main.command()
@click.argument("deployment")
@click.argument("model_id")
@click.option("--fraction", default=1.0)
@AS_JSON
def challenge(deployment: str, model_id: str, fraction: float, as_json: bool) -> None:
    """Score a model on the same rows in the shadow.

    Example: champion challenge flights 9c0d1e
    """
    show(brief(client().post(f"/v1/deployments/{deployment}/challengers", {"model_id": model_id, "fraction": fraction})), as_json)


@main.command()
@click.argument("deployment")
@click.argument("model_id")
@click.option("--reason", required=True)
@AS_JSON
def promote(deployment: str, model_id: str, reason: str, as_json: bool) -> None:
    """Make a model the champion.

    Example: champion promote flights 9c0d1e --reason "better since September"
    """
    show(brief(client().call("PUT", f"/v1/deployments/{deployment}/champion", {"model_id": model_id, "reason": reason})), as_json)


@main.command()
@click.argument("deployment")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None)
@AS_JSON
def predict(deployment: str, file: Path, output: Path | None, as_json: bool) -> None:
    """Predict the rows of a CSV file.

    Example: champion predict flights new.csv -o scored.csv
    """
    found = client().call("POST", f"/v1/deployments/{deployment}/predictions", file.read_bytes(), headers={"Content-Type": "text/csv"})
    rows = [{k: v for k, v in p.items() if k not in {"probabilities", "warnings"}} | {f"p_{c}": v for c, v in (p.get("probabilities") or {}).items()} for p in found["predictions"]]
    if output is not None:
        import csv

        names = list(dict.fromkeys(k for row in rows for k in row))
        with output.open("w", newline="") as sink:
            writer = csv.DictWriter(sink, names)
            writer.writeheader()
            writer.writerows(rows)
        click.echo(f"{len(rows)} rows written to {output}")
        return
    show(found if as_json else rows[:20], as_json)
    if not as_json and len(rows) > 20:  # noqa: PLR2004
        out.print(f"… and {len(rows) - 20} more; -o FILE writes them all")


@main.command()
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


@main.command()
@click.argument("deployment", required=False)
@AS_JSON
def status(deployment: str | None, as_json: bool) -> None:
    """Show a deployment's state, health, drift and accuracy; without a name, all of them.

    Example: champion status flights
    """
    api = client()
    found = [api.get(f"/v1/deployments/{deployment}")] if deployment else list(api.items("/v1/deployments"))
    rows = []
    for item in found:
        path = f"/v1/deployments/{item['name']}"
        health, drifting, accurate = api.get(path + "/service-health", bucket="1d"), api.get(path + "/drift", bucket="1d"), api.get(path + "/accuracy", bucket="1d")
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
    show(rows, as_json)


def window_options(command: Any) -> Any:
    """--from, --to and --bucket."""
    for option in (
        click.option("--from", "start", default=""),
        click.option("--to", "end", default=""),
        click.option("--bucket", default="1d"),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("deployment")
@window_options
@AS_JSON
def drift(deployment: str, start: str, end: str, bucket: str, as_json: bool) -> None:
    """Show the drift of each input and of the prediction.

    Example: champion drift flights --from 2013-09-01
    """
    found = client().call("GET", f"/v1/deployments/{deployment}/drift", query={"from": start, "to": end, "bucket": bucket})
    rows = [*found["totals"]["features"], found["totals"]["prediction"]]
    show(found if as_json else rows, as_json, title=f"{deployment}: {found['status']}", columns=["name", "psi", "status", "importance", "rows"])


@main.command()
@click.argument("deployment")
@window_options
@click.option("--model", default="")
@AS_JSON
def accuracy(deployment: str, start: str, end: str, bucket: str, model: str, as_json: bool) -> None:
    """Show the metrics on matched rows, against the holdout.

    Example: champion accuracy flights --bucket 7d
    """
    found = client().call("GET", f"/v1/deployments/{deployment}/accuracy", query={"from": start, "to": end, "bucket": bucket, "model_id": model})
    if as_json:
        show(found, as_json=True)
        return
    totals = found["totals"]
    rows = [{"metric": name, **m} for name, m in totals["metrics"].items()]
    show(rows, as_json, title=f"{deployment}: {found['status']}; {totals['matched']:,} matched, {totals['waiting']:,} waiting")
    show([{"at": b["at"][:16], "rows": b["rows"], **{k: b["metrics"][k] for k in list(b["metrics"])[:4]}} for b in found["buckets"]], as_json)


@main.command()
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


def wait_for_job(api: Client, deployment: str, job_id: str, quiet: bool) -> dict[str, Any]:
    """Wait until a job is over."""
    with out.status(f"job {job_id}") if not quiet else open("/dev/null"):  # noqa: PTH123, SIM115 - a context that does nothing
        while True:
            job = next((j for j in api.items(f"/v1/deployments/{deployment}/jobs") if j["job_id"] == job_id), None)
            if job is not None and job["state"] in {"finished", "failed"}:
                return dict(job)
            time.sleep(0.3)


@main.command()
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


@main.command()
@click.option("--follow", "following", is_flag=True)
@click.option("--type", "kind", default="")
@click.option("--deployment", default="")
@click.option("--limit", default=50)
@AS_JSON
def events(following: bool, kind: str, deployment: str, limit: int, as_json: bool) -> None:
    """Show the audit trail.

    Example: champion events --follow
    """
    api = client()
    found = api.get("/v1/events", type=kind, deployment=deployment, limit=limit)["items"][::-1]
    last = found[-1]["sequence"] if found else 0
    if not following:
        rows = found if as_json else [{"at": e["occurred_at"][:19], "type": e["type"], "deployment": e["deployment"], "actor": e["actor"], "payload": str(e["payload"])[:80]} for e in found]
        show(rows, as_json)
        return
    while True:
        for event in found:
            click.echo(orjson.dumps(event).decode() if as_json else f"{event['occurred_at'][:19]}  {event['type']:<26} {event['deployment']:<16} {str(event['payload'])[:100]}")
            last = max(last, event["sequence"])
        time.sleep(0.5)
        found = api.get("/v1/events", type=kind, deployment=deployment, order="oldest", cursor=last)["items"]


@main.command()
@click.argument("query")
@AS_JSON
def sql(query: str, as_json: bool) -> None:
    """Ask the event log in SQL.

    Example: champion sql "SELECT deployment, count() FROM predictions GROUP BY deployment"
    """
    show(client().sql(query), as_json)


@main.group()
def keys() -> None:
    """Make and remove API keys (on the gateway's own data folder).

    Example: champion keys add analysts
    """


@keys.command("add")
@click.argument("name")
def keys_add(name: str) -> None:
    """Make a key and show it once.

    Example: champion keys add analysts
    """
    from gateway.auth import KeyStore

    click.echo(KeyStore(settings().data_dir / "keys.json").add(name))


@keys.command("list")
@AS_JSON
def keys_list(as_json: bool) -> None:
    """Show whose keys there are.

    Example: champion keys list
    """
    from gateway.auth import KeyStore

    show([{"name": n, "sha256": h[:12]} for h, n in KeyStore(settings().data_dir / "keys.json").hashes.items()], as_json)


@keys.command("remove")
@click.argument("name")
def keys_remove(name: str) -> None:
    """Forget the keys of a name.

    Example: champion keys remove analysts
    """
    from gateway.auth import KeyStore

    click.echo(f"{KeyStore(settings().data_dir / 'keys.json').remove(name)} removed")


@main.command()
@click.argument("deployment")
@click.option("--lang", default="python", type=click.Choice(["python", "curl", "javascript"]))
def snippet(deployment: str, lang: str) -> None:
    """Print code that asks a deployment for a prediction.

    Example: champion snippet flights --lang curl
    """
    from gateway.snippets import snippet_of

    api = client()
    champion = api.get(f"/v1/deployments/{deployment}")["champion"]["model_id"]
    inputs = api.get(f"/v1/models/{champion}")["inputs"]
    click.echo(snippet_of(settings().url, deployment, inputs, lang))
