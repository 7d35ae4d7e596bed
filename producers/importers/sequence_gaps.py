"""Finds events that are missing in a recording of blktrace, by their sequence numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Final

from mirrorlog.errors import BadInput
from mirrorlog.producers.traces.block_events import NO_DEVICE, BlockEvent

MAX_SEQUENCES: Final = 1 << 16
"""How many pairs of a device and a CPU a recording may name. This bounds the memory."""
_MAX_UNOWNED: Final = 4096
"""How many remaps of a CPU may wait for the events behind them."""
_MODULUS: Final = 1 << 32


class SequenceGaps:
    """The sequence numbers of a recording: one sequence for each device and CPU.

    In blkparse's text a remap doesn't say which device was recorded. If several were, its number
    belongs to the sequence that lacks it.
    """

    def __init__(self, only_device: str | None = None) -> None:
        """Begin before the first event.

        only_device: the device of all events, if only one was recorded.
        """
        self._only_device = only_device
        self._last: dict[tuple[str, int], int] = {}
        self._highest_first: dict[int, int] = {}
        """By CPU, the highest number with which a sequence begins."""
        self._unowned: defaultdict[int, Counter[int]] = defaultdict(Counter)

    @property
    def knows_devices(self) -> bool:
        """Return whether the device of all events so far is known.

        If not, a gap in the sequence of one device may be a gap of another.
        """
        return not self._unowned

    def is_behind_gap(self, event: BlockEvent) -> bool:
        """Take the next event, and return whether events before it are missing.

        Numbers that go back aren't a gap: the recording was started again. BadInput if there are
        too many sequences.
        """
        if len(self._last) + len(self._unowned) > MAX_SEQUENCES:
            raise BadInput(
                f"the recording has events of more than {MAX_SEQUENCES:,} devices and CPUs",
                next="Check that the file is a recording of blktrace or blkparse.",
            )
        device = event.device
        if device == NO_DEVICE:
            if self._only_device is None:
                self._add_unowned(event)
                return False
            device = self._only_device
        key = (device, event.cpu)
        last = self._last.get(key)
        self._last[key] = event.sequence
        if last is None:
            self._take_chain(event.cpu, event.sequence, -1)
            highest = self._highest_first.get(event.cpu, 0)
            self._highest_first[event.cpu] = max(highest, event.sequence)
            return False
        skipped = (event.sequence - last - 1) % _MODULUS
        return 0 < skipped < _MODULUS // 2 and not self._fill(event, skipped)

    def ends_in_gap(self) -> bool:
        """Return whether remaps are left over that some sequence lacks before its first event.

        Call it behind the last event. A recording may end with remaps: these aren't left over.
        """
        for (_, cpu), last in self._last.items():
            self._take_chain(cpu, last, 1)
        return any(
            number < first
            for cpu, first in self._highest_first.items()
            for number in self._unowned.get(cpu, ())
        )

    def _add_unowned(self, event: BlockEvent) -> None:
        unowned = self._unowned[event.cpu]
        if len(unowned) >= _MAX_UNOWNED:
            unowned.clear()
        unowned[event.sequence] += 1

    def _take_chain(self, cpu: int, number: int, step: int) -> None:
        """Take the remaps right before a sequence, or right behind it, as a part of it."""
        number = (number + step) % _MODULUS
        while self._take(cpu, number):
            number = (number + step) % _MODULUS

    def _fill(self, event: BlockEvent, skipped: int) -> bool:
        """Take the remaps with the numbers that were skipped before the event.

        Return whether there was one for each.
        """
        return all(
            self._take(event.cpu, (event.sequence - n) % _MODULUS) for n in range(1, skipped + 1)
        )

    def _take(self, cpu: int, number: int) -> bool:
        """Take one remap with the number. Return whether there was one."""
        unowned = self._unowned.get(cpu)
        if unowned is None or number not in unowned:
            return False
        unowned[number] -= 1
        if not unowned[number]:
            del unowned[number]
        return True
