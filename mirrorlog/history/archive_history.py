"""The rows of an archive, and of archive and topic together, without a seam."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import OutOfRetention
from mirrorlog.history.batches import HistoryBatch, empty_batch
from mirrorlog.history.command_rows import command_rows
from mirrorlog.history.source import CoveredRange, HistorySource
from mirrorlog.history.topic_history import message_parts


class ArchiveHistory:
    """HistorySource of an archive: its exact commands, made rows as those of the topic are."""

    def __init__(self, archived: ArchivedTopic) -> None:
        self._archived = archived

    def covered(self, volume: Volume) -> list[CoveredRange]:
        """Return the ranges of positions that are archived."""
        return [
            CoveredRange(after=after, through=through)
            for after, through in self._archived.covered(volume.partition)
        ]

    def batches(self, volume: Volume, *, after: int, through: int) -> Iterator[HistoryBatch]:
        """Yield the volume's rows in `(after, through]` (HistorySource).

        Raise StateDamaged for a damaged file; also while it reads.
        """
        covered = self.covered(volume)
        if after < through and not any(
            part.after <= after and through <= part.through for part in covered
        ):
            raise OutOfRetention(
                "the archive doesn't hold all of the range",
                where=f"volume {volume.volume}, positions ({after}, {through}]",
                next="`mirrorlog archive list` shows what it holds.",
            )
        reached = after
        messages = self._archived.messages(
            volume.partition, after=after, through=through, volume=volume.volume
        )
        for part in message_parts(messages):
            reached = part[-1].position
            yield command_rows(part, volume, through=reached)
        if reached < through:
            yield empty_batch(through)


class JoinedHistory:
    """HistorySource of the topic, and of an archive for what the topic no longer keeps.

    Positions are the seam: what the topic has is read from the topic, and everything below its
    first position from the archive. The topic may drop commands while they are read. Then the
    archive has them, and the reading goes on there, behind the last row that was yielded.
    """

    def __init__(self, topic: HistorySource, archive: HistorySource) -> None:
        self._topic, self._archive = topic, archive

    def covered(self, volume: Volume) -> list[CoveredRange]:
        """Return the ranges that one of both has, or both together.

        What the archive holds at or above the topic's first position doesn't count: if the topic
        went back in time, it holds other commands there.
        """
        in_topic = self._topic.covered(volume)
        ranges = self._archive.covered(volume)
        if in_topic:
            first = in_topic[0].after
            ranges = [
                CoveredRange(after=part.after, through=min(part.through, first))
                for part in ranges
                if part.after < first
            ]
        joined: list[CoveredRange] = []
        for part in [*ranges, *in_topic]:
            if joined and part.after <= joined[-1].through:
                through = max(part.through, joined[-1].through)
                joined[-1] = CoveredRange(after=joined[-1].after, through=through)
            else:
                joined.append(part)
        return joined

    def batches(self, volume: Volume, *, after: int, through: int) -> Iterator[HistoryBatch]:
        """Yield the volume's rows in `(after, through]` (HistorySource)."""
        reached = after
        while reached < through:
            first = self._first_in_topic(volume, through)
            try:
                for batch in self._next_part(volume, reached, through, first):
                    yield batch
                    reached = batch.through
            except OutOfRetention:
                if self._first_in_topic(volume, through) <= first:
                    raise  # it isn't that the topic has dropped commands meanwhile

    def _first_in_topic(self, volume: Volume, through: int) -> int:
        """Return the position above which the topic has everything; `through` if it has nothing."""
        in_topic = self._topic.covered(volume)
        return in_topic[0].after if in_topic else through

    def _next_part(
        self, volume: Volume, after: int, through: int, first: int
    ) -> Iterator[HistoryBatch]:
        if after < first:
            return self._archive.batches(volume, after=after, through=min(first, through))
        return self._topic.batches(volume, after=after, through=through)
