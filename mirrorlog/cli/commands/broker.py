"""`mirrorlog broker start | stop | status`: the embedded Kafka, on its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.broker.control import BrokerState, BrokerStatus, broker_status, stop_broker
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare
from mirrorlog.broker.ports import LOOPBACK
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.output import Output
from mirrorlog.errors import BadUse, ExitCode
from mirrorlog.units import format_size

SCHEMA_VERSION = 1

app = typer.Typer(
    name="broker", help="The embedded Kafka: one node, on this machine only.", no_args_is_help=True
)

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=1,
        max=65535,
        help="Listen on this port. The first time a free one is taken, then kept.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def start(context: typer.Context, port: Port = None, as_json: AsJson = False) -> None:
    """Start the broker; it runs until `stop`. One that runs already is left as it is."""
    folder, settings = _folder(context), invocation(context).settings
    status = broker_status(folder)
    if status.state is BrokerState.STOPPED:
        runtime = prepare(settings.cache_dir, on_progress=say_progress)
        EmbeddedBroker(folder, runtime, port=port, dies_with_parent=False).start()
        status = broker_status(folder)
    elif port is not None and status.bootstrap_servers != f"{LOOPBACK}:{port}":
        raise BadUse(
            f"the broker of this folder runs already, at {status.bootstrap_servers}",
            where=status.state_dir,
            next="Stop it first (`mirrorlog broker stop`), or leave --port out.",
        )
    _print(context, status, as_json)


@app.command()
def stop(context: typer.Context, as_json: AsJson = False) -> None:
    """Stop the broker. Nothing to do where none runs."""
    folder = _folder(context)
    stop_broker(folder)
    _print(context, broker_status(folder), as_json)


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Say whether the broker runs and answers; exit 1 where it doesn't."""
    found = broker_status(_folder(context))
    _print(context, found, as_json)
    if found.state is not BrokerState.RUNNING:
        raise typer.Exit(ExitCode.FAILED)


def _folder(context: typer.Context) -> Path:
    return invocation(context).settings.state_dir / "broker"


def say_progress(jars: int, of: int) -> None:
    if jars == 1:
        typer.echo(f"Fetching Apache Kafka, {of} files; this happens once.", err=True)
    if jars == of:
        typer.echo("All downloaded. A first start now makes later starts faster.", err=True)


def _print(context: typer.Context, status: BrokerStatus, as_json: bool) -> None:
    output = invocation(context).output
    if as_json and not output.json:
        output = Output(json=True, quiet=True)
    output.print_json({"schema_version": SCHEMA_VERSION, **asdict(status)})
    output.print_text(_for_people(status))


def _for_people(status: BrokerStatus) -> str:
    if status.state is BrokerState.STOPPED:
        return f"No broker runs in {status.state_dir}."
    says = (
        "runs"
        if status.state is BrokerState.RUNNING
        else f"runs but doesn't answer (its log: {status.log})"
    )
    memory = format_size(status.resident_bytes or 0)
    return (
        f"The broker {says}: bootstrap servers {status.bootstrap_servers}, process {status.pid} "
        f"since {status.started_at}, {memory} in memory."
    )
