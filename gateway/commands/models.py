"""Commands about data and models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.client import Refusal
from gateway.commands.common import AS_JSON, board, client, follow, show


@click.command()
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
    from models.errors import ModelsError
    from models.packaging import features_json
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


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", required=True)
@click.option("--source", default=None, help="Instead of a file: its URL, or a ClickHouse (http://user:password@host:8123/database) with --query.")
@click.option("--query", default=None, help="The SELECT whose rows are the data.")
@click.option("--name", default=None)
@click.option("--minutes", type=float, default=None)
@click.option("--metric", default=None)
@click.option("--association-id", default=None)
@click.option("--timestamp", default=None)
@click.option("--group", default=None, help="A column whose rows stay together: never in training and validation at once.")
@click.option("--weight", default=None, help="A column that says how much a row counts.")
@click.option("--exclude", default="", help="Columns, separated by commas.")
@click.option("--drop-leakage", default="high", type=click.Choice(["none", "high", "all"]))
@AS_JSON
def train(file: Path | None, target: str, exclude: str, as_json: bool, **options: Any) -> None:
    """Run AutoPilot on a CSV or Parquet file, or on a query's rows, and wait for the leaderboard.

    Example: champion train flights.csv --target late --timestamp time_hour
    """
    api = client()
    names = [name.strip() for name in exclude.split(",") if name.strip()]
    if (file is None) == (options["source"] is None):
        raise click.UsageError("give a FILE, or --source")
    if file is not None:
        project_id = api.create_project(file, target, exclude=names, **{k: v for k, v in options.items() if k not in {"source", "query"}})
    else:
        project_id = api.post("/v1/projects", {"target": target, "exclude": names, **{k: v for k, v in options.items() if v is not None}})["project_id"]
    project = follow(api, project_id, quiet=as_json)
    if project["state"] != "completed":
        error = project.get("error", {"code": project["state"], "message": project["state"]})
        raise Refusal(422, error["code"], error["message"])
    board(api, project_id, as_json)


@click.command()
@click.argument("project")
@AS_JSON
def leaderboard(project: str, as_json: bool) -> None:
    """Show a project's ranked models.

    Example: champion leaderboard 3f2a…
    """
    board(client(), project, as_json)


@click.command()
@AS_JSON
def models(as_json: bool) -> None:
    """List the registered models.

    Example: champion models
    """
    show(list(client().items("/v1/models")), as_json, columns=None if as_json else ["model_id", "blueprint", "target", "task", "validation", "holdout", "project_id"])


@click.command()
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
