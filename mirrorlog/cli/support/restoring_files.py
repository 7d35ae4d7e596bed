"""`mirrorlog restore VOLUME files PATH…`: files and folders out of a point."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.repository_points import opened_point
from mirrorlog.consumers.backup.files.restoring import restore_files
from mirrorlog.consumers.backup.files.tree_writer import RestoredFiles, WriteOptions
from mirrorlog.consumers.file_names.name_table import shown_name
from mirrorlog.errors import BadUse, ExitCode
from mirrorlog.units import format_count, format_size

FILES: Final = "files"
"""The word behind the volume's name that asks for files."""
PartitionOption = Annotated[
    int | None,
    typer.Option(
        "--partition", min=1, help="With files: of this partition, if several have such a file."
    ),
]
SymlinksOption = Annotated[
    bool, typer.Option("--symlinks", help="With files: restore symbolic links, too, as they are.")
]
OwnersOption = Annotated[
    bool,
    typer.Option(
        "--owners", help="With files: keep users and groups by their numbers. It needs root."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesRequest:
    """Which files are wanted, and where. repository, at: the options --repo and --at.

    paths: absolute paths in the volume's file system. target: the folder of --to. checks: look for
    damage of the images first.
    """

    volume: str
    repository: str
    at: str
    paths: list[str]
    target: Path
    partition: int | None
    options: WriteOptions
    checks: bool


def restore_files_of(call: Invocation, request: FilesRequest) -> None:
    """Restore files, and say what isn't restored; exit with 1 if there is such a thing.

    Raise as opened_point() and restore_files().
    """
    if not request.paths:
        raise BadUse("no file is named", next="Name files or folders of the volume: /etc/hosts.")

    def say(path: bytes, what: str) -> None:
        shown = shown_name(path)
        call.output.print_message("problem", {"path": shown, "what": what})
        call.output.print_note(f"not restored: {shown}: {what}")

    with opened_point(
        call, request.volume, request.repository, request.at, checks=request.checks
    ) as point:
        restored = restore_files(
            point.repository,
            point.catalog,
            point.manifest.point,
            [os.fsencode(path) for path in request.paths],
            request.target,
            partition=request.partition,
            options=request.options,
            on_problem=say,
        )
    for note in restored.notes:
        call.output.print_note(f"note: {note}")
    call.output.print_message(
        "result", {**point.fields(), "folder": str(request.target), **_fields(restored)}
    )
    call.output.print_text(f"{point.text()}: {_line(restored)} below {request.target}")
    if restored.problem_count:
        raise typer.Exit(ExitCode.FAILED)


def _fields(restored: RestoredFiles) -> dict[str, Any]:
    return {
        "files": restored.files,
        "folders": restored.folders,
        "links": restored.links,
        "content_bytes": restored.content_bytes,
        "not_restored": restored.problem_count,
        "notes": restored.notes,
    }


def _line(restored: RestoredFiles) -> str:
    size = format_size(restored.content_bytes)
    parts = [
        f"restored {format_count(restored.files, 'file')} ({size})",
        format_count(restored.folders, "folder"),
    ]
    if restored.links:
        parts.append(format_count(restored.links, "symbolic link"))
    if restored.problem_count:
        parts.append(f"and NOT {format_count(restored.problem_count, 'thing')}")
    return ", ".join(parts)
