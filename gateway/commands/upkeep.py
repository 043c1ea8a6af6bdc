"""Commands that erase rows and send dead letters again."""

from __future__ import annotations

import click

from gateway.commands.common import AS_JSON, client, out, show


@click.command()
@click.argument("deployment")
@click.option("--association-id", default="", help="Erase the rows of this id.")
@click.option("--everything", is_flag=True, help="Erase all rows of a deployment that is deleted or archived.")
@click.confirmation_option(prompt="Erased rows cannot be brought back. Erase?")
@AS_JSON
def erase(deployment: str, association_id: str, everything: bool, as_json: bool) -> None:
    """Delete rows for good: from tables, dead letters and kept training sets.

    Example: champion erase flights --association-id UA-1545 --yes
    """
    api = client()
    asked = api.post(f"/v1/deployments/{deployment}/erasures", {"association_id": association_id, "everything": everything})
    with out.status("waiting for the log"):
        api.get("/v1/deployments", after=asked["position"])
    show([asked], as_json)


@click.command("dead-letters")
@click.option("--topic", default="", help="Of this topic only.")
@click.option("--id", "ids", multiple=True, help="This letter; may be given several times.")
@click.option("--replay", is_flag=True, help="Send them again to where they came from.")
@AS_JSON
def dead_letters(topic: str, ids: tuple[str, ...], replay: bool, as_json: bool) -> None:
    """List messages that could not be handled; with --replay send them again.

    Example: champion dead-letters --topic actuals --replay
    """
    api = client()
    if replay:
        show([api.post("/v1/dead-letters/replays", {"letters": list(ids)} if ids else {"topic": topic})], as_json)
        return
    found = [row for row in api.get("/v1/dead-letters", topic=topic)["items"] if not ids or row["letter_id"] in ids]
    columns = ["letter_id", "recorded_at", "topic", "partition_id", "offset", "size", "reason"]
    show(found if as_json else [{**row, "recorded_at": row["recorded_at"][:19], "reason": row["reason"][:80]} for row in found], as_json, columns=columns)


@click.command()
@click.option("--cluster", required=True, help="The cluster's name in ClickHouse's configuration.")
def ddl(cluster: str) -> None:
    """Print the tables for a sharded and replicated ClickHouse cluster.

    Example: champion ddl --cluster main > champion.sql
    """
    from stream.migrations import on_cluster

    click.echo(";\n\n".join(on_cluster(cluster)) + ";")


@click.group()
def dataset() -> None:
    """Training sets that were made of the log.

    Example: champion dataset rebuild 3f2a1b
    """


@dataset.command("rebuild")
@click.argument("project")
@AS_JSON
def dataset_rebuild(project: str, as_json: bool) -> None:
    """Make a retraining's set again and compare it byte for byte; exits 1 on a difference.

    Example: champion dataset rebuild 3f2a1b
    """
    found = client().post(f"/v1/projects/{project}/training-set/rebuild")
    show([found], as_json)
    if not found["equal"]:
        raise SystemExit(1)
