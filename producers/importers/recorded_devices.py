"""Finds the devices of a block tracer's recording, and where recorded partitions begin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers.sequence_gaps import MAX_SEQUENCES
from mirrorlog.producers.traces.block_events import NO_DEVICE, BlockEvent, Remap

RemapKey: TypeAlias = tuple[str, str, str]
"""The device from which requests are remapped, the one to which they go, and the recorded one."""
_MAX_LISTED_DEVICES: Final = 20
_NUMBERED_BY_SIXTEEN: Final = frozenset({8, *range(65, 72), *range(128, 136), 202})
"""The major numbers of SCSI's and Xen's disks (the kernel's devices.txt). Each disk has 16 minor
numbers: the first is its own, the others are those of its partitions."""
_NUMBERS: Final = re.compile(r"(\d+)-(\d+)")
_HOW_TO_SHIFT: Final = (
    "Pass --offset-shift -START, where START is the partition's first byte (512 times the number "
    "in /sys/class/block/NAME/start), or 0 for a whole disk."
)


@dataclass(slots=True)
class RecordedDevices:
    """What one pass over a recording shows of its devices, in the order of their first events.

    written: the devices that were recorded, and whether anything changed on them.
    queued, begun: those of which requests were queued, and queued or issued.
    ended_without_bytes: those on which writes of no bytes were completed.
    begins: how far requests were moved by remaps, in bytes. Two values are enough to show a
    contradiction.
    followed: the remaps of which one was followed by a queued request at the same offset, on the
    same CPU, of the device from which they come. So they belong to the recording of that device.
    """

    written: dict[str, bool] = field(default_factory=dict)
    queued: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    ended_without_bytes: set[str] = field(default_factory=set)
    begins: dict[RemapKey, set[int]] = field(default_factory=dict)
    followed: set[RemapKey] = field(default_factory=set)
    _awaited: dict[tuple[str, int], tuple[RemapKey, int]] = field(default_factory=dict)
    """By device and CPU, the last remap from the device and its offset."""

    def add(self, event: BlockEvent) -> None:
        """Take the next event. BadInput if there are too many devices."""
        if event.remap is not None:
            self._add_remap(event, event.remap)
        else:
            self._add_request(event)
        if len(self.written) + len(self.begins) + len(self._awaited) > MAX_SEQUENCES:
            raise BadInput(
                f"the recording names more than {MAX_SEQUENCES:,} devices and CPUs",
                next="Check that the file is a recording of blktrace or blkparse.",
            )

    def _add_remap(self, event: BlockEvent, remap: Remap) -> None:
        if event.length:
            key = remap_key(event, remap)
            begins = self.begins.setdefault(key, set())
            if len(begins) < 2:
                begins.add(event.offset - remap.offset)
            self._awaited[remap.device, event.cpu] = key, event.offset

    def _add_request(self, event: BlockEvent) -> None:
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
            key, offset = self._awaited.get((device, event.cpu), (None, 0))
            if key is not None and offset == event.offset:
                self.followed.add(key)

    @property
    def only_device(self) -> str | None:
        """Return the recorded device, if there is only one."""
        return next(iter(self.written)) if len(self.written) == 1 else None

    def writers(self) -> list[str]:
        """Return the devices on which anything changed."""
        in_doubt = self.ended_without_bytes - self.begun
        return [name for name, written in self.written.items() if written or name in in_doubt]

    def chosen_device(self, wanted: str | None) -> str:
        """Return the device to import: the wanted one, or the only one with writes.

        NO_DEVICE if there are several devices and none has writes. BadUse if there are several with
        writes, or the wanted one wasn't recorded and others have writes.
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
            is_source = any(source == device for source, _, _ in self.begins)
            part = (
                " A partition of it, which begins at byte START, is imported with --device DISK "
                "--offset-shift -START --clip."
            )
            raise BadUse(
                f"the recording has no write to a device '{device}'",
                next=f"It has writes to: {_listed(writers)}.{part if is_source else ''}",
            )

    def partition_begin(self, device: str) -> int:
        """Return how far the device's recorded addresses are moved, in bytes.

        That is where it begins on its disk if it is a partition, and 0 if it isn't. Each request to
        a partition is remapped to the disk when it is queued, so a device with queued requests and
        without such remaps is none. BadInput if the recording doesn't say it, or contradicts
        itself.
        """
        begins = self._begins_of(device)
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
                next=f"{_HOW_TO_SHIFT} Or record it again with queue events (blktrace -a queue).",
            )
        return 0

    def doubt_of_shift(self, device: str, volume_begin: int) -> str | None:
        """Return what is doubtful in the user's shift, if anything is.

        volume_begin: where the volume begins in the recording's addresses, by the user's shift.
        """
        try:
            begins = self._begins_of(device)
        except BadInput:
            return None  # The user's shift answers what the recording doesn't.
        if not begins or begins == {volume_begin} or volume_begin == 0:
            return None
        return (
            f"partition {device} begins at byte {_listed(map(str, sorted(begins)))} of its disk, "
            f"and --offset-shift says {volume_begin}. Without --offset-shift the addresses are "
            "converted to those of the partition"
        )

    def own_remaps(self, device: str) -> set[RemapKey]:
        """Return the remaps that move the device's requests to the disk of which it is a partition.

        They are in the recording of the device itself. The recording of the disk has the others:
        those of its partitions, and of devices that lie on it (device mapper, MD). In text a remap
        doesn't say which device was recorded. So one of the remaps must be followed by the queued
        request, and:

        - Since Linux 5.12 a remap from a partition to its disk names the partition twice.
        - Before, it names the disk, which isn't recorded itself: a disk and its partition can't be
          recorded at once. Only one recorded device is a partition of it, for the same reason.

        BadInput if that doesn't decide it.
        """
        keys = {key for key in self.begins if key[0] == device}
        if any(recorded != NO_DEVICE for _, _, recorded in self.begins):
            return {key for key in keys if key[2] == device}
        if any(source == to_device for source, to_device, _ in self.begins):
            keys = {key for key in keys if key[1] == device}
        else:
            keys = {
                key for key in keys if key[1] not in self.written and self._owns(device, key[1])
            }
        if keys and not keys & self.followed:
            raise _undecided(f"whether {device} is a partition")
        return keys

    def _owns(self, device: str, disk: str) -> bool:
        """Return whether the device is the recorded partition of a disk, before Linux 5.12."""
        candidates = [
            source for source, to, _ in self.begins if to == disk and source in self.written
        ]
        partitions = [source for source in candidates if _is_partition(source)]
        if len(candidates) > 1 and len(partitions) != 1:
            raise _undecided(f"which of {_listed(candidates)} is a partition of {disk}")
        return device in (partitions or candidates)

    def _begins_of(self, device: str) -> set[int]:
        """Return where the device begins on its disk, by its remaps, in bytes."""
        return set().union(*(self.begins[key] for key in self.own_remaps(device)))


def remap_key(event: BlockEvent, remap: Remap) -> RemapKey:
    """Return which remaps the event belongs to."""
    return remap.device, remap.to_device, event.device


def find_devices(events: Iterator[BlockEvent]) -> RecordedDevices:
    """Make a pass over a recording. BadInput if it names too many devices."""
    devices = RecordedDevices()
    for event in events:
        devices.add(event)
    return devices


def _undecided(question: str) -> BadInput:
    return BadInput(
        f"the text doesn't show {question}",
        next=f"Import blktrace's own files, which show it. {_HOW_TO_SHIFT}",
    )


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
