"""Events of the kernel's block tracer, as blktrace's files and blkparse's text both tell them.

A request appears many times on its way (blkparse(1), "Trace actions"): it is remapped (A) from a
partition to its disk, queued (Q), split (X) or merged (M, F), inserted (I), issued (D), sometimes
requeued (R), and completed (C). A recording need not hold all of these: `blktrace -a` filters, and
a request may be queued before the recording begins.
"""

from __future__ import annotations

from typing import Final, NamedTuple

NO_DEVICE: Final = ""
"""The device of an event whose recording device isn't known."""
_HARMLESS_COMMANDS: Final = frozenset(
    {
        *(0x00, 0x1B, 0x1E),  # TEST UNIT READY, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL
        *(0x35, 0x91),  # SYNCHRONIZE CACHE (10), (16)
    }
)
"""SCSI commands that bring no data to the device and change none on it (SPC-5, SBC-4)."""


class Remap(NamedTuple):
    """Where a remapped request comes from: a device and an offset in bytes. And where it goes.

    to_device: the device to which the event's own offset belongs. Before Linux 5.12 it is the whole
    disk, even if the offset still counts from the beginning of a partition.
    """

    device: str
    offset: int
    to_device: str


class BlockEvent(NamedTuple):
    """One event. It is a tuple because a recording has millions. Name the fields.

    action: the letter that blkparse prints for it.
    device: MAJOR-MINOR of the device that was recorded, or NO_DEVICE.
    cpu, sequence: events of one device on one CPU are numbered without gaps, modulo 2^32.
    time_us: microseconds by the recording's clock.
    changes: the request writes, discards or manages zones. discards: it discards.
    preflush, fua: its flags.
    passed_through: it is a command that the block layer only passes on (SG_IO, NVMe ioctl). Its
    offset means nothing. opcode: of the SCSI command, if the recording has it.
    has_data: it moves data.
    offset, length: the range in bytes. In a recording of a partition, the offset counts from the
    beginning of the disk. The length is 0 if the request has no data or names no range.
    remap: only for a remap.
    """

    action: str
    device: str
    cpu: int
    sequence: int
    time_us: int
    changes: bool
    discards: bool
    preflush: bool
    fua: bool
    passed_through: bool
    opcode: int | None
    has_data: bool
    offset: int
    length: int
    remap: Remap | None = None

    def missing_range(self) -> str | None:
        """Return why nobody can say which bytes the request changed.

        None if `offset` and `length` say that, or if it changed none.
        """
        if self.passed_through:
            silent = not self.has_data and self.opcode not in _HARMLESS_COMMANDS
            return "a command was passed through to the device" if self.changes or silent else None
        if self.changes and not self.length and not self.is_flush():
            return "a write of no bytes isn't a flush (it manages a zone)"
        return None

    def is_flush(self) -> bool:
        """Return whether the request's flags say that it flushes the device, before or after it.

        The kernel removes them from some flushes before it completes them (blk_insert_flush).
        """
        return self.preflush or self.fua

    def names_change(self) -> bool:
        """Return whether the request changed the bytes of its range."""
        return self.changes and self.length > 0 and not self.passed_through
