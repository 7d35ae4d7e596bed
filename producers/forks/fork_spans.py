"""What became of numbered writes at a secondary, while another process forks them.

The process numbers the writes in the order in which they ended on the primary (nbd/fork_state.h).
A secondary gets all writes between the moment when it joins the fork and the moment when it leaves.
So a few numbers tell the outcome of every write there. Everything here is pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.commands import ForkOutcome

WriteNumbers: TypeAlias = npt.NDArray[np.uint64]
"""The numbers of writes; 0 for a write that no secondary got, because the primary failed."""
WriteFates: TypeAlias = npt.NDArray[np.uint8]
"""One value of WriteFate for each write."""


class WriteFate(IntEnum):
    """The fate of a write at one secondary. The first three values are those of ForkOutcome."""

    MISSED = ForkOutcome.MISSED
    HAS = ForkOutcome.HAS
    OPEN = ForkOutcome.OPEN
    HUNG = 3  # missed, and the call that writes it is still running


OUTCOMES: Final = (ForkOutcome.MISSED, ForkOutcome.HAS, ForkOutcome.OPEN, ForkOutcome.MISSED)
"""By WriteFate, the outcome that a command names."""


def is_missed(fates: WriteFates) -> npt.NDArray[np.bool_]:
    """Return which of the writes are missed, whether or not a call still writes them."""
    missed: npt.NDArray[np.bool_] = (fates == WriteFate.MISSED) | (fates == WriteFate.HUNG)
    return missed


@dataclass(slots=True)
class ForkSpan:
    """The time of a secondary in the fork.

    joined: the first write that it gets. left: the first one that it doesn't get any more; None
    while it is in. flushed: it has the writes below durably. busy: the writes of calls that were
    running when it left, until they have returned.
    """

    joined: int
    flushed: int
    left: int | None = None
    busy: range = range(0)

    def fates(self, numbers: WriteNumbers) -> WriteFates:
        """Return the fate of each write. What lies outside of the span is MISSED."""
        fates = np.zeros(len(numbers), np.uint8)
        inside = numbers >= self.joined
        if self.left is not None:
            inside &= numbers < self.left
            fates[inside & (numbers >= self.busy.start) & (numbers < self.busy.stop)] = (
                WriteFate.HUNG
            )
        else:
            fates[inside] = WriteFate.OPEN
        fates[inside & (numbers < self.flushed)] = WriteFate.HAS
        return fates


@dataclass(slots=True)
class ForkSpans:
    """The spans of one secondary, the last one at the end."""

    spans: list[ForkSpan] = field(default_factory=list)

    def fates(self, numbers: WriteNumbers) -> WriteFates:
        """Return the fate of each write."""
        fates = np.zeros(len(numbers), np.uint8)
        for span in self.spans:
            np.maximum(fates, span.fates(numbers), out=fates)
        return fates

    def join(self, number: int) -> None:
        """Begin a span with the write of this number. The span before has ended."""
        self.spans.append(ForkSpan(number, number))

    def note_flushed(self, number: int) -> None:
        """Note that the secondary has its writes below `number` durably."""
        if self.spans:
            self.spans[-1].flushed = max(number, self.spans[-1].flushed)

    @property
    def flushed(self) -> int:
        """The number below which it has the writes of its last span durably; 0 without one."""
        return self.spans[-1].flushed if self.spans else 0

    def unflushed(self, next_number: int) -> bool:
        """Return whether there are writes below this number that it gets and hasn't flushed."""
        return bool(self.spans) and self.spans[-1].flushed < next_number

    def leave(self, number: int, busy: range) -> None:
        """End the last span, if it hasn't ended. See ForkSpan for the arguments."""
        if self.spans and self.spans[-1].left is None:
            self.spans[-1].left, self.spans[-1].busy = number, busy

    @property
    def is_hung(self) -> bool:
        """Return whether calls were running when the secondary left, and haven't returned."""
        return bool(self.spans) and len(self.spans[-1].busy) > 0

    def note_returned(self) -> None:
        """Note that no call is running any more."""
        if self.spans:
            self.spans[-1].busy = range(0)

    def forget(self) -> None:
        """Forget the spans that have ended: no write with an unknown outcome is older than now."""
        self.spans = [span for span in self.spans if span.left is None or len(span.busy)]
