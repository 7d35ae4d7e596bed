"""A commands topic and a compactor as the fold asks about them."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.tracking_log.publication_delays import PublicationDelays


class FixedSource:
    """Gives the same answers for every partition, and keeps the questions about gaps.

    questions: as `first..end`.
    """

    def __init__(self, gap_reason: str | None) -> None:
        self.reason = gap_reason
        self.questions: list[str] = []

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        self.questions.append(f"{first}..{end}")
        return self.reason

    def batches(self, partition: int, *, first: int, end: int) -> Iterator[EventBatch]:
        raise AssertionError("nothing is folded again")


class NoHistories:
    """The histories of partitions that never end (PartitionHistories)."""

    async def doubt(self, partition: int) -> str | None:
        return None

    async def check_not_renewed(self, partition: int) -> None: ...

    async def renew(self, partition: int, reason: str) -> int:
        raise AssertionError(reason)


class NoCompaction:
    """Nothing is ever rolled up or deleted."""

    def note_appended(self, partition: int, *, through: int, at_us: int | None) -> None: ...

    def note_delays(self, delays: PublicationDelays) -> None: ...

    async def work(self, partition: int) -> float:
        return 1.0
