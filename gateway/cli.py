"""The command line on top of the client: tables for people, `--json` for programs."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import click

from gateway.client import Refusal
from gateway.commands import deployments, external, log, models, monitoring, upkeep, watching
from gateway.commands.common import settings
from stream.errors import SettingsError


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
@click.option("--rows", default=0, help="Stream about so many flights (0: all).")
@click.option("--kill", is_flag=True, help="Kill the worker with -9 in the middle of the stream.")
def demo(leave: bool, rows: int, kill: bool) -> None:
    """Tell the whole story on real data: flights and songs.

    Example: champion demo --exit
    """
    from gateway.demo import main as run

    sys.exit(run(leave=leave, rows=rows, kill=kill))


for module in (models, deployments, monitoring, external, log, upkeep, watching):
    own = [c for c in vars(module).values() if isinstance(c, click.Command) and c.callback is not None and c.callback.__module__ == module.__name__]
    nested = {inner for outer in own if isinstance(outer, click.Group) for inner in outer.commands.values()}
    for found in own:
        if found not in nested:
            main.add_command(found)
