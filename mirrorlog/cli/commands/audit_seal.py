"""`mirrorlog audit seal`: sign what the log holds now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.adapters.folders import create_folder, replace_files
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.log_keys import read_private_key
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.notes import SignedNote
from mirrorlog.transparency.tiles import CHECKPOINT_FILE
from mirrorlog.units import parse_duration_s

app = typer.Typer()


@app.command()
def seal(
    context: typer.Context,
    key: Annotated[Path, typer.Option(help="File of the private key that signs (`audit keygen`).")],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the checkpoints into this folder, to keep them elsewhere."),
    ] = None,
    wait: Annotated[
        str, typer.Option(help="Wait this long, at most, for a process that grows the trees.")
    ] = "60s",
) -> None:
    """Sign a checkpoint of each partition: what the log holds now.

    A checkpoint names the commands so far by one hash. Keep it where nobody who can write to the
    log can change it: `audit check --against` proves by it that none of them was altered since.
    """
    call = invocation(context)
    from mirrorlog.adapters.signed_heads import SignedHeads
    from mirrorlog.cli.support.command_logs import grow_now, newest_chains

    private = read_private_key(key)
    grow_now(call.settings, parse_duration_s(wait))
    chains = newest_chains(call.settings)
    with SignedHeads.opened(key) as signed:
        for chain in chains:
            head = TreeHead(chain.name.origin, chain.tree.size, chain.tree.root)
            signed.note(head, chain.files.read, where=chain.files.where)
            text = head.as_text()
            note = SignedNote(text, ()).with_signature(private.sign(head.origin, text))
            chain.files.replace(CHECKPOINT_FILE, note.as_text().encode())
            copy = None if out is None else _write_copy(out, chain.name.partition, head, note)
            _print(call, chain.name.partition, head, chain.position, note, copy)
    if not chains:
        call.output.print_text("nothing was signed: the log holds no command yet")
    elif out is None:
        call.output.print_text(
            "keep a copy of these checkpoints elsewhere (--out): here, they prove only themselves"
        )


def _write_copy(out: Path, partition: int, head: TreeHead, note: SignedNote) -> Path:
    path = out / f"partition-{partition}-{head.size}.checkpoint"
    with os_errors_named("the checkpoint can't be written", path, "Name another folder."):
        create_folder(out)
        replace_files({path: note.as_text().encode()})
    return path


def _print(
    call: Invocation,
    partition: int,
    head: TreeHead,
    position: int,
    note: SignedNote,
    copy: Path | None,
) -> None:
    call.output.print_message(
        "checkpoint",
        {
            "partition": partition,
            "origin": head.origin,
            "leaves": head.size,
            "position": position,
            "root": head.root.hex(),
            "file": None if copy is None else str(copy),
            "checkpoint": note.as_text(),
        },
    )
    place = "" if copy is None else f", in {copy}"
    call.output.print_text(
        f"partition {partition}: signed {head.size} commands, through position {position}{place}"
    )
