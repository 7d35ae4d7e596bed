"""Finds events that are missing in a recording of blktrace, by their sequence numbers."""

from __future__ import annotations

from collections import defaultdict
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

    In blkparse's text a remap doesn't say which device was recorded. Its number belongs to the
    sequence that lacks it.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], int] = {}
        self._unowned: defaultdict[int, set[int]] = defaultdict(set)

    @property
    def knows_devices(self) -> bool:
        """Return whether all events so far named their device.

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
        if event.device == NO_DEVICE:
            unowned = self._unowned[event.cpu]
            if len(unowned) >= _MAX_UNOWNED:
                unowned.clear()
            unowned.add(event.sequence)
            return False
        key = (event.device, event.cpu)
        last = self._last.get(key)
        self._last[key] = event.sequence
        if last is None:
            self._take_first(event)
            return False
        skipped = (event.sequence - last - 1) % _MODULUS
        return 0 < skipped < _MODULUS // 2 and not self._fills(event, skipped)

    def _take_first(self, event: BlockEvent) -> None:
        """Take the remaps right before the first event of a sequence: they belong to it."""
        unowned = self._unowned.get(event.cpu, set())
        number = event.sequence - 1
        while number in unowned:
            unowned.remove(number)
            number -= 1

    def _fills(self, event: BlockEvent, skipped: int) -> bool:
        """Return whether remaps have all of the numbers that were skipped before the event."""
        unowned = self._unowned.get(event.cpu, set())
        if skipped > len(unowned):
            return False
        numbers = {(event.sequence - 1 - n) % _MODULUS for n in range(skipped)}
        if not numbers <= unowned:
            return False
        unowned -= numbers
        return True
