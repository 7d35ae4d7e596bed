"""The options of the commands that take backups, and how they put one together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from mirrorlog.cli.support.backup_view import point_fields, point_line
from mirrorlog.cli.support.byte_progress import ByteProgress
from mirrorlog.cli.support.context import Invocation
from mirrorlog.cli.support.site_addresses import with_addresses
from mirrorlog.cli.support.waiting import wait_until_site_proves
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.sources.hooks import Hooks
from mirrorlog.consumers.backup.taking.image_writers import Qcow2Writer
from mirrorlog.consumers.backup.taking.taking import PointRequest, TakenPoint, TakingCalls
from mirrorlog.consumers.backup.wiring import BackupCalls, BackupOptions, SiteChoice, back_up
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.units import parse_duration_s

ToOption = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="REPO",
        help="The repository: a folder or s3://BUCKET/PREFIX. It is created if there is none.",
    ),
]
FromSiteOption = Annotated[
    str | None,
    typer.Option(
        "--from-site",
        metavar="SITE",
        help="Read the secondary of this site, and not the primary. Run it on the site's machine.",
    ),
]
SiteDirOption = Annotated[
    Path | None, typer.Option("--dir", help="With --from-site: the site's folder.")
]
CopyDirOption = Annotated[
    Path | None,
    typer.Option(
        "--copy-dir",
        help="With --from-site: make the reflink of the secondary in this folder instead of the "
        "site's.",
    ),
]
BeforeOption = Annotated[
    str | None,
    typer.Option(
        "--before",
        metavar="COMMAND",
        help="Run this in /bin/sh before the point is fixed, as in 'fsfreeze --freeze /mnt'.",
    ),
]
AfterOption = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="COMMAND",
        help="Run this once the point is fixed, whatever happens, as in 'fsfreeze --unfreeze /mnt'."
        " The point is read after that.",
    ),
]
HookTimeoutOption = Annotated[
    float,
    typer.Option(
        "--hook-timeout-s",
        help="Run --after at the latest so many seconds after --before began. A point that isn't "
        "fixed by then is refused.",
    ),
]
LayoutOption = Annotated[
    Literal["subclusters", "clusters"],
    typer.Option(
        help="How images are laid out: subclusters takes the least space, and needs QEMU 5.2 or "
        "later; clusters is read by other tools, too."
    ),
]
CompressOption = Annotated[
    bool, typer.Option("--compress", help="Compress the data with zstd. Needs --layout clusters.")
]
InconsistentOption = Annotated[
    bool,
    typer.Option(
        "--allow-inconsistent",
        help="Keep a point, too, that isn't proved to be the volume as of one moment. It is marked "
        "as that.",
    ),
]
WaitOption = Annotated[
    str,
    typer.Option(
        "--wait", help="Wait this long for the log, or for a consistent secondary.", metavar="TIME"
    ),
]
LockWaitOption = Annotated[
    str,
    typer.Option(
        "--lock-wait",
        help="Wait this long for another process that writes to the repository.",
        metavar="TIME",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBackup:
    """The options that a backup takes, as they were given."""

    to: str
    from_site: str | None
    site_dir: Path | None
    copy_dir: Path | None
    before: str | None
    after: str | None
    hook_timeout_s: float
    layout: str
    compress: bool
    allow_inconsistent: bool
    wait: str
    every_s: float | None
    full: bool = False
    lock_wait: str = "0s"

    def as_options(self) -> BackupOptions:
        """Return how volumes are backed up. Raise BadUse for options that contradict each other."""
        return BackupOptions(
            address=self.to,
            site=self._site(),
            images=Qcow2Writer(layout=ImageLayout(self.layout), is_compressed=self.compress),
            wait_s=parse_duration_s(self.wait),
            every_s=self.every_s,
            lock_wait_s=parse_duration_s(self.lock_wait),
        )

    def as_request(self, volume: str) -> PointRequest:
        """Return what point of a volume is asked for. Raise BadUse for commands without a time."""
        if self.hook_timeout_s <= 0:
            raise BadUse(
                "a time above 0 is needed", where=f"--hook-timeout-s {self.hook_timeout_s}"
            )
        hooks = Hooks(before=self.before, after=self.after, timeout_s=self.hook_timeout_s)
        return PointRequest(
            volume=volume,
            hooks=hooks,
            is_full=self.full,
            allows_inconsistent=self.allow_inconsistent,
        )

    def _site(self) -> SiteChoice | None:
        if self.from_site is None:
            if self.site_dir is not None or self.copy_dir is not None:
                raise BadUse(
                    "--dir and --copy-dir are of a site", next="Add --from-site, or leave them out."
                )
            return None
        if self.site_dir is None:
            raise BadUse(
                f"the folder of site {self.from_site} isn't named",
                next="Name it with --dir, as for `mirrorlog site run`.",
            )
        folder = self.site_dir.absolute()
        copy_folder = (self.copy_dir or folder / "drills").absolute()
        return SiteChoice(site=self.from_site, folder=folder, copy_folder=copy_folder)


def with_backup_addresses(
    call: Invocation,
    given: GivenBackup,
    primaries: list[str] | None,
    secondaries: list[str] | None,
) -> Invocation:
    """Return the call with the addresses of primaries and secondaries in its settings.

    Raise BadUse for addresses of the side that isn't read.
    """
    if given.from_site is not None and primaries:
        raise BadUse(
            "--from-site reads a secondary, and --primary names a primary", next="Give one of them."
        )
    if given.from_site is None and secondaries:
        raise BadUse("--secondary is of a site", next="Add --from-site, or leave it out.")
    folder = given.site_dir or Path()
    name = given.from_site or "backup"
    return with_addresses(call, name, folder, primaries or [], secondaries or [])


def take_and_print(
    call: Invocation,
    given: GivenBackup,
    options: BackupOptions,
    volume: str,
    on_alive: Callable[[], None] = lambda: None,
) -> TakenPoint:
    """Take one point of a volume, and print it. Raise as take_point().

    on_alive: called after each read.
    """
    request = given.as_request(volume)
    with ByteProgress(call.output, SystemClock().monotonic_s, "read") as progress:

        def note_read(size_bytes: int) -> None:
            progress.advance(size_bytes)
            on_alive()

        calls = BackupCalls(
            taking=TakingCalls(
                say=lambda text: _warn(call, text),
                on_begin=progress.begin,
                on_read=note_read,
            ),
            await_site=lambda name, site, wait_s: wait_until_site_proves(
                call.settings, name, site, wait_s
            ),
        )
        taken = back_up(call.settings, request, options, calls)
    fields = point_fields(taken.manifest, taken.manifest.image)
    more = {"repository": options.address, "frozen_s": taken.frozen_s}
    call.output.print_message("point", {**fields, **more})
    call.output.print_text(point_line(taken.manifest))
    if taken.unregistered is not None:
        _warn(
            call,
            f"{volume}: the point is kept, and the log wasn't told so: {taken.unregistered} It "
            "keeps more than is needed until the next backup.",
        )
    return taken


def _warn(call: Invocation, text: str) -> None:
    call.output.print_message("warning", {"what": text})
    call.output.print_note(f"warning: {text}")
