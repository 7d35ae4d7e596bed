"""Turns the events of blktrace and blkparse into changes of one volume. Both follow these rules.

1. Every event of a request that changes its range names that range: a request may be queued before
   the recording begins, and `blktrace -a` may filter the queue events. Of the events of one request
   only the first counts, unless it can't be told apart from another request's.
2. In a recording of a partition the sectors are the disk's. Its remap events say where the
   partition begins, and the addresses are converted. If they don't, the import stops.
3. The whole volume is dirty for a change whose range isn't recorded, and if events are missing.
   A completion without bytes ends a flush or an operation on a zone (flush_ends.py). If only
   completions were recorded, it counts as the latter.

What a remap of *another* device names doesn't count: before Linux 5.12 its sector may count from
the beginning of a partition (`bio_dev`), and the request is queued right after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import TypeAlias

from mirrorlog.producers.importers.change import AddressRange, Change, ChangeKind, ImportSource
from mirrorlog.producers.importers.flush_ends import FlushEnds
from mirrorlog.producers.importers.reading import add_doubt
from mirrorlog.producers.importers.recorded_devices import (
    RecordedDevices,
    RemapKey,
    find_devices,
    remap_key,
)
from mirrorlog.producers.importers.request_stages import RequestStages
from mirrorlog.producers.importers.sequence_gaps import SequenceGaps
from mirrorlog.producers.traces.block_events import NO_DEVICE, BlockEvent
from mirrorlog.producers.traces.request import SECTOR_BYTES

BlockEvents: TypeAlias = Callable[[], Iterator[BlockEvent]]
"""Starts a pass over the events of a recording."""


def source_of_block_events(
    name: str,
    events: BlockEvents,
    volume: AddressRange,
    *,
    warnings: list[str],
    device: str | None,
    discard_zeroes: bool,
    shifted: bool,
    epoch_us: int | None,
) -> ImportSource:
    """Return the source of the changes that the events name on one device.

    name: the source's kind.
    volume: the volume's range in the recording's addresses.
    shifted: the user said where the volume lies, so no address is converted.
    warnings, device, discard_zeroes, epoch_us: as in source_of_requests().

    A pass raises BadUse if the recording has writes to several devices and `device` is None, or
    none to `device`; BadInput if nothing says where a recorded partition begins.
    """
    found_devices: list[RecordedDevices] = []

    def changes() -> Iterator[Change]:
        if not found_devices:
            found_devices.append(find_devices(events()))
        devices = found_devices[0]
        chosen = devices.chosen_device(device)
        begin = 0
        if not shifted:
            begin = devices.partition_begin(chosen)
        elif doubt := devices.doubt_of_shift(chosen, volume.offset):
            add_doubt(warnings, doubt)
        changed = _DeviceChanges(
            chosen,
            begin,
            volume,
            warnings,
            discard_zeroes=discard_zeroes,
            own_remaps=set() if shifted else devices.own_remaps(chosen),
            only_device=devices.only_device,
            only_ends=chosen not in devices.begun,
        )
        is_empty = True
        at_us = 0
        for event in events():
            at_us = max(event.time_us - (epoch_us or 0), 0)
            for change in changed.by(event, at_us):
                is_empty = False
                yield change
        for change in changed.at_end(at_us):
            is_empty = False
            yield change
        if is_empty:
            devices.check_writes(chosen)

    return ImportSource(name, changes, warnings, joins=False, dated=epoch_us is not None)


class _DeviceChanges:
    """Finds the changes of one device in a pass over the events."""

    def __init__(
        self,
        device: str,
        begin: int,
        volume: AddressRange,
        warnings: list[str],
        *,
        discard_zeroes: bool,
        own_remaps: Set[RemapKey],
        only_device: str | None,
        only_ends: bool,
    ) -> None:
        """Name the device.

        begin: where it begins in the recorded addresses, in bytes.
        own_remaps: the remaps from the device to its disk.
        only_device: the recorded device, if there is only one.
        only_ends: none of its requests was recorded before it was completed.
        """
        self._device, self._begin, self._volume = device, begin, volume
        self._warnings = warnings
        self._discard = ChangeKind.DISCARD if discard_zeroes else ChangeKind.WRITE
        self._own_remaps = own_remaps
        self._flush_ends = None if only_ends else FlushEnds()
        self._gaps = SequenceGaps(only_device)
        self._writes, self._discards = RequestStages(), RequestStages()

    def by(self, event: BlockEvent, at_us: int) -> Iterator[Change]:
        """Yield the changes that the next event shows. at_us: its time."""
        if self._gaps.is_behind_gap(event) and self._may_miss_ours(event.device):
            yield self._missing_events(f"of CPU {event.cpu} ", at_us)
        is_ours = event.device == self._device
        if event.remap is not None:
            is_ours = remap_key(event, event.remap) in self._own_remaps
        if not is_ours:
            return
        if reason := self._missing_range(event):
            add_doubt(
                self._warnings,
                f"{reason}, and the recording doesn't say which bytes it changed, so the whole "
                "volume is dirty",
            )
            yield self._whole_volume(at_us)
        elif event.names_change() and self._is_first(event):
            yield Change(
                self._discard if event.discards else ChangeKind.WRITE,
                offset=event.offset - self._begin,
                length=event.length,
                at_us=at_us,
            )

    def at_end(self, at_us: int) -> Iterator[Change]:
        """Yield what the recording shows behind its last event, whose time was `at_us`."""
        if self._gaps.ends_in_gap():
            yield self._missing_events("", at_us)

    def _missing_events(self, which: str, at_us: int) -> Change:
        add_doubt(
            self._warnings,
            f"events {which}are missing, so the whole volume is dirty. Record with larger buffers "
            "to avoid that (blktrace -b, -n), and don't filter blkparse's text",
        )
        return self._whole_volume(at_us)

    def _missing_range(self, event: BlockEvent) -> str | None:
        """Return why nobody can say which bytes the request changed, if that is so."""
        is_end = event.action == "C" and not event.passed_through
        if is_end and self._flush_ends is not None and self._flush_ends.is_flush(event):
            return None
        return None if event.remap is not None else event.missing_range()

    def _may_miss_ours(self, behind_gap: str) -> bool:
        """Return whether events of this device may be missing, if an event of that one shows it."""
        if NO_DEVICE in (behind_gap, self._device):
            return True
        return behind_gap == self._device or not self._gaps.knows_devices

    def _is_first(self, event: BlockEvent) -> bool:
        # Writes and discards are followed apart: a write must not hide behind a discard's zeros.
        stages = self._discards if event.discards else self._writes
        first = event.offset // SECTOR_BYTES
        end = -(-(event.offset + event.length) // SECTOR_BYTES)
        return stages.is_first(event.action, first, end)

    def _whole_volume(self, at_us: int) -> Change:
        return Change(
            ChangeKind.WRITE, offset=self._volume.offset, length=self._volume.length, at_us=at_us
        )
