"""What the spool of a session that is dead tells of what it did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.errors import BadInput
from mirrorlog.ports.folders import StateFolder
from mirrorlog.producers.durable.activity_format import ActivityState, PreviousLog
from mirrorlog.producers.durable.spool import SpoolRecord, read_spool


class PreviousSpool:
    """The spool that belongs to an activity log.

    lost: the volumes that are dirty as a whole, for the spool doesn't hold all that the log counts on.
    """

    def __init__(self, folder: StateFolder, leftover: PreviousLog) -> None:
        self._folder: Final = folder
        self._first, self._last = leftover.state.spool
        self._session: Final = None if leftover.damaged else leftover.session
        self.lost: Sequence[str] = ()
        if not leftover.damaged and self._first <= self._last and not self._is_whole():
            self.lost = sorted(
                name for name, volume in leftover.state.volumes.items() if volume.spooled
            )

    def records(self) -> Iterator[SpoolRecord]:
        """The commands in it, in order, as far as they are sound; Kafka may have the first of them."""
        if self._session is not None:
            for _, record in read_spool(self._folder, self._session, self._first):
                yield record

    def cover(self, state: ActivityState, region_bytes: int, most: int) -> None:
        """Adds the regions that the commands name to `state`; more than `most` of a volume: the volume as a whole."""
        regions: defaultdict[str, set[int]] = defaultdict(set)
        whole_volume: set[str] = set()
        for record in self.records():
            if record.volume not in state.volumes or record.volume in whole_volume:
                continue
            regions[record.volume] |= _regions(record, region_bytes, most)
            if len(regions[record.volume]) > most:
                whole_volume.add(record.volume)
        for name, numbers in regions.items():
            if name in whole_volume:
                state.volumes[name].whole_volume = True
            else:
                state.volumes[name].regions |= numbers

    def _is_whole(self) -> bool:
        numbers = [number for number, _ in read_spool(self._folder, self._session, self._first)]
        return bool(numbers) and numbers[0] <= self._first and numbers[-1] >= self._last


def _regions(record: SpoolRecord, region_bytes: int, most: int) -> set[int]:
    """More than `most` numbers where the command can't be understood."""
    try:
        extents = decode(record.value, TrackingCommand).extents
    except BadInput:
        return set(range(most + 1))
    found: set[int] = set()
    for extent in extents:
        found |= set(range(extent.offset // region_bytes, (extent.end - 1) // region_bytes + 1))
        if len(found) > most:
            break
    return found
