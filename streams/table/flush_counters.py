"""What a worker has written since its start, counted for metrics and reports."""

from __future__ import annotations

from collections import Counter
from typing import Final

from mirrorlog.domain.commands import StatusCode
from mirrorlog.metric_samples import DurationHistogram
from mirrorlog.streams.fold.flush_plan import FlushPlan


class FlushCounters:
    """Counts since the worker's start, over all partitions that it has had.

    statuses: commands by the status with which they were answered. A command that is read again
        counts again.
    quarantined: refused events.
    records: log records, or parts of them, by the number of their tier.
    flush_s: how long flushes took.
    """

    def __init__(self) -> None:
        self.statuses: Final[Counter[StatusCode]] = Counter()
        self.records: Final[Counter[int]] = Counter()
        self.quarantined = 0
        self.flush_s: Final = DurationHistogram()

    def note_flush(self, plan: FlushPlan, duration_s: float) -> None:
        """Count what a plan wrote, once its replies are sent."""
        for status in plan.statuses:
            self.statuses[status.code] += 1
        self.statuses[StatusCode.ACCEPTED] += sum(
            len(command.positions) for command in plan.accepted
        )
        self.quarantined += len(plan.quarantined)
        self.records[0] += len(plan.records) + len(plan.packed)
        self.flush_s.observe(duration_s)

    def note_record(self, tier: int) -> None:
        """Count a record, or a part of one, that a roll-up wrote."""
        self.records[tier] += 1
