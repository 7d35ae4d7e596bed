"""`mirrorlog host digest`: hash primaries where they are, for verifications."""

from __future__ import annotations

from typing import Annotated

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.errors import BadUse


def digest(
    context: typer.Context,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME...")],
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Read the primary at this address. Only with a single volume."
        ),
    ] = None,
    pid_file: DetachOption = None,
) -> None:
    """Hash the primaries of volumes where they are, until stopped.

    It answers `mirrorlog verify` and `mirrorlog site run` with --primary-reader host.

    Run it where the primaries are, so that their bytes don't cross the line to the site. It only
    reads them. `host serve` may run beside it.
    """
    from mirrorlog.consumers.verify.wiring import open_digest_server, primary_digests

    call = invocation(context, waits=True)
    if primary is not None and len(volumes) > 1:
        raise BadUse("one address can't be that of several primaries", next="Name one volume.")
    described = [find_volume(call.settings, name) for name in volumes]
    tell_ready = detach(pid_file, call.output)
    with open_digest_server(primary_digests(volumes, call.settings, primary), call.settings) as (
        server
    ):
        stopped = stop_flag()
        names = ", ".join(volume.volume for volume in described)
        call.output.print_message("ready", {"volumes": [volume.volume for volume in described]})
        call.output.print_text(f"ready to hash the primaries of {names}")
        tell_ready()
        while not stopped():
            server.serve(0.2)
