"""`mirrorlog host`: commands that run a host, which writes to volumes and tracks the writes."""

from __future__ import annotations

import typer

from mirrorlog.cli.commands.host_digest import digest
from mirrorlog.cli.commands.host_keygen import keygen
from mirrorlog.cli.commands.host_recover import recover
from mirrorlog.cli.commands.host_replay import replay
from mirrorlog.cli.commands.host_serve import serve

app = typer.Typer(
    no_args_is_help=True, help="Run a host, which writes to volumes and tracks the writes."
)
app.command()(serve)
app.command()(replay)
app.command()(recover)
app.command()(digest)
app.command()(keygen)
