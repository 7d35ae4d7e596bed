"""The writes of a dead session, as far as its spool names them."""

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
    """The spool that belongs to the activity log of the session before.

    lost: the volumes that are dirty as a whole, because the spool lacks records that the log
        counts on.
    """

    def __init__(self, folder: StateFolder, log: PreviousLog) -> None:
        self._folder: Final = folder
        self._first, self._last = log.state.spool
        self._session: Final = None if log.damaged else log.session
        self.lost: Sequence[str] = ()
        if not log.damaged and self._first <= self._last and not self._is_complete():
            self.lost = sorted(
                name for name, activity in log.state.volumes.items() if activity.spooled
            )

    def records(self) -> Iterator[SpoolRecord]:
        """Yield the commands in order, up to the first invalid one. Kafka may have some already."""
        if self._session is not None:
            for _, record in read_spool(self._folder, self._session, self._first):
                yield record

    def add_regions(self, state: ActivityState, region_bytes: int, *, limit: int) -> None:
        """Add the regions that the commands name to `state`.

        A volume with more than `limit` of them becomes dirty as a whole.
        """
        regions: defaultdict[str, set[int]] = defaultdict(set)
        over_limit: set[str] = set()
        for record in self.records():
            if record.volume not in state.volumes or record.volume in over_limit:
                continue
            regions[record.volume] |= _regions(record, region_bytes, limit=limit)
            if len(regions[record.volume]) > limit:
                over_limit.add(record.volume)
        for name, numbers in regions.items():
            if name in over_limit:
                state.volumes[name].whole_volume = True
            else:
                state.volumes[name].regions |= numbers

    def _is_complete(self) -> bool:
        """Return whether the spool holds every record that the activity log counts on."""
        numbers = [number for number, _ in read_spool(self._folder, self._session, self._first)]
        return bool(numbers) and numbers[0] <= self._first and numbers[-1] >= self._last


def _regions(record: SpoolRecord, region_bytes: int, *, limit: int) -> set[int]:
    """Return the regions that a command names; more than `limit` if it can't be decoded."""
    try:
        extents = decode(record.value, TrackingCommand).extents
    except BadInput:
        return set(range(limit + 1))
    regions: set[int] = set()
    for extent in extents:
        regions |= set(range(extent.offset // region_bytes, (extent.end - 1) // region_bytes + 1))
        if len(regions) > limit:
            break
    return regions
