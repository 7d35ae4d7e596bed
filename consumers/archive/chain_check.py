"""The commands of an archive, held against the tree of their partition (mirrorlog/transparency)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mirrorlog.archive.archive import Archive, CommandsWanted
from mirrorlog.archive.chains import Chain, ClippedChain
from mirrorlog.errors import DifferenceFound
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, command_digest, last_position
from mirrorlog.transparency.comparing import (
    MAX_DIFFERENCES,
    ForgedLeaves,
    authentic_entries,
    compare_leaves,
    with_moves,
)
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.tiles import TiledLog


@dataclass(slots=True)
class CheckedTree:
    """What was compared of one tree.

    compared: archived commands whose digest is that of their leaf. not_in_tree: archived commands
    behind the last leaf. not_archived: leaves outside the archived range.
    """

    origin: str
    compared: int = 0
    not_in_tree: int = 0
    not_archived: int = 0


def check_against_tree(
    archive: Archive, chain: Chain, name: LogName, files: TiledLog, head: TreeHead
) -> CheckedTree:
    """Compare every archived command of a history with the leaf of its position.

    chain: of the history that `name` names. head: of the tree: its size and root.

    Holes that a manifest names count as dropped commands. Raise DifferenceFound, which names the
    first position that differs; StateDamaged for a damaged file.
    """
    check = _Comparison(archive, chain, name, CheckedTree(head.origin))
    try:
        last = last_position(files)
        differences = with_moves(
            islice(compare_leaves(check.leaves(files, head), check.commands(last)), MAX_DIFFERENCES)
        )
    except ForgedLeaves as error:
        where = head.origin if error.position is None else f"{head.origin} @{error.position}"
        raise DifferenceFound(
            f"the files of the tree aren't those whose root it names: {error.what}",
            where=where,
            next="Compare the tree with a signed checkpoint (`mirrorlog audit check`).",
        ) from error
    if differences:
        raise DifferenceFound(
            f"the archive differs from the tree of its commands, first at {differences[0]}",
            where=f"partition {name.partition}, {len(differences)} positions differ",
            next="One of both was altered: `mirrorlog audit check` holds the tree against a signed "
            "checkpoint.",
        )
    return check.checked


@dataclass(frozen=True, slots=True)
class _Comparison:
    archive: Archive
    chain: Chain
    name: LogName
    checked: CheckedTree

    def leaves(self, files: TiledLog, head: TreeHead) -> Iterator[CommandEntry]:
        """Yield the leaves of the archived range, after all of them were read and proved."""
        for entry in authentic_entries(files, head):
            if self.chain.after < entry.position <= self.chain.through:
                yield entry
            else:
                self.checked.not_archived += 1

    def commands(self, last: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and digest of the archived commands that the tree may have.

        last: the position of its last leaf.
        """
        line = [ClippedChain(self.chain, self.chain.through)]
        wanted = CommandsWanted(self.name.first - 1, self.chain.through)
        for message in self.archive.commands(line, wanted):
            if message.position > last:
                self.checked.not_in_tree += 1
                continue
            self.checked.compared += 1
            yield message.position, command_digest(message.key, message.value)
