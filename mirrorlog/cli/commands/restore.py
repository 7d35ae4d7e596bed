"""`mirrorlog restore`: what a point of a backup holds, brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.point_at import NEWEST
from mirrorlog.cli.support.repository_points import AtOption, CheckOption, FromRepositoryOption
from mirrorlog.cli.support.restoring_files import (
    FILES,
    FilesRequest,
    OwnersOption,
    PartitionOption,
    SymlinksOption,
    restore_files_of,
)
from mirrorlog.consumers.backup.files.tree_writer import WriteOptions
from mirrorlog.errors import BadUse

app = typer.Typer()


@app.command()
def restore(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    words: Annotated[
        list[str],
        typer.Argument(metavar="files PATH…", help="Files and folders of its file system."),
    ],
    repo: FromRepositoryOption,
    to: Annotated[Path, typer.Option("--to", help="Below this folder, under their whole paths.")],
    at: AtOption = NEWEST,
    partition: PartitionOption = None,
    symlinks: SymlinksOption = False,
    owners: OwnersOption = False,
    check: CheckOption = False,
) -> None:
    """Restore files and folders out of a point of a volume's backups.

    Nothing is mounted or overwritten, and Kafka isn't asked. What isn't restored is said, and the
    exit code is 1 then.
    """
    call = invocation(context)
    if words[0] != FILES:
        raise BadUse(f"'{words[0][:60]}' is nothing that can be restored", next=f"Write {FILES}.")
    restore_files_of(
        call,
        FilesRequest(
            volume=name,
            repository=repo,
            at=at,
            paths=words[1:],
            target=to.absolute(),
            partition=partition,
            options=WriteOptions(links=symlinks, owners=owners),
            checks=check,
        ),
    )
