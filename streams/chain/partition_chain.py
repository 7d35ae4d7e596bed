"""PartitionChain: the tree of one partition, which grows with the partition's commands."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Self

from mirrorlog.domain.histories import History, anchor_of
from mirrorlog.ports.log_files import LogFiles, LogStore
from mirrorlog.ports.streams import Message
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.command_chain import CommandEntry, chain, command_digest, first_link
from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.log_names import LogName
from mirrorlog.transparency.merkle import leaf_hash
from mirrorlog.transparency.tiles import HEAD_FILE, TiledLog

log = logging.getLogger("mirrorlog.chain")

COMMIT_LEAVES: Final = 1 << 16
"""After so many leaves the tree is made durable, though more follow at once."""
_CHAINED_AT_ONCE: Final = 1024


class ForeignCommands(Exception):
    """The topic holds other commands than those in the tree, or than those that the node recorded.

    The node renews the history of the partition when it finds out, and another tree begins.
    """


@dataclass(slots=True)
class PartitionChain:
    """The tree of one partition in one history.

    position: of the newest leaf; one less than the name's `first` in an empty tree. digest: of that
    command, None in an empty tree. link: its link.
    """

    name: LogName
    files: LogFiles
    tree: GrowingLog
    position: int
    digest: bytes | None
    link: bytes

    @classmethod
    def begin(cls, store: LogStore, name: LogName) -> Self:
        """Begin a tree without leaves. Its name is durable before its first leaf."""
        files = store.open(name.folder)
        tree = GrowingLog()
        files.replace(HEAD_FILE, TreeHead(name.origin, 0, tree.root).as_text().encode())
        return cls(name, files, tree, name.first - 1, None, first_link(name.origin))

    @classmethod
    def newest(cls, store: LogStore, partition: int, history: str) -> Self | None:
        """Return the partition's tree of the history that begins last; None if it has none.

        A folder under another name than its log's is a copy, or was moved away: it isn't read.
        Raise StateDamaged if the tree's files don't have the root of its head.
        """
        logs = [
            (name, files, head)
            for folder in store.folders(partition)
            if (head := read_head(files := store.open(folder))) is not None
            and (name := LogName.parse(head.origin, where=folder)).history == history
            and name.folder == folder
        ]
        newest = max(logs, key=lambda log: log[0].first, default=None)
        return None if newest is None else cls._restored(*newest)

    @classmethod
    def _restored(cls, name: LogName, files: LogFiles, head: TreeHead) -> Self:
        tree = GrowingLog.restored(files.read, head.size, head.root, where=files.where)
        if not head.size:
            return cls(name, files, tree, name.first - 1, None, first_link(name.origin))
        entry = TiledLog(files.read, head.size, where=files.where).entry(head.size - 1)
        command = CommandEntry.parse(entry, where=files.where)
        return cls(name, files, tree, command.position, command.digest, leaf_hash(entry))

    def grow(self, messages: Iterable[Message], watermark: Watermark) -> int:
        """Add the commands above `position`, and make them durable. Return how many they are.

        messages: of the partition through the watermark, in order; they may begin with the command
        at `position`, which is compared. Raise ForeignCommands if that one is another, or if the
        one at the watermark is; what isn't durable yet is then forgotten.
        """
        added = 0
        new = self._behind_newest(messages, watermark)
        while part := list(islice(new, _CHAINED_AT_ONCE)):
            entries, hashes = chain(part, self.link)
            self.tree.append(entries, hashes)
            self.link, self.position = hashes[-1], part[-1][0]
            self.digest = CommandEntry.parse(entries[-1], where=self.files.where).digest
            added += len(part)
            if added % COMMIT_LEAVES < len(part):
                self._commit()
        if added:
            self._commit()
        return added

    def _behind_newest(
        self, messages: Iterable[Message], watermark: Watermark
    ) -> Iterator[tuple[int, bytes | None, bytes | None]]:
        """Yield position, key and value of each message behind the tree. Raise ForeignCommands."""
        newest, digest = self.position, self.digest
        for message in messages:
            position, key, value = message.position, message.key, message.value
            if position == watermark.through and watermark.anchor not in (
                None,
                anchor_of(key, value),
            ):
                raise ForeignCommands(
                    f"the command at position {position} isn't the one that the node recorded"
                )
            if position > newest:
                yield position, key, value
            elif position == newest and command_digest(key, value) != digest:
                raise ForeignCommands(
                    f"the command at position {position} isn't the one in the tree"
                )

    def _commit(self) -> None:
        """Make the tree durable: its files first, then the head that names its size."""
        files = self.tree.commit()
        self.files.write(files)
        head = TreeHead(self.name.origin, self.tree.size, self.tree.root)
        self.files.replace(HEAD_FILE, head.as_text().encode())
        self.files.drop_partial([path for path in files if ".p/" not in path])


def read_head(files: LogFiles) -> TreeHead | None:
    """Return size and root of a log, as they were made durable last; None if it has no head."""
    content = files.read(HEAD_FILE)
    if content is None:
        return None
    return TreeHead.parse(content.decode("utf-8", "replace"), where=f"{files.where}/{HEAD_FILE}")


def name_of(history: History, *, partition: int, first: int) -> LogName:
    """Return the name of the log that begins at `first` in a history of the partition."""
    return LogName(
        cluster=history.cluster,
        topic=history.topic,
        partition=partition,
        history=history.id,
        first=first,
    )
