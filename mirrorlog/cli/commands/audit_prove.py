"""`mirrorlog audit prove`: a file that proves one command offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirrorlog.adapters.folders import replace_files
from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.changed.points import AtPosition, parse_point
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.log_keys import read_checkpoint
from mirrorlog.errors import BadUse, DifferenceFound, OutOfRetention
from mirrorlog.settings import Settings
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, ProvedCommand, command_digest
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.merkle import inclusion_proof, is_included, leaf_hash
from mirrorlog.transparency.notes import SignedNote, parse_note
from mirrorlog.transparency.proof_files import SUFFIX, InclusionFile
from mirrorlog.transparency.tiles import CHECKPOINT_FILE, TiledLog

if TYPE_CHECKING:
    from mirrorlog.adapters.log_folder import LogFolder
    from mirrorlog.ports.streams import Message

app = typer.Typer()


@app.command()
def prove(
    context: typer.Context,
    volume: Annotated[str, typer.Argument(help="Name of the volume.")],
    position: Annotated[
        str, typer.Argument(help="Position of one of its commands.", metavar="@POSITION")
    ],
    against: Annotated[
        Path | None,
        typer.Option(help="Prove it by this checkpoint. The default is the newest one."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write this file. The default is VOLUME-POSITION.tlog-proof."),
    ] = None,
) -> None:
    """Write a file that proves one command to whoever has the public key, without a cluster.

    It holds the command's bytes, its place in the tree, and a signed checkpoint. `audit verify`
    checks it, and so does any program for c2sp.org/tlog-proof files.
    """
    call = invocation(context)
    number = _number_of(position)
    from mirrorlog.cli.support.lookup import find_volume

    partition = find_volume(call.settings, volume, may_be_mirror=True).partition
    note, head, files, index = _leaf(call.settings, partition, number, against)
    tiled = TiledLog(files.read, head.size, where=files.where)
    entry = tiled.entry(index)
    path = inclusion_proof(tiled, index, head.size)
    if not is_included(leaf_hash(entry), index, head.size, path, head.root):
        raise DifferenceFound(
            f"the tree doesn't have the root of its checkpoint: the leaf of position {number}, or "
            "what is above it, was altered",
            where=files.where,
            next="`mirrorlog audit check` says which position differs.",
        )
    command = _command(call, volume, partition, number, CommandEntry.parse(entry, where=position))
    proved = ProvedCommand(entry, None if command is None else (command.key, command.value))
    file = out or Path(f"{volume}-{number}{SUFFIX}")
    text = InclusionFile(index, tuple(path), note, proved.as_bytes()).as_text()
    with os_errors_named("the proof can't be written", file, "Name another file (--out)."):
        replace_files({file: text.encode()})
    call.output.print_message(
        "result",
        {
            "volume": volume,
            "partition": partition,
            "position": number,
            "leaf": index,
            "leaves": head.size,
            "file": str(file),
        },
    )
    call.output.print_text(f"{file} proves the command of {volume} at position {number}")


def _number_of(position: str) -> int:
    point = parse_point("@" + position.removeprefix("@"), now_us=0)
    if not isinstance(point, AtPosition) or point.position < 0:
        raise BadUse(
            f"'{position[:60]}' is no position",
            next="Write it as @7. `topics tail` shows positions.",
        )
    return point.position


def _leaf(
    settings: Settings, partition: int, position: int, against: Path | None
) -> tuple[SignedNote, TreeHead, LogFolder, int]:
    """Return the checkpoint that covers the position, the log's files, and the leaf's index.

    Raise OutOfRetention if none does.
    """
    from mirrorlog.cli.support.command_logs import leaf_at

    for note, head, files in _checkpoints(settings, partition, against):
        index = leaf_at(TiledLog(files.read, head.size, where=files.where), position)
        if index is not None:
            return note, head, files, index
    raise OutOfRetention(
        f"no checkpoint covers position {position} of partition {partition}",
        where=str(against or settings.chain_dir),
        next="Sign one (`mirrorlog audit seal`). A command that was gone before its tree began "
        "can't be proved any more.",
    )


def _checkpoints(
    settings: Settings, partition: int, against: Path | None
) -> Iterator[tuple[SignedNote, TreeHead, LogFolder]]:
    """Yield the given checkpoint, or those of all logs of the partition, with the log's files."""
    from mirrorlog.cli.support.command_logs import log_folders, log_named

    if against is not None:
        note, head = read_checkpoint(against)
        name = LogName.parse(head.origin, where=str(against))
        files = log_named(settings, head.origin, where=str(against))
        if name.partition != partition or files is None:
            raise BadUse(
                f"this checkpoint isn't of a log of partition {partition} in the folder of the "
                "trees",
                where=str(against),
                next="Name the folder that has its tree (MIRRORLOG_CHAIN_DIR).",
            )
        yield note, head, files
        return
    store = log_folders(settings)
    for folder in store.folders(partition):
        files = store.open(folder)
        content = files.read(CHECKPOINT_FILE)
        if content is not None:
            note = parse_note(content.decode("utf-8", "replace"), where=files.where)
            yield note, TreeHead.of_note(note, where=files.where), files


def _command(
    call: Invocation, volume: str, partition: int, position: int, entry: CommandEntry
) -> Message | None:
    """Return the command itself; None if it isn't kept any more.

    Raise DifferenceFound if another one is kept there, BadUse if it is another volume's.
    """
    from mirrorlog.cli.support.kept_commands import kept_commands, kept_range

    kept, message = kept_range(call.settings, partition), None
    if kept.first <= position < kept.end:
        messages = kept_commands(call.settings, partition, start=position, end=position + 1)
        message = next(messages, None)
    if message is None:
        call.output.print_note(
            f"position {position} isn't kept any more: the proof holds the command's digest alone"
        )
        return None
    if command_digest(message.key, message.value) != entry.digest:
        raise DifferenceFound(
            f"the command at position {position} isn't the one that was sealed",
            where=f"partition {partition}",
            next="`mirrorlog audit check` says what else differs.",
        )
    if message.key != volume.encode():
        raise BadUse(
            f"the command at position {position} is another volume's",
            where=f"partition {partition}",
            next=f"`mirrorlog audit {volume}` shows the positions of this volume's commands.",
        )
    return message
