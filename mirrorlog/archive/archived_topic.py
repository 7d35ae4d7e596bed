"""The archived commands of one Kafka topic: the positions that it holds, and their messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mirrorlog.archive.archive import Archive, CommandsWanted
from mirrorlog.archive.chains import ClippedChain, missing_in
from mirrorlog.archive.manifests import ArchivedFile, FileKind, LastMessage
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.ports.streams import Message

_MS: Final = 1000
"""Kafka's times are milliseconds, rounded down."""


class ArchivedTopic:
    """What an archive holds of the commands topic with one id.

    topic_id: Kafka's. Positions of any other topic mean other commands, and aren't looked at.
    """

    def __init__(self, archive: Archive, topic_id: str) -> None:
        self.archive, self.topic_id = archive, topic_id

    def covered(self, partition: int) -> list[tuple[int, int]]:
        """Return the ranges (after, through] of which every message is archived, ascending.

        Raise StateDamaged if a chain is broken; ArchiveFailed.
        """
        line = self._line(partition)
        if not line:
            return []
        covered: list[tuple[int, int]] = []
        reached, end = line[0].chain.after, line[-1].through
        for after, through in [*missing_in(line, after=reached, through=end), (end, end)]:
            if after > reached:
                covered.append((reached, after))
            reached = through
        return covered

    def covered_after(self, partition: int, *, below: int) -> int:
        """Return the position above which every message below `below` is archived.

        Return `below` - 1 if the last message below it isn't.
        """
        for after, through in self.covered(partition):
            if after < below <= through + 1:
                return min(after, below - 1)
        return below - 1

    def last_message(self, partition: int) -> LastMessage | None:
        """Return the last message that is archived of the partition; None if there is none."""
        line = self._line(partition, above=1 << 62)
        return line[-1].chain.last.last if line else None

    def messages(
        self, partition: int, *, after: int, through: int, volume: str | None = None
    ) -> Iterator[Message]:
        """Yield the messages in `(after, through]`, in order; the range must be covered.

        volume: without the commands that name another volume; None: all. Raise StateDamaged for a
        damaged file.
        """
        wanted = CommandsWanted(after, through, None if volume is None else frozenset([volume]))
        return self.archive.commands(self._line(partition, above=after), wanted)

    def appended_from(self, partition: int, at_us: int, *, after: int, below: int) -> int | None:
        """Return the position of the first message above `after` and below `below` that was
        appended at a time or later, in Kafka's milliseconds; None if none was.

        Only files with such a message are read. Raise StateDamaged for a damaged one.
        """
        for part in self._line(partition, above=after):
            for manifest in part.chain.manifests:
                through = min(manifest.through, part.through, below - 1)
                files = manifest.files_of(FileKind.COMMANDS)
                if through <= after or not any(_may_be_from(file, at_us) for file in files):
                    continue
                wanted = CommandsWanted(max(after, manifest.after), through)
                for message in self.archive.commands([part], wanted):
                    if message.at_us // _MS >= at_us // _MS:
                        return message.position
        return None

    def _line(self, partition: int, *, above: int = BEFORE_FIRST) -> list[ClippedChain]:
        return self.archive.line(partition, self.topic_id, above=above)


def _may_be_from(file: ArchivedFile, at_us: int) -> bool:
    """Return whether a message of a file of commands may have a time or a later one."""
    last_us = file.last_appended_at_us
    return last_us is None or last_us // _MS >= at_us // _MS
