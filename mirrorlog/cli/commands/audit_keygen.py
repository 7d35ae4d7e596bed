"""`mirrorlog audit keygen`: a key pair that signs checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.key_files import create_key_file

app = typer.Typer()


@app.command()
def keygen(
    context: typer.Context,
    key: Annotated[Path, typer.Argument(help="File of the private key, which is created.")],
) -> None:
    """Make a key pair for `audit seal` or `audit cosign`.

    The private key (Ed25519, PEM) goes to KEY, which only you can read, and the public key to
    KEY.pub. Give KEY.pub to whoever checks what the key signs.
    """
    call = invocation(context)
    from mirrorlog.transparency.ed25519_keys import PrivateKey

    private = PrivateKey.generate()
    public = key.with_name(f"{key.name}.pub")
    with os_errors_named("the key pair can't be written", key, "Name another file."):
        for path, pem, mode in (
            (key, private.as_pem(), 0o600),
            (public, private.public.as_pem(), 0o644),
        ):
            create_key_file(path, pem, mode)
    fields = {"key": str(key), "public_key": str(public)}
    call.output.print_message("result", fields)
    call.output.print_text(f"{key} signs, and {public} checks what it signed")
