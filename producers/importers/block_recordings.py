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

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers.change import AddressRange, Change, ChangeKind, ImportSource
from mirrorlog.producers.importers.flush_ends import FlushEnds
from mirrorlog.producers.importers.reading import add_doubt
from mirrorlog.producers.importers.request_stages import RequestStages
from mirrorlog.producers.importers.sequence_gaps import MAX_SEQUENCES, SequenceGaps
from mirrorlog.producers.traces.block_events import NO_DEVICE, BlockEvent
from mirrorlog.producers.traces.request import SECTOR_BYTES

BlockEvents: TypeAlias = Callable[[], Iterator[BlockEvent]]
"""Starts a pass over the events of a recording."""
_MAX_LISTED_DEVICES: Final = 20
_NUMBERED_BY_SIXTEEN: Final = frozenset({8, *range(65, 72), *range(128, 136), 202})
"""The major numbers of SCSI's and Xen's disks (the kernel's devices.txt). Each disk has 16 minor
numbers: the first is its own, the others are those of its partitions."""
_NUMBERS: Final = re.compile(r"(\d+)-(\d+)")


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
    surveys: list[_Survey] = []

    def changes() -> Iterator[Change]:
        if not surveys:
            surveys.append(_survey(events()))
        survey = surveys[0]
        chosen = survey.chosen_device(device)
        begin = 0
        if not shifted:
            begin = survey.partition_begin(chosen)
        elif doubt := survey.doubt_of_shift(chosen, volume.offset):
            add_doubt(warnings, doubt)
        found = _DeviceChanges(
            chosen,
            begin,
            volume,
            warnings,
            discard_zeroes=discard_zeroes,
            only_ends=chosen not in survey.begun,
        )
        is_empty = True
        for event in events():
            for change in found.by(event, epoch_us or 0):
                is_empty = False
                yield change
        if is_empty:
            survey.check_writes(chosen)

    return ImportSource(name, changes, warnings, joins=False, dated=epoch_us is not None)


@dataclass(slots=True)
class _Survey:
    """What one pass over a recording shows of its devices, in the order of their first events.

    written: the devices that were recorded, and whether anything changed on them.
    queued, begun: those of which requests were queued, and queued or issued.
    ended_without_bytes: those on which writes of no bytes were completed.
    begins: by device from which requests were remapped, how far they were moved, in bytes. Two
    values are enough to show a contradiction.
    """

    written: dict[str, bool] = field(default_factory=dict)
    queued: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    ended_without_bytes: set[str] = field(default_factory=set)
    begins: dict[str, set[int]] = field(default_factory=dict)

    def add(self, event: BlockEvent) -> None:
        """Take an event of a recorded device that isn't a remap."""
        device, written = event.device, event.names_change()
        if event.missing_range():
            if event.action == "C" and not event.passed_through:
                self.ended_without_bytes.add(device)
            else:
                written = True
        self.written[device] = self.written.get(device, False) or written
        if event.action in ("Q", "D"):
            self.begun.add(device)
        if event.action == "Q":
            self.queued.add(device)

    def writers(self) -> list[str]:
        """Return the devices on which anything changed."""
        in_doubt = self.ended_without_bytes - self.begun
        return [name for name, written in self.written.items() if written or name in in_doubt]

    def chosen_device(self, wanted: str | None) -> str:
        """Return the device to import: the wanted one, or the only one with writes.

        NO_DEVICE if there are several devices and none has writes.
        """
        if wanted is not None:
            if wanted not in self.written:
                self.check_writes(wanted)
            return wanted
        writers = self.writers()
        if len(writers) > 1:
            raise BadUse(
                f"the recording has writes to several devices: {_listed(writers)}",
                next="Name the device with --device.",
            )
        candidates = writers or list(self.written)
        return candidates[0] if len(candidates) == 1 else NO_DEVICE

    def check_writes(self, device: str) -> None:
        """Raise BadUse if the recording has writes, and none to the device."""
        writers = self.writers()
        if writers and device not in writers:
            part = (
                " A partition of it, which begins at byte START, is imported with --device DISK "
                "--offset-shift -START --clip."
                if device in self.begins
                else ""
            )
            raise BadUse(
                f"the recording has no write to a device '{device}'",
                next=f"It has writes to: {_listed(writers)}.{part}",
            )

    def partition_begin(self, device: str) -> int:
        """Return how far the device's recorded addresses are moved, in bytes.

        That is where it begins on its disk if it is a partition, and 0 if it isn't. Each request to
        a partition is remapped to the disk when it is queued, so a device with queued requests and
        without such remaps is none. BadInput if the recording doesn't say it, or contradicts
        itself.
        """
        begins = self.begins.get(device, set())
        if len(begins) > 1:
            raise BadInput(
                f"the remap events of partition {device} contradict each other: it begins at bytes "
                f"{_listed(map(str, sorted(begins)))} of its disk",
                next="Record it again: the partition was moved while it was recorded, or the file "
                "is damaged.",
            )
        if begins:
            return next(iter(begins))
        is_partition = _is_partition(device)
        if is_partition or (is_partition is None and device and device not in self.queued):
            raise BadInput(
                f"{device} {'is' if is_partition else 'may be'} a partition, and the recording has "
                "no remap event that says where it begins: its sectors are those of the disk",
                next="Pass --offset-shift -START, where START is the partition's first byte (512 "
                "times the number in /sys/class/block/NAME/start), or 0 for a whole disk. Or "
                "record it again with queue events (blktrace -a queue).",
            )
        return 0

    def doubt_of_shift(self, device: str, volume_begin: int) -> str | None:
        """Return what is doubtful in the user's shift, if anything is.

        volume_begin: where the volume begins in the recording's addresses, by the user's shift.
        """
        begins = self.begins.get(device, set())
        if not begins or begins == {volume_begin} or volume_begin == 0:
            return None
        return (
            f"partition {device} begins at byte {_listed(map(str, sorted(begins)))} of its disk, "
            f"and --offset-shift says {volume_begin}. Without --offset-shift the addresses are "
            "converted to those of the partition"
        )


def _survey(events: Iterator[BlockEvent]) -> _Survey:
    survey = _Survey()
    for event in events:
        if event.remapped_from is not None and event.length:
            device, from_offset = event.remapped_from
            begins = survey.begins.setdefault(device, set())
            if len(begins) < 2:
                begins.add(event.offset - from_offset)
        if event.device != NO_DEVICE and event.action != "A":
            survey.add(event)
        if len(survey.written) + len(survey.begins) > MAX_SEQUENCES:
            raise BadInput(
                f"the recording names more than {MAX_SEQUENCES:,} devices",
                next="Check that the file is a recording of blktrace or blkparse.",
            )
    return survey


def _is_partition(device: str) -> bool | None:
    """Return whether the device's number is that of a partition; None if it doesn't tell."""
    numbers = _NUMBERS.fullmatch(device)
    if numbers is None or int(numbers[1]) not in _NUMBERED_BY_SIXTEEN:
        return None
    return int(numbers[2]) % 16 != 0


def _listed(names: Iterable[str]) -> str:
    """Return the first names as text."""
    shown = list(islice(names, _MAX_LISTED_DEVICES + 1))
    more = " and more" if len(shown) > _MAX_LISTED_DEVICES else ""
    return ", ".join(shown[:_MAX_LISTED_DEVICES]) + more


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
        only_ends: bool,
    ) -> None:
        """Name the device.

        begin: where it begins in the recorded addresses, in bytes.
        only_ends: none of its requests was recorded before it was completed.
        """
        self._device, self._begin, self._volume = device, begin, volume
        self._warnings = warnings
        self._discard = ChangeKind.DISCARD if discard_zeroes else ChangeKind.WRITE
        self._flush_ends = None if only_ends else FlushEnds()
        self._gaps = SequenceGaps()
        self._writes, self._discards = RequestStages(), RequestStages()

    def by(self, event: BlockEvent, epoch_us: int) -> Iterator[Change]:
        """Yield the changes that the next event shows. Their times count from `epoch_us` on."""
        at_us = max(event.time_us - epoch_us, 0)
        is_ours = event.device == self._device
        if self._gaps.is_behind_gap(event) and (is_ours or self._may_miss_ours()):
            add_doubt(
                self._warnings,
                f"events of CPU {event.cpu} are missing, so the whole volume is dirty. Record with "
                "larger buffers to avoid that (blktrace -b, -n), and don't filter blkparse's text",
            )
            yield self._whole_volume(at_us)
        if event.action == "A":
            is_ours = event.remapped_from is not None and event.remapped_from[0] == self._device
        if not is_ours:
            return
        if (
            event.action != "A"
            and not self._ends_flush(event)
            and (reason := event.missing_range())
        ):
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

    def _ends_flush(self, event: BlockEvent) -> bool:
        is_end = event.action == "C" and not event.passed_through
        return is_end and self._flush_ends is not None and self._flush_ends.is_flush(event)

    def _may_miss_ours(self) -> bool:
        """Return whether events of this device may be missing if another's are."""
        return self._device == NO_DEVICE or not self._gaps.knows_devices

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
