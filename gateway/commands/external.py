"""Commands for models that predict elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from gateway.client import Refusal
from gateway.commands.common import AS_JSON, client, show
from models.errors import DataError, ModelsError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", required=True)
@click.option("--prediction", required=True, help="The column with the values (or the positive class's probabilities), or what the columns of the classes begin with.")
@click.option("--name", default="external")
@click.option("--association-id", default=None)
@click.option("--timestamp", default=None)
@click.option("--exclude", default="", help="Columns, separated by commas.")
@AS_JSON
def register(file: Path, target: str, prediction: str, name: str, exclude: str, as_json: bool, **options: Any) -> None:
    """Register a model that predicts elsewhere, by a file with inputs, actuals and what it said: its reference.

    Example: champion register scored.parquet --target late --prediction p_late --name "the old scorecard"
    """
    form = {"target": target, "prediction": prediction, "name": name, "exclude": exclude, **options}
    fields = [(k, v) for k, v in form.items() if v] + [("file", (file.name, file.read_bytes(), "application/octet-stream"))]
    found = client().call("POST", "/v1/models/external", form=fields)
    show(found if as_json else [{k: found[k] for k in ("model_id", "blueprint", "task", "target", "metric", "holdout", "rows")}], as_json)


@click.command()
@click.argument("deployment")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--prediction", required=True, help="As `champion register` has it.")
@AS_JSON
def report(deployment: str, file: Path, prediction: str, as_json: bool) -> None:
    """Hand in what a model elsewhere predicted: a CSV, Parquet or Arrow file of rows with their predictions.

    Example: champion report scorecard july.parquet --prediction p_late
    """
    from gateway import batch

    api = client()
    run = hashlib.sha256(f"{deployment}:{file.resolve()}:{file.stat().st_size}:{file.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    rows = 0
    try:
        for number, piece in enumerate(batch.pieces(file, batch.ROWS)):
            said = [taken(row, prediction) for row in piece]
            key = f"report-{run}-{number}"
            api.call("POST", f"/v1/deployments/{deployment}/predictions/external", {"rows": piece, "predictions": said}, headers={"X-Request-ID": key, "Idempotency-Key": key})
            rows += len(piece)
    except ModelsError as error:
        raise Refusal(422, error.code, str(error)) from error
    show({"rows": rows}, as_json)


def taken(row: dict[str, Any], prediction: str) -> float | dict[str, float]:
    """A row's prediction, taken out of it: what is left are the inputs. DataError where it is none."""
    from models.external import prediction_columns

    names = prediction_columns(row, prediction)
    try:
        values = {name: float(row.pop(name)) for name in names}
    except ValueError as error:
        raise DataError("wrong_prediction", f"{prediction}: {error}") from error
    return values[prediction] if names == [prediction] else {n.removeprefix(prediction): v for n, v in values.items()}
