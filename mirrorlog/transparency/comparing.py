"""Commands that are kept, held against the leaves of a log: what was altered, and where. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Final

from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, chain_digests, first_link
from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.merkle import leaf_hash
from mirrorlog.transparency.tiles import TILE_WIDTH, TiledLog

MAX_DIFFERENCES: Final = 1000
"""After so many differences the comparison ends: the rest of the topic is another one."""
_AT_ONCE: Final = 4096


class LeafFinding(StrEnum):
    """How a command differs from the leaf at its position.

    altered: another command has the position. moved: that one has another position in the tree,
    so commands were reordered, or one before it was dropped or added. dropped: no command has the
    position. added: the tree has no leaf of this position.
    """

    ALTERED = "altered"
    MOVED = "moved"
    DROPPED = "dropped"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class LeafDifference:
    """A difference at one position. moved_from: where the tree has the command that is there now.

    expected, actual: the digests of the leaf and of the command; None where there is none.
    """

    position: int
    finding: LeafFinding
    expected: bytes | None = None
    actual: bytes | None = None
    moved_from: int | None = None

    def __str__(self) -> str:
        texts = {
            LeafFinding.ALTERED: "the command was altered",
            LeafFinding.MOVED: f"the command of position {self.moved_from} is here",
            LeafFinding.DROPPED: "the command was dropped",
            LeafFinding.ADDED: "a command was added",
        }
        return f"position {self.position}: {texts[self.finding]}"


def compare_leaves(
    entries: Iterable[CommandEntry], commands: Iterable[tuple[int, bytes]]
) -> Iterator[LeafDifference]:
    """Yield every position at which commands and leaves differ, in order.

    entries, commands: of the same range of positions, both in order; commands: position and digest.
    """
    leaves, kept = iter(entries), iter(commands)
    leaf, command = next(leaves, None), next(kept, None)
    while leaf is not None or command is not None:
        if command is None or (leaf is not None and leaf.position < command[0]):
            assert leaf is not None
            yield LeafDifference(leaf.position, LeafFinding.DROPPED, leaf.digest)
            leaf = next(leaves, None)
        elif leaf is None or command[0] < leaf.position:
            yield LeafDifference(command[0], LeafFinding.ADDED, None, command[1])
            command = next(kept, None)
        else:
            if command[1] != leaf.digest:
                yield LeafDifference(leaf.position, LeafFinding.ALTERED, leaf.digest, command[1])
            leaf, command = next(leaves, None), next(kept, None)


def with_moves(differences: Iterable[LeafDifference]) -> list[LeafDifference]:
    """Return the differences; of a command that the tree has elsewhere, say where."""
    known = list(differences)
    places = {item.expected: item.position for item in known if item.expected is not None}
    return [
        replace(item, finding=LeafFinding.MOVED, moved_from=places[item.actual])
        if item.finding is LeafFinding.ALTERED and item.actual in places
        else item
        for item in known
    ]


class ForgedLeaves(Exception):
    """The files of a tree aren't those whose root was signed.

    position: the first one whose leaf is wrong; None if only the root shows that one is.
    """

    def __init__(self, what: str, position: int | None = None) -> None:
        super().__init__(what)
        self.what, self.position = what, position


def authentic_entries(files: TiledLog, head: TreeHead) -> Iterator[CommandEntry]:
    """Yield the entries of a log of `head.size` leaves, in order.

    They are proved only when the last one was yielded. Raise ForgedLeaves if a leaf doesn't name
    the one before it, or if the leaves don't have the root of `head`; StateDamaged if a file is
    missing or cut.
    """
    tree, link, position = GrowingLog(), first_link(head.origin), -1
    for index in range(-(-head.size // TILE_WIDTH)):
        entries = files.entries(index)
        hashes = [leaf_hash(entry) for entry in entries]
        for entry, entry_hash in zip(entries, hashes, strict=True):
            command = CommandEntry.parse(entry, where=f"leaf {tree.size}")
            if command.previous != link or command.position <= position:
                raise ForgedLeaves("a leaf was altered", max(position, 0))
            link, position = entry_hash, command.position
            yield command
        tree.append(entries, hashes)
        tree.commit()  # the files are there already: only the root is wanted
    if tree.root != head.root:
        raise ForgedLeaves(f"the {head.size} leaves don't have the root of the checkpoint")


def root_of_commands(origin: str, digests: Iterable[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Return how many commands there are, and the root of their tree. digests: by position."""
    tree, link, rest = GrowingLog(), first_link(origin), iter(digests)
    while part := list(islice(rest, _AT_ONCE)):
        entries, hashes = chain_digests(part, link)
        link = hashes[-1]
        tree.append(entries, hashes)
        tree.commit()
    return tree.size, tree.root
