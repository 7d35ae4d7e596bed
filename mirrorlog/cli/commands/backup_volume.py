"""`mirrorlog backup VOLUME`: take one point of a volume into a repository."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from mirrorlog.cli.support.backup_options import (
    AfterOption,
    BeforeOption,
    CompressOption,
    CopyDirOption,
    FromSiteOption,
    GivenBackup,
    HookTimeoutOption,
    InconsistentOption,
    LayoutOption,
    LockWaitOption,
    SiteDirOption,
    ToOption,
    WaitOption,
    take_and_print,
    with_backup_addresses,
)
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.site_addresses import PrimaryOption, SecondaryOption
from mirrorlog.units import parse_duration_s

app = typer.Typer()


@app.command()
def volume(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    to: ToOption,
    from_site: FromSiteOption = None,
    folder: SiteDirOption = None,
    copy_dir: CopyDirOption = None,
    primary: PrimaryOption = None,
    secondary: SecondaryOption = None,
    before: BeforeOption = None,
    after: AfterOption = None,
    hook_timeout_s: HookTimeoutOption = 30.0,
    layout: LayoutOption = "subclusters",
    compress: CompressOption = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Read all that is allocated: the image stands on no other one."
        ),
    ] = False,
    allow_inconsistent: InconsistentOption = False,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Say that a timer takes a point this often: `mirrorlog status` warns when two "
            "were missed.",
        ),
    ] = None,
    wait: WaitOption = "60s",
    lock_wait: LockWaitOption = "0s",
) -> None:
    """Take a point of a volume into a repository: what changed since its last point.

    The first point holds all that is allocated. A later one holds the blocks that the log names
    since then, whatever source each of them had. The log keeps what the next one needs, until
    `mirrorlog backup forget` ends that.
    """
    call = invocation(context, waits=True)
    given = GivenBackup(
        to=to,
        from_site=from_site,
        site_dir=folder,
        copy_dir=copy_dir,
        before=before,
        after=after,
        hook_timeout_s=hook_timeout_s,
        layout=layout,
        compress=compress,
        allow_inconsistent=allow_inconsistent,
        wait=wait,
        lock_wait=lock_wait,
        every_s=None if every is None else parse_duration_s(every),
        full=full,
    )
    call = with_backup_addresses(call, given, primary, secondary)
    options = given.as_options()
    given.as_request(name)
    find_volume(call.settings, name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # locks are given back, too
    take_and_print(call, given, options, name)
