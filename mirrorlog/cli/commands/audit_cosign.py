"""`mirrorlog audit cosign`: a second party signs a checkpoint that continues the earlier ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.folders import replace_files
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.log_keys import (
    LogKeyOption,
    check_signatures,
    read_checkpoint,
    read_log_key,
    read_private_key,
)
from mirrorlog.errors import BadUse, DifferenceFound
from mirrorlog.transparency.command_chain import last_position
from mirrorlog.transparency.merkle import range_root
from mirrorlog.transparency.notes import check_key_name
from mirrorlog.transparency.tiles import TiledLog

app = typer.Typer()


@app.command()
def cosign(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="File of the checkpoint, which is rewritten.")],
    key: Annotated[Path, typer.Option(help="File of the witness's private key.")],
    name: Annotated[
        str, typer.Option(help="Name of the witness, such as witness.example/w1, without spaces.")
    ],
    log_key: LogKeyOption,
    tiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the log's tree, or a copy of it. The default is that in chain_dir."
        ),
    ] = None,
) -> None:
    """Sign a checkpoint as a witness, if it continues what this key has signed before.

    The witness is somebody else than whoever seals the log. Its signature says that the log shows
    the same history to both. The key remembers what it signed, in KEY.signed.
    """
    call = invocation(context)
    from mirrorlog.adapters.log_folder import LogFolder
    from mirrorlog.adapters.signed_heads import SignedHeads
    from mirrorlog.cli.support.command_logs import log_named
    from mirrorlog.transparency.ed25519_keys import WitnessKey

    private, where = read_private_key(key), str(checkpoint)
    check_key_name(name)
    note, head = read_checkpoint(checkpoint)
    files = (
        log_named(call.settings, head.origin, where=where) if tiles is None else LogFolder(tiles)
    )
    if files is None:
        raise BadUse(
            f"the tree of the log {head.origin} isn't here",
            where=where,
            next="Name its folder, or a copy of it, with --tiles.",
        )
    tiled = TiledLog(files.read, head.size, where=files.where)
    covers = f"{head.size} commands, through position {last_position(tiled) if head.size else '-'}"
    check_signatures(note, read_log_key(log_key, head.origin), (), where=where, covers=covers)
    if range_root(tiled, 0, head.size) != head.root:
        raise DifferenceFound(
            f"the tree in this folder isn't the one of the checkpoint ({covers})",
            where=files.where,
            next="Nothing was signed. The checkpoint is forged, or the tree was altered.",
        )
    with SignedHeads.opened(key) as signed:
        signed.note(head, files.read, where=files.where)
        signature = private.cosign(name, note.text, at_s=int(time.time()))
    cosigned = note.with_signature(signature)
    with os_errors_named("the checkpoint can't be written", checkpoint, "Name another file."):
        replace_files({checkpoint: cosigned.as_text().encode()})
    witness = WitnessKey(name, private.public).as_vkey()
    call.output.print_message(
        "result",
        {
            "origin": head.origin,
            "leaves": head.size,
            "witness": name,
            "vkey": witness,
            "file": where,
        },
    )
    call.output.print_text(f"{where}: {name} signed {covers}")
    call.output.print_text(f"its verifier key, for --witness: {witness}")
