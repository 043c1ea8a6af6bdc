"""Commands about deployments."""

from __future__ import annotations

import csv
from pathlib import Path

import click

from gateway.client import Refusal
from gateway.commands.common import AS_JSON, board, brief, client, out, show, wait_for_job, window_options


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
@click.argument("model_id")
@click.option("--fraction", default=1.0)
@AS_JSON
def challenge(deployment: str, model_id: str, fraction: float, as_json: bool) -> None:
    """Score a model on the same rows in the shadow.

    Example: champion challenge flights 9c0d1e
    """
    show(brief(client().post(f"/v1/deployments/{deployment}/challengers", {"model_id": model_id, "fraction": fraction})), as_json)


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
@window_options
@AS_JSON
def drift(deployment: str, start: str, end: str, bucket: str, as_json: bool) -> None:
    """Show the drift of each input and of the prediction.

    Example: champion drift flights --from 2013-09-01
    """
    found = client().call("GET", f"/v1/deployments/{deployment}/drift", query={"from": start, "to": end, "bucket": bucket})
    rows = [*found["totals"]["features"], found["totals"]["prediction"]]
    show(found if as_json else rows, as_json, title=f"{deployment}: {found['status']}", columns=["name", "psi", "status", "importance", "rows"])


@click.command()
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
