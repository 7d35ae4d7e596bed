"""`mirrorlog restore`: what a point of a backup holds, brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.context import Invocation, invocation
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
from mirrorlog.cli.support.restoring_volumes import (
    OverwriteOption,
    VolumeRequest,
    restore_volume_of,
)
from mirrorlog.consumers.backup.files.tree_writer import WriteOptions
from mirrorlog.errors import BadUse

app = typer.Typer()


@app.command()
def restore(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    repo: FromRepositoryOption,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="ADDRESS",
            help="The volume: a new file, a device, an NBD URI. Files: below this folder, under "
            "their whole paths.",
        ),
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="files PATH…",
            help="Files and folders of its file system, instead of the whole volume.",
        ),
    ] = None,
    at: AtOption = NEWEST,
    overwrite: OverwriteOption = False,
    partition: PartitionOption = None,
    symlinks: SymlinksOption = False,
    owners: OwnersOption = False,
    check: CheckOption = False,
) -> None:
    """Restore a volume, or files of it, out of a point of its backups.

    A whole volume is restored only if no byte of the point's images is damaged. A new file gets its
    name when all of it is durable. For a time, Kafka says what was written between it and the
    point. Files are restored without mounting anything, and never replace others. What isn't
    restored is said, and the exit code is 1 then.
    """
    call = invocation(context)
    if words:
        options = WriteOptions(links=symlinks, owners=owners)
        _restore_files(
            call,
            words,
            overwrite,
            FilesRequest(
                volume=name,
                repository=repo,
                at=at,
                paths=words[1:],
                target=Path(to).absolute(),
                partition=partition,
                options=options,
                checks=check,
            ),
        )
        return
    if partition is not None or symlinks or owners:
        raise BadUse(
            "--partition, --symlinks and --owners are for files",
            next=f"Write `restore {name} {FILES} PATH…`, or leave them out.",
        )
    restore_volume_of(
        call,
        VolumeRequest(volume=name, repository=repo, at=at, target=to, may_overwrite=overwrite),
    )


def _restore_files(
    call: Invocation, words: list[str], overwrite: bool, request: FilesRequest
) -> None:
    if words[0] != FILES:
        raise BadUse(f"'{words[0][:60]}' is nothing that can be restored", next=f"Write {FILES}.")
    if overwrite:
        raise BadUse(
            "files never replace others", where="--overwrite", next="Name an empty folder."
        )
    restore_files_of(call, request)
