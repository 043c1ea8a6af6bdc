"""Commands about the event log, keys and code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import orjson

from gateway.commands.common import AS_JSON, client, settings, show

if TYPE_CHECKING:
    from gateway.auth import KeyStore


@click.command()
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


@click.command()
@click.argument("query")
@AS_JSON
def sql(query: str, as_json: bool) -> None:
    """Ask the event log in SQL.

    Example: champion sql "SELECT deployment, count() FROM predictions GROUP BY deployment"
    """
    show(client().sql(query), as_json)


@click.group()
def keys() -> None:
    """Make and remove API keys (on the gateway's own data folder).

    Example: champion keys add analysts
    """


def key_store() -> KeyStore:
    """The keys of this data dir."""
    from gateway.auth import KeyStore

    return KeyStore(settings().data_dir / "keys.json")


@keys.command("add")
@click.argument("name")
def keys_add(name: str) -> None:
    """Make a key and show it once.

    Example: champion keys add analysts
    """
    click.echo(key_store().add(name))


@keys.command("list")
@AS_JSON
def keys_list(as_json: bool) -> None:
    """Show whose keys there are.

    Example: champion keys list
    """
    show([{"name": n, "sha256": h[:12]} for h, n in key_store().hashes.items()], as_json)


@keys.command("remove")
@click.argument("name")
def keys_remove(name: str) -> None:
    """Forget the keys of a name.

    Example: champion keys remove analysts
    """
    click.echo(f"{key_store().remove(name)} removed")


@click.command()
@click.argument("deployment")
@click.option("--lang", default="python", type=click.Choice(["python", "curl", "javascript"]))
def snippet(deployment: str, lang: str) -> None:
    """Print code that asks a deployment for a prediction.

    Example: champion snippet flights --lang curl
    """
    from gateway.snippets import snippet_of

    api = client()
    champion = api.get(f"/v1/deployments/{deployment}")["champion"]["model_id"]
    click.echo(snippet_of(settings().url, deployment, api.get(f"/v1/models/{champion}"), lang))
