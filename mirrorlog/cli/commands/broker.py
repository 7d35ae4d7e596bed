"""`mirrorlog broker start | stop | status`: the embedded Kafka by itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.bootstrap_servers import BootstrapServers
from mirrorlog.broker.control import BrokerState, BrokerStatus, broker_status, stop_broker
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.broker_record import LOOPBACK, broker_folder
from mirrorlog.cli.support.context import invocation
from mirrorlog.errors import BadUse, ExitCode
from mirrorlog.units import format_duration, format_size

SCHEMA_VERSION = 1

app = typer.Typer(
    no_args_is_help=True,
    help="Start and stop the embedded Kafka: one broker, for this machine only.",
)

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=1,
        max=65535,
        help="Listen on this port. Without it, the first start takes a free port and keeps it.",
    ),
]


@app.command()
def start(context: typer.Context, port: Port = None) -> None:
    """Start the broker, which runs until `stop`. A broker that runs already is left as it is."""
    folder, settings = _folder(context), invocation(context).settings
    status = broker_status(folder)
    if status.state is BrokerState.STOPPED:
        runtime = prepare_runtime(settings.cache_dir, on_progress=_print_progress)
        broker = EmbeddedBroker(folder, runtime, port=port, dies_with_parent=False)
        broker.start(on_waiting=_print_waiting)
        status = broker_status(folder)
    elif port is not None and status.bootstrap_servers != f"{LOOPBACK}:{port}":
        raise BadUse(
            f"the broker of this folder runs already, at {status.bootstrap_servers}",
            where=status.state_dir,
            next="Stop it first (`mirrorlog broker stop`), or leave --port out.",
        )
    _print_status(context, status, f"{_as_text(status)}\n{how_to_reach(status, settings.servers)}")


@app.command()
def stop(context: typer.Context) -> None:
    """Stop the broker. Do nothing if none runs."""
    folder = _folder(context)
    has_stopped_one = stop_broker(folder) is not None
    status = broker_status(folder)
    text = (
        f"The broker in {status.state_dir} is stopped; its data and its port stay."
        if has_stopped_one
        else f"No broker runs in {status.state_dir}: there is nothing to stop."
    )
    _print_status(context, status, text)


@app.command()
def status(context: typer.Context) -> None:
    """Print whether the broker runs and answers. Exit 1 if it doesn't."""
    current = broker_status(_folder(context))
    _print_status(context, current)
    if current.state is not BrokerState.RUNNING:
        raise typer.Exit(ExitCode.FAILED)


def _folder(context: typer.Context) -> Path:
    return broker_folder(invocation(context).settings.state_dir)


def _print_progress(jars: int, total: int) -> None:
    """Print when the first file of Kafka is there, and when all are."""
    if jars == 1:
        typer.echo(f"Fetching Apache Kafka, {total} files. This happens once.", err=True)
    if jars == total:
        typer.echo("All files are there. A first start now makes later starts faster.", err=True)


def _print_waiting(address: str, waited_s: float) -> None:
    typer.echo(f"waiting for Kafka at {address}, for {format_duration(waited_s)} now", err=True)


def how_to_reach(status: BrokerStatus, used: BootstrapServers) -> str:
    """Return how commands reach a broker that runs.

    used: the servers that commands with the settings of this call use.
    """
    address, variable = status.bootstrap_servers, "MIRRORLOG_BOOTSTRAP_SERVERS"
    export = f"  export {variable}={address}"
    if used.given_by is not None and used.addresses != address:
        return (
            f"Commands use {used.addresses} instead, {used.chosen_by()}. To use this broker:\n"
            f"{export}"
        )
    return (
        f"Commands with the state folder {used.state_dir} find it by themselves. For other "
        f"folders, and for other programs:\n{export}"
    )


def _print_status(context: typer.Context, status: BrokerStatus, text: str | None = None) -> None:
    """Print the status, as `text` if there is one. The JSON object is the same in any case."""
    output = invocation(context).output
    output.print_json({"schema_version": SCHEMA_VERSION, **asdict(status)})
    output.print_text(text or _as_text(status))


def _as_text(status: BrokerStatus) -> str:
    if status.state is BrokerState.STOPPED:
        return (
            f"No broker runs in {status.state_dir}. `mirrorlog broker start` starts one, or "
            "starts it again with the data that it has."
        )
    condition = (
        f"runs at {status.bootstrap_servers}"
        if status.state is BrokerState.RUNNING
        else f"runs but doesn't answer at {status.bootstrap_servers}; its log is {status.log}"
    )
    memory = "" if status.resident_bytes is None else f", {format_size(status.resident_bytes)}"
    return f"The broker {condition} (process {status.pid} since {status.started_at}{memory})."
