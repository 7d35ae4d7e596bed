"""A commands topic as the fold asks about it."""

from __future__ import annotations


class FixedSource:
    """Gives the same answers for every partition, and keeps the questions about gaps.

    committed_position: None if nobody may ask for it. questions: as `first..end`.
    """

    def __init__(self, committed_position: int | None, gap_reason: str | None) -> None:
        self.committed_position, self.reason = committed_position, gap_reason
        self.questions: list[str] = []

    def committed(self, partition: int) -> int:
        assert self.committed_position is not None
        return self.committed_position

    def gap_reason(self, partition: int, *, first: int, end: int) -> str | None:
        self.questions.append(f"{first}..{end}")
        return self.reason
