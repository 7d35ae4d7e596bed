"""`mirrorlog backup mount`: the file system of a point, read-only, in a folder."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from mirrorlog.adapters.object_folder import lent_work_folder
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.point_at import NEWEST
from mirrorlog.cli.support.point_exports import LEFT_BY_KILLED, SOCKET, WORK, exported_point
from mirrorlog.cli.support.repository_points import (
    AtOption,
    CheckOption,
    FromRepositoryOption,
    opened_point,
)
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.consumers.backup.serving.mounting import (
    MountedPoint,
    MountRequest,
    check_mountable,
)
from mirrorlog.consumers.backup.serving.qemu_nbd import qemu_nbd_path
from mirrorlog.processes.nbd_server import NbdAddress

app = typer.Typer()
_TICK_S: Final = 0.1


@app.command()
def mount(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    folder: Annotated[Path, typer.Argument(help="Mount here: a folder that is there and empty.")],
    repo: FromRepositoryOption,
    at: AtOption = NEWEST,
    partition: Annotated[
        int | None,
        typer.Option(min=1, help="Mount this partition, where the volume has a table of them."),
    ] = None,
    options: Annotated[
        str, typer.Option(help="Options of mount(8), beside ro,nosuid,nodev.", metavar="OPTIONS")
    ] = "",
    check: CheckOption = False,
    pid_file: DetachOption = None,
) -> None:
    """Mount the file system of a point, read-only, until stopped or unmounted. It needs root.

    A file system that wasn't unmounted in order replays its journal first, into a file that is
    thrown away: the files are as after a crash at that moment. No image is changed.
    """
    call = invocation(context)
    qemu_nbd_path()
    target = folder.absolute()
    check_mountable(target)
    tell_ready = detach(pid_file, call.output)
    stopped = stop_flag()
    with ExitStack() as stack:
        point = stack.enter_context(opened_point(call, name, repo, at, checks=check))
        image = stack.enter_context(point.image())
        root = stack.enter_context(lent_work_folder(call.settings.state_dir / WORK))
        listen = NbdAddress(root / SOCKET)
        work = root / "file"
        work.mkdir()
        servers = stack.enter_context(
            exported_point(image, point.manifest.size_bytes, listen, is_writable=True, scratch=root)
        )
        uri = listen.uri(tls=False)
        request = MountRequest(
            uri=uri,
            target=str(target),
            work=str(work),
            partition=partition,
            options=options,
            left=[str(work), *(str(root / name) for name in LEFT_BY_KILLED), str(root)],
        )
        mounted = MountedPoint(request)
        is_left = True
        try:
            call.output.print_message("ready", {**point.fields(), "folder": str(target)})
            call.output.print_text(f"{point.text()}, is mounted at {target}, read-only")
            tell_ready()
            while not stopped() and mounted.is_mounted:
                mounted.check()
                for server in servers:
                    server.check()
                time.sleep(_TICK_S)
        finally:
            is_left = mounted.close()
    fields = {"volume": name, "point": point.manifest.point, "is_left": is_left}
    call.output.print_message("result", fields)
    call.output.print_text(
        "somebody uses the mount still: it is detached, and its files can't be read any more"
        if is_left
        else "the point is unmounted"
    )
