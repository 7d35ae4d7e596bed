"""`mirrorlog restore VOLUME --to ADDRESS`: a whole volume out of a point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.backup_view import point_fields
from mirrorlog.cli.support.byte_progress import ByteProgress
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.restore_choice import choose_point
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.opening import open_repository
from mirrorlog.consumers.backup.restoring import open_target, restore
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import is_remote
from mirrorlog.units import format_size

OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Restore over a file, a device or an export that holds data."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRequest:
    """Which point of a volume is wanted, and where.

    repository, at, target: the options --repo, --at and --to.
    """

    volume: str
    repository: str
    at: str
    target: str
    may_overwrite: bool


def restore_volume_of(call: Invocation, request: VolumeRequest) -> None:
    """Restore a whole volume, and say which point it is.

    Raise as open_repository(), choose_point(), open_point() and open_target().
    """
    clock, settings = SystemClock(), call.settings
    with open_repository(settings, request.repository) as repository:
        catalog = repository.catalog(request.volume)
        choice = choose_point(call, catalog, request.at, now_us=clock.now_us())
        manifest = choice.record.manifest
        for note in choice.notes:
            call.output.print_note(note)
        with (
            open_point(repository, catalog, manifest.point, reads_all=True) as point,
            open_target(
                request.target,
                point.size_bytes,
                PrimaryMarkFiles(settings.primary_marks_dir),
                may_overwrite=request.may_overwrite,
            ) as target,
            ByteProgress(call.output, clock.monotonic_s, "restored") as progress,
        ):
            progress.begin(sum(length for _, length in point.allocated()))
            target_bytes = target.size_bytes
            threads = settings.site_copy_threads
            if is_remote(target):
                threads = settings.site_remote_copy_threads
            copied_bytes = restore(
                point,
                target,
                volume=manifest.as_volume(),
                tasks=TaskThreads(threads),
                on_copied=progress.advance,
            )
    call.output.print_message(
        "result",
        {
            **point_fields(manifest, choice.record.image),
            "target": request.target,
            "target_bytes": target_bytes,
            "copied_bytes": copied_bytes,
            "notes": list(choice.notes),
            **choice.fields,
        },
    )
    proved = "consistent" if manifest.position.is_consistent else "NOT PROVED to be consistent"
    call.output.print_text(
        f"{request.volume} as of {format_time(manifest.time_us)}, {proved} (point "
        f"{manifest.point}), is restored to {request.target}: {format_size(copied_bytes)}, and "
        "zeros elsewhere"
    )
    if target_bytes > manifest.size_bytes:
        call.output.print_note(
            f"the last {target_bytes - manifest.size_bytes} bytes of {request.target} lie behind "
            "the end of the volume, and are as they were"
        )
