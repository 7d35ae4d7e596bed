"""`mirrorlog host keygen`: a key with which the commands of a host are authentic."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.key_files import create_key_file
from mirrorlog.domain.host_keys import SECRET_BYTES, HostKey, parse_host_key
from mirrorlog.ports.clock import SystemClock


def keygen(
    context: typer.Context,
    holder: Annotated[str, typer.Argument(help="Who is to hold the key, such as a machine.")],
    file: Annotated[Path, typer.Argument(help="File of the key, which is created.")],
    name: Annotated[
        str | None,
        typer.Option(help="Tell the key from the holder's others. The default is the time."),
    ] = None,
) -> None:
    """Make a key for a holder of host keys, which only you can read.

    The holder's hosts name FILE as host_key_file. The line in it is also an entry of `keys` in the
    node's file (node_host_keys_file).
    """
    call = invocation(context)
    now = datetime.fromtimestamp(SystemClock().now_us() // 1_000_000, UTC)
    made = HostKey(f"{holder}/{name or now.strftime('%Y%m%dT%H%M%SZ')}", os.urandom(SECRET_BYTES))
    key = parse_host_key(made.as_text())  # it also refuses an impossible id
    with os_errors_named("the key can't be written", file, "Name another file."):
        create_key_file(file, f"{key.as_text()}\n".encode(), 0o600)
    call.output.print_message("result", {"key": str(file), "id": key.id, "holder": key.holder})
    call.output.print_text(
        f"{file} holds host key {key.id}; its line belongs into the node's file of keys, too, "
        f"under [hosts.{key.holder}]"
    )
