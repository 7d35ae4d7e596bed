"""`mirrorlog audit verify`: check a proof of one command, without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.cli.support.context import invocation
from mirrorlog.cli.support.log_keys import (
    LogKeyOption,
    WitnessOption,
    check_signatures,
    read_log_key,
    read_text,
    read_witness_keys,
)
from mirrorlog.errors import DifferenceFound
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import ProvedCommand
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.merkle import is_included, leaf_hash
from mirrorlog.transparency.proof_files import InclusionFile

app = typer.Typer()


@app.command()
def verify(
    context: typer.Context,
    proof: Annotated[Path, typer.Argument(help="File that `audit prove` wrote.")],
    key: LogKeyOption,
    witness: WitnessOption = None,
    show: Annotated[bool, typer.Option("--show", help="Print what the command says, too.")] = False,
) -> None:
    """Check a proof of one command. Nothing but the file and the public key is needed.

    Exit 4 if the proof doesn't hold.
    """
    call = invocation(context)
    where = str(proof)
    file = InclusionFile.parse(read_text(proof, "the proof"), where=where)
    head = TreeHead.of_note(file.note, where=where)
    name = LogName.parse(head.origin, where=where)
    proved = ProvedCommand.parse(file.extra, where=where)
    position = proved.leaf.position
    cosigned = check_signatures(
        file.note,
        read_log_key(key, head.origin),
        read_witness_keys(witness or ()),
        where=where,
        covers=f"{head.size} commands, among them position {position}",
    )
    failure = None
    if not is_included(leaf_hash(proved.entry), file.index, head.size, file.path, head.root):
        failure = "its leaf isn't in the tree of the checkpoint"
    elif not proved.holds:
        failure = "the command in it isn't the one of its leaf"
    if failure is not None:
        raise DifferenceFound(
            f"this proof of position {position} is forged: {failure}",
            where=where,
            next="Don't believe it. Ask for a new one (`mirrorlog audit prove`).",
        )
    from mirrorlog.transparency.ed25519_keys import cosigned_at_s

    witnesses = {
        item.name: datetime.fromtimestamp(cosigned_at_s(item.signature), UTC) for item in cosigned
    }
    key_bytes, value = proved.message or (None, None)
    volume = None if key_bytes is None else key_bytes.decode("utf-8", "replace")
    fields: dict[str, object] = {
        "origin": head.origin,
        "partition": name.partition,
        "position": position,
        "volume": volume,
        "sha256": proved.leaf.digest.hex(),
        "leaf": file.index,
        "leaves": head.size,
        "witnesses": {item: f"{at:%Y-%m-%dT%H:%M:%SZ}" for item, at in witnesses.items()},
    }
    of_volume = f" of volume {volume}" if volume else ""
    lines = [
        f"the command at position {position} of partition {name.partition}{of_volume} is in the "
        f"log as it was sealed, one of {head.size}"
    ]
    lines += [
        f"witness {item} signed at {at:%Y-%m-%d %H:%M:%S} UTC" for item, at in witnesses.items()
    ]
    if show and proved.message is not None:
        from mirrorlog.cli.support.event_view import event_line, message_fields
        from mirrorlog.ports.streams import Message

        event = message_fields(Message("commands", name.partition, position, key_bytes, value))
        fields["command"] = event
        lines.append(event_line("commands", event))
    call.output.print_message("result", fields)
    for line in lines:
        call.output.print_text(line)
