"""`mirrorlog audit check`: hold the commands that are kept against a signed checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.log_keys import (
    WitnessOption,
    check_signatures,
    read_checkpoint,
    read_log_key,
    read_witness_keys,
)
from mirrorlog.errors import DifferenceFound, MirrorlogError, OutOfRetention, StateDamaged
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, command_digest, last_position
from mirrorlog.transparency.comparing import (
    MAX_DIFFERENCES,
    ForgedLeaves,
    LeafDifference,
    authentic_entries,
    compare_leaves,
    root_of_commands,
    with_moves,
)
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.tiles import TiledLog

if TYPE_CHECKING:
    from mirrorlog.cli.support.kept_commands import KeptRange

app = typer.Typer()

_MAX_PRINTED = 20


@app.command()
def check(
    context: typer.Context,
    against: Annotated[Path, typer.Option(help="File of a checkpoint that `audit seal` made.")],
    key: Annotated[
        Path, typer.Option(help="File of the public key of whoever sealed it (KEY.pub).")
    ],
    witness: WitnessOption = None,
) -> None:
    """Prove that no command was altered, dropped, added or reordered since a checkpoint.

    Every command that the checkpoint covers, and that the topic or the archive keeps, is hashed
    again. Exit 4 and the first position that fails if there is a difference, 3 if retention took
    commands that no copy holds.
    The tree in the folder chain_dir says which position it is; without it, only that there is one.
    """
    call = invocation(context)
    note, head = read_checkpoint(against)
    where = str(against)
    name = LogName.parse(head.origin, where=where)
    from mirrorlog.cli.support.command_logs import log_named

    files = log_named(call.settings, head.origin, where=where)
    tree = None if files is None else TiledLog(files.read, head.size, where=files.where)
    covers = _covers(head, name, tree)
    check_signatures(
        note,
        read_log_key(key, head.origin),
        read_witness_keys(witness or ()),
        where=where,
        covers=covers,
    )
    from mirrorlog.cli.support.kept_commands import kept_range

    kept = kept_range(call.settings, name.partition)
    if name.topic not in (None, kept.topic):
        call.output.print_note(
            f"the checkpoint is of topic {name.topic}, and this one is {kept.topic}: it was "
            "created again, or is a copy"
        )
    check = _CheckedLog(call, name, head, tree, kept)
    check.run()
    check.report(covers, where)


def _covers(head: TreeHead, name: LogName, tree: TiledLog | None) -> str:
    """Return in words what a checkpoint claims. Its last position is the tree's here, if any."""
    try:
        if tree is not None and head.size:
            return f"{head.size} commands, through position {last_position(tree)}"
    except MirrorlogError:
        pass
    return f"{head.size} commands from position {name.first} on"


@dataclass(slots=True)
class _CheckedLog:
    """One check: its input, and what it has found so far.

    tree: the log's files, of the checkpoint's size; None if this machine has none. compared:
    commands that were hashed again. unproved: leaves whose commands nobody keeps. forged: how the
    tree's own files fail.
    """

    call: Invocation
    name: LogName
    head: TreeHead
    tree: TiledLog | None
    kept: KeptRange
    compared: int = 0
    unproved: int = 0
    unproved_through: int | None = None
    differences: list[LeafDifference] = field(default_factory=list)
    forged: ForgedLeaves | None = None

    def run(self) -> None:
        """Compare by the tree's files, or, where there are none, by the root alone."""
        if self.tree is None:
            self._compare_root()
            return
        try:
            last = last_position(self.tree)
            found_differences = compare_leaves(self._leaves(self.tree), self._commands(last))
            self.differences = with_moves(islice(found_differences, MAX_DIFFERENCES))
            if len(self.differences) == MAX_DIFFERENCES:
                # Is the tree at least the signed one?
                for _ in authentic_entries(self.tree, self.head):
                    pass
        except ForgedLeaves as error:
            self.forged = error
        except StateDamaged as error:
            self.call.output.print_note(f"the tree's files can't be used: {error}")
            self.compared, self.unproved = 0, 0
            self._compare_root()

    def _leaves(self, tiled: TiledLog) -> Iterator[CommandEntry]:
        """Yield the leaves whose commands are kept, after all of them were read."""
        for entry in authentic_entries(tiled, self.head):
            if entry.position < self.kept.first:
                self.unproved += 1
                self.unproved_through = entry.position
            else:
                yield entry

    def _commands(self, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and digest of each command that is kept, through the position `last`."""
        from mirrorlog.cli.support.kept_commands import kept_commands

        start, end = max(self.name.first, self.kept.first), min(last + 1, self.kept.end)
        for message in kept_commands(self.call.settings, self.name.partition, start=start, end=end):
            self.compared += 1
            yield message.position, command_digest(message.key, message.value)

    def _compare_root(self) -> None:
        """Compare the root over all commands, if all of them are kept."""
        if self.kept.first > self.name.first:
            raise OutOfRetention(
                f"nothing can be proved: what is kept begins at position {self.kept.first}, the "
                f"checkpoint at {self.name.first}, and the tree's files aren't here",
                where=self.head.origin,
                next="Name the folder of the trees (MIRRORLOG_CHAIN_DIR).",
            )
        digests = islice(self._commands(self.kept.end - 1), self.head.size)
        size, root = root_of_commands(self.head.origin, digests)
        if size < self.head.size:
            self.forged = ForgedLeaves(
                f"{size} are kept the {self.head.size} commands", self.kept.end
            )
        elif root != self.head.root:
            self.forged = ForgedLeaves(
                f"the first {size} commands don't have the root of the checkpoint. Without the "
                "tree's files nobody can say which of them differs"
            )

    def report(self, covers: str, where: str) -> None:
        """Print what was found. Raise DifferenceFound or OutOfRetention unless all is proved."""
        output = self.call.output
        for difference in self.differences[:_MAX_PRINTED]:
            output.print_message("difference", _fields(difference))
            output.print_text(str(difference))
        failed = bool(self.differences or self.forged)
        first = self.differences[0].position if self.differences else None
        if first is None and self.forged is not None:
            first = self.forged.position
        output.print_message(
            "result",
            {
                "origin": self.head.origin,
                "leaves": self.head.size,
                "compared": self.compared,
                "unproved": self.unproved,
                "differences": len(self.differences),
                "first_position": first,
                "ok": False if failed else None if self.unproved else True,
            },
        )
        if self.forged is not None:
            place = "" if self.forged.position is None else f" at position {self.forged.position}"
            raise DifferenceFound(
                f"the tree isn't the one of this checkpoint ({covers}): {self.forged.what}{place}",
                where=where,
                next="The checkpoint is forged, or the tree was altered. Compare with an earlier "
                "checkpoint, and with copies of the tree's files.",
            )
        if self.differences:
            raise DifferenceFound(
                f"the commands differ from what was sealed, first at {self.differences[0]}",
                where=f"partition {self.name.partition}",
                next="The log was altered there after it was sealed. Keep the topic as it is, and "
                "find out who could write to it.",
            )
        if self.unproved:
            raise OutOfRetention(
                f"{self.compared} commands are as they were sealed. Retention took the "
                f"{self.unproved} before them, through position {self.unproved_through}: nothing "
                "is proved of these but their digests",
                where=f"partition {self.name.partition}",
                next="Name the archive that has them (MIRRORLOG_ARCHIVE). `archive run` keeps what "
                "is sealed from now on.",
            )
        output.print_text(
            f"partition {self.name.partition}: none of {covers} was altered, dropped, added or "
            "reordered"
        )


def _fields(difference: LeafDifference) -> dict[str, object]:
    return {
        "position": difference.position,
        "finding": str(difference.finding),
        "expected_sha256": None if difference.expected is None else difference.expected.hex(),
        "actual_sha256": None if difference.actual is None else difference.actual.hex(),
        "moved_from": difference.moved_from,
    }
