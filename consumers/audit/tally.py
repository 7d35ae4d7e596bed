"""What an audit's answer amounts to, counted while it is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.definition import CHANGES


@dataclass(slots=True)
class AuditTally:
    """Counts of the rows so far.

    changes, change_bytes: the rows whose extent changed or may have, and their bytes; bytes that
    were written twice count twice. without_status: the rows whose status isn't kept.
    first_position, last_position: of the rows. first_appended_us, last_appended_us: by the broker.
    All four are None before the first row.
    """

    rows: int = 0
    changes: int = 0
    change_bytes: int = 0
    without_status: int = 0
    first_position: int | None = None
    last_position: int | None = None
    first_appended_us: int | None = None
    last_appended_us: int | None = None

    def add(self, batch: HistoryBatch) -> None:
        """Count the rows of the next batch."""
        if not batch.rows:
            return
        self.rows += batch.rows
        is_change = batch.texts("kind").where(CHANGES.__contains__)
        lengths = batch.numbers("length").values[is_change]
        self.changes += len(lengths)
        # Lengths above 2^32 could overflow a sum of 64 bits.
        low, high = lengths & np.uint64(0xFFFFFFFF), lengths >> np.uint64(32)
        self.change_bytes += int(low.sum()) + (int(high.sum()) << 32)
        self.without_status += int((batch.texts("status").codes < 0).sum())
        positions = batch.numbers("position").values
        if self.first_position is None:
            self.first_position = int(positions[0])
        self.last_position = int(positions[-1])
        appended = batch.numbers("appended_at_us")
        known = appended.values if appended.known is None else appended.values[appended.known]
        if len(known):
            if self.first_appended_us is None:
                self.first_appended_us = int(known[0])
            self.last_appended_us = int(known[-1])
