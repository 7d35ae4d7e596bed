"""`mirrorlog backup serve`: a point over NBD, read-only or with changes thrown away."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from mirrorlog.adapters.object_folder import lent_work_folder
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.listening import ListenOption, PortOption, listen_at
from mirrorlog.cli.support.point_at import NEWEST
from mirrorlog.cli.support.point_exports import WORK, exported_point
from mirrorlog.cli.support.repository_points import (
    AtOption,
    CheckOption,
    FromRepositoryOption,
    opened_point,
)
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.consumers.backup.serving.qemu_nbd import qemu_nbd_path

_EXPORTS: Final = "exports"
_TICK_S: Final = 0.1

app = typer.Typer()


@app.command()
def serve(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    repo: FromRepositoryOption,
    at: AtOption = NEWEST,
    writable: Annotated[
        bool,
        typer.Option("--writable", help="Let clients write; what they write is thrown away."),
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="Keep what clients write in this folder until the end. By default, in the state "
            "folder."
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="Serve at this Unix socket instead of exports/VOLUME.sock."),
    ] = None,
    port: PortOption = None,
    address: ListenOption = "127.0.0.1",
    check: CheckOption = False,
    pid_file: DetachOption = None,
) -> None:
    """Serve a point over NBD until stopped, so that a machine boots from it at once.

    No image is changed. A prune may run meanwhile, and takes nothing away from the export.
    """
    call = invocation(context)
    qemu_nbd_path()
    default = call.settings.state_dir / _EXPORTS / f"{name}.sock"
    listen = listen_at(socket, port, address, default=default)
    tell_ready = detach(pid_file, call.output)
    stopped = stop_flag()
    folder = (scratch or call.settings.state_dir).absolute() / WORK
    with ExitStack() as stack:
        point = stack.enter_context(opened_point(call, name, repo, at, checks=check))
        image = stack.enter_context(point.image())
        work = stack.enter_context(lent_work_folder(folder))
        servers = stack.enter_context(
            exported_point(
                image,
                point.manifest.size_bytes,
                listen,
                is_writable=writable,
                scratch=work,
            )
        )
        uri = listen.uri(tls=False)
        call.output.print_message("ready", {**point.fields(), "uri": uri, "is_writable": writable})
        writes = "writes are thrown away" if writable else "read-only"
        call.output.print_text(f"{point.text()}, is served at {uri}: {writes}")
        tell_ready()
        while not stopped():
            for server in servers:
                server.check()
            time.sleep(_TICK_S)
    call.output.print_message("result", {"volume": name, "point": point.manifest.point})
    call.output.print_text("the export has ended; what clients wrote is gone")
