"""`mirrorlog backup`: points in time of volumes, kept apart from them."""

from __future__ import annotations

from typing import Final

import typer

from mirrorlog.cli.support.lazy_commands import LazyCommand, lazy_group

_PACKAGE = "mirrorlog.cli.commands"
BACKUP_COMMANDS: Final = (
    LazyCommand(
        "volume",
        f"{_PACKAGE}.backup_volume",
        "Take a point of a volume into a repository: what changed since its last point.",
    ),
    LazyCommand(
        "run",
        f"{_PACKAGE}.backup_run",
        "Take points of volumes again and again, until stopped.",
    ),
    LazyCommand(
        "list",
        f"{_PACKAGE}.backup_list",
        "List the points of a repository, the oldest first. Kafka isn't asked.",
    ),
    LazyCommand(
        "check",
        f"{_PACKAGE}.backup_check",
        "Check the points of a repository. Exit 1 if something is damaged. Kafka isn't asked.",
    ),
    LazyCommand(
        "prune",
        f"{_PACKAGE}.backup_prune",
        "Remove the points of a volume that no --keep option keeps.",
    ),
    LazyCommand(
        "serve",
        f"{_PACKAGE}.backup_serve",
        "Serve a point over NBD until stopped, so that a machine boots from it at once.",
    ),
    LazyCommand(
        "mount",
        f"{_PACKAGE}.backup_mount",
        "Mount the file system of a point, read-only, until stopped or unmounted. It needs root.",
    ),
    LazyCommand(
        "diff",
        f"{_PACKAGE}.backup_diff",
        "List the blocks of the second point that aren't as in the first. Kafka isn't asked.",
    ),
    LazyCommand(
        "drop",
        f"{_PACKAGE}.backup_drop",
        "Remove single points of a volume for good, also those whose manifest can't be read.",
    ),
    LazyCommand(
        "forget",
        f"{_PACKAGE}.backup_forget",
        "End a backup's registration: the log no longer keeps what the next point needs.",
    ),
)

app = typer.Typer(cls=lazy_group(BACKUP_COMMANDS, default="volume"), no_args_is_help=True)


@app.callback()
def backup() -> None:
    """Keep points in time of volumes, apart from them, each restorable alone.

    `mirrorlog backup VOLUME` is short for `mirrorlog backup volume VOLUME`. A volume that has the
    name of a command below needs the long form.
    """
