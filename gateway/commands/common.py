"""What the commands share: the client, tables and JSON, waiting with a bar."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click
import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.client import Client
from stream.settings import Settings, read_settings

# what the log holds is shown as it is; a pipe has room for all of it
out = Console(highlight=False, markup=False, emoji=False, width=shutil.get_terminal_size((160, 24)).columns)
BLOCKS = "▁▂▃▄▅▆▇█"
WIDE, NARROW = 40, 8  # blocks of a line
WORD, GAP = 21, 2  # characters of a cell that is not broken, and between two
ONLY_SQL = "champion.only_sql"
AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")


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
    cells = {name: [cell(name, row.get(name)) for row in rows] for name in names}
    needs = {name: max(len(name), min(max(map(len, cells[name])), WORD)) + GAP for name in names}
    shown = names.copy()
    while sum(needs[name] for name in shown) - GAP > out.width and len(shown) > 1:
        shown.pop()
    table = Table(title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in shown:
        right = any(isinstance(row.get(name), int | float) and not isinstance(row.get(name), bool) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if right else "left", overflow="fold", no_wrap=max(map(len, cells[name])) <= WORD)
    for row in zip(*(cells[name] for name in shown), strict=True):
        table.add_row(*row)
    out.print(table)
    if shown != names:
        out.print(f"no room for: {', '.join(name.replace('_', ' ') for name in names[len(shown) :])} (a wider terminal or --json)")


def cell(name: str, value: Any) -> str:
    """A value for people."""
    if value is None or value == "":
        return "–"
    if name in {"model_id", "champion"} and isinstance(value, str) and len(value) > 12 and " " not in value:  # noqa: PLR2004
        return value[:12]
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"  # noqa: PLR2004
    if isinstance(value, list):
        return ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return str(value)


def spark(values: Iterable[float | None]) -> str:
    """Values over time as a line of blocks, from 0 or the least to the greatest; a gap where there is none. Of more values than a terminal has room for, means of neighbours.

    >>> spark([0.0, 1.0, None, 7.0])
    '▁▂ █'
    """
    shown = list(values)
    most = WIDE if out.width >= WIDE * 3 else NARROW
    if len(shown) > most:
        edges = [k * len(shown) // most for k in range(most + 1)]
        groups = [[v for v in shown[a:b] if v is not None] for a, b in itertools.pairwise(edges)]
        shown = [sum(group) / len(group) if group else None for group in groups]
    known = [v for v in shown if v is not None]
    low, high = min([0.0, *known]), max(known, default=0.0)
    steps = len(BLOCKS) - 1
    return "".join(" " if v is None else BLOCKS[round((v - low) / (high - low) * steps) if high > low else 0] for v in shown)


def bar(value: float | None, most: float = 1.0, width: int = 20) -> str:
    """A share of `most` as a bar; empty where there is none."""
    return "" if value is None or most <= 0 else "█" * round(min(max(value / most, 0.0), 1.0) * width)


def selects(answer: Any) -> Iterator[str]:
    """The SELECTs behind an answer, each once, in its order."""
    seen: set[str] = set()

    def walk(part: Any, name: str) -> Iterator[str]:
        if isinstance(part, str):
            if (name == "sql" or name.endswith("_sql")) and part and part not in seen:
                seen.add(part)
                yield part
        elif isinstance(part, dict):
            for key, value in part.items():
                yield from walk(value, name if name == "sql" else key)
        elif isinstance(part, list):
            for value in part:
                yield from walk(value, name)

    yield from walk(answer, "")


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


def brief(deployment: dict[str, Any]) -> dict[str, Any]:
    """A deployment on one line."""
    return {
        "name": deployment["name"],
        "state": deployment["state"],
        "version": deployment["version"],
        "champion": f"{deployment['champion']['model_id'][:12]} {deployment['champion']['blueprint']}",
        "challengers": [f"{c['model_id'][:12]} {c['blueprint']}" for c in deployment["challengers"]],
    }


def wait_for_job(api: Client, deployment: str, job_id: str, quiet: bool) -> dict[str, Any]:
    """Wait until a job is over."""
    with out.status(f"job {job_id}") if not quiet else contextlib.nullcontext() as shown:
        while True:
            job = next((j for j in api.items(f"/v1/deployments/{deployment}/jobs") if j["job_id"] == job_id), None)
            if job is not None and job["state"] in {"finished", "failed", "cancelled"}:
                return dict(job)
            if shown is not None and job is not None:
                shown.update(f"job {job_id}: {job['progress']:.0%}")
            time.sleep(0.3)


def only_sql(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Remember that only the SELECTs are wanted."""
    context.meta[ONLY_SQL] = value


def of_window(deployment: str, what: str, start: str, end: str, bucket: str, segment: str, at: str, model: str = "", **more: str) -> Any:
    """An answer about a deployment's window; with --sql its SELECTs are printed, and that is all."""
    answer = client().call("GET", f"/v1/deployments/{deployment}/{what}", query={"from": start, "to": end, "bucket": bucket, "segment": segment, "as_of": at, "model_id": model, **more})
    context = click.get_current_context()
    if context.meta.get(ONLY_SQL):
        click.echo(";\n\n".join(selects(answer)) + ";")
        context.exit()
    return answer


def window_options(command: Any) -> Any:
    """--from, --to, --bucket, --segment and --at."""
    for option in (
        click.option("--from", "start", default=""),
        click.option("--to", "end", default=""),
        click.option("--bucket", default="1d"),
        click.option("--segment", default="", help="Of these rows only: carrier=UA, distance>=1000, consumer=mobile, sql:EXPRESSION."),
        click.option("--at", default="", help="As it was known at this time."),
        click.option("--sql", is_flag=True, expose_value=False, callback=only_sql, help="The SELECTs that give these numbers, and nothing else."),
    ):
        command = option(command)
    return command
