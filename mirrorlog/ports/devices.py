"""The port to a volume: its bytes, and which storage holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

from mirrorlog.errors import DeviceFailed

if TYPE_CHECKING:
    from mirrorlog.domain.range_columns import RangeColumns

Data: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """Which storage a device is, whatever name it was opened by.

    storage: the same for two devices only if they are one storage. It holds on one machine, until
        that restarts.
    below: the storages on which this one lies: the file behind a loop device, the disk of a
        partition, the disk that holds a file's file system.
    lasting: what stays the same after a restart and tells the device from what is put in its place
        (inode and its generation, serial number). None if nothing does.
    """

    storage: str
    below: frozenset[str] = frozenset()
    lasting: str | None = None

    def overlaps(self, other: DeviceIdentity) -> bool:
        """Return whether a write to one of the two devices may change the other.

        Both must have been opened on this machine.
        """
        return (
            self.storage == other.storage
            or self.storage in other.below
            or other.storage in self.below
        )


class BlockDevice(Protocol):
    """`size_bytes` bytes. Callers need no alignment.

    Any number of threads may call one device at the same time, except that resize() and close()
    need the device for themselves. After a failed pwrite() or zero(), its range holds any mix of
    old and new bytes, and no other range has changed.

    Every method raises DeviceFailed with a `where` that ends in ", offset N". It refuses a range
    outside [0, size_bytes) before it touches anything. It raises DeviceFailed too if the device is
    closed, or if it was opened for reading and the method writes.
    """

    @property
    def size_bytes(self) -> int:
        """The size when the device was opened, or after the last resize() of this object."""
        ...

    @property
    def identity(self) -> DeviceIdentity:
        """Which storage this is."""
        ...

    def pread(self, *, offset: int, length: int) -> Data:
        """Return exactly `length` bytes."""
        ...

    def pwrite(self, offset: int, data: Data) -> None:
        """Write all of `data`. The next flush() makes it durable."""
        ...

    def zero(self, *, offset: int, length: int) -> None:
        """Make the range read as zeros, and release its space if the device can do that.

        The next flush() makes it durable.
        """
        ...

    def flush(self) -> None:
        """Return when everything is durable that pwrite() and zero() finished before the call.

        After a failure every further call fails: the kernel may have dropped the pages that it
        couldn't write, and it may report the error only once. The caller then opens the device
        again and repeats every write since the last flush() that succeeded.
        """
        ...

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the ranges from `start` on that may hold data.

        The ranges are ascending and don't touch. Everything between them reads as zeros. A device
        that can't tell yields one range, the whole device. Writes during the iteration may be
        missing.
        """
        ...

    def resize(self, size_bytes: int) -> None:
        """Grow the device durably. The new part reads as zeros. Raise BadUse for a smaller size."""
        ...

    def close(self) -> None:
        """Release the device without a flush(). A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ReadsRange(Protocol):
    """Reads a range of a device: BlockDevice.pread, or what stands in front of it."""

    def __call__(self, *, offset: int, length: int) -> Data:
        """Return exactly `length` bytes. Raise DeviceFailed."""
        ...


class CopyTarget(Protocol):
    """The part of a BlockDevice to which a copy writes."""

    def pwrite(self, offset: int, data: Data) -> None:
        """Write as BlockDevice.pwrite says. `data` doesn't change afterwards."""
        ...

    def zero(self, *, offset: int, length: int) -> None:
        """Make the range zeros as BlockDevice.zero says."""
        ...

    def flush(self) -> None:
        """End the writes of a copy. A BlockDevice makes them durable."""
        ...


@runtime_checkable
class ReadsRanges(Protocol):
    """A BlockDevice that reads many ranges at once."""

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Read all ranges in full to their places in `memory`, which begins at a page.

        Raise DeviceFailed as pread(). The error names the first range that failed.
        """
        ...


@runtime_checkable
class WritesRanges(Protocol):
    """A CopyTarget that writes many ranges at once."""

    def pwrite_ranges(
        self, ranges: RangeColumns, memory: memoryview, *, is_only_writer: bool
    ) -> None:
        """Write all ranges in full from their places in `memory`. Raise DeviceFailed as pwrite().

        No two ranges overlap. `memory` begins at a page, and may change after the call. The error
        names the first range that failed; any of the others may have been written.

        is_only_writer: until the next flush(), nobody else writes to the device, and the lengths of
        all its writes are multiples of 4 KiB. The device then may pass by the page cache.
        """
        ...


@runtime_checkable
class WritesInOrder(Protocol):
    """A device that does several writes at once, as if one came after the other."""

    def pwrite_in_order(self, writes: Sequence[tuple[int, bytes]]) -> None:
        """Write all of the data of each (offset, data). Where they overlap, the last one stands.

        Raise DeviceFailed as pwrite(). Any of the writes may then have been done.
        """
        ...


@runtime_checkable
class ZeroesRanges(Protocol):
    """A CopyTarget that makes many ranges zeros at once."""

    def zero_ranges(self, ranges: RangeColumns) -> None:
        """Make all ranges zeros, as zero(). Raise DeviceFailed. Their places mean nothing.

        No two ranges overlap. The error names the first range that failed; any of the others may
        have been written.
        """
        ...


@runtime_checkable
class StartsWriteback(Protocol):
    """A BlockDevice that can begin to make a range durable before its flush() is called."""

    def start_writeback(self, *, offset: int, length: int) -> None:
        """Begin to write to the storage what pwrite() has left in memory in the range.

        It makes nothing durable: only flush() does. Raise DeviceFailed if the storage fails.
        """
        ...


@runtime_checkable
class ForgetsCache(Protocol):
    """A BlockDevice that can read from its storage what its machine holds in memory, too."""

    def forget_cached(self) -> None:
        """Make everything durable; what is read after that comes from the storage.

        Memory may hold what an earlier process couldn't write. Raise DeviceFailed as flush().
        """
        ...


@runtime_checkable
class MayBeRemote(Protocol):
    """A BlockDevice that may be on another machine."""

    @property
    def is_remote(self) -> bool:
        """Whether each request crosses a network. More of them under way hide its delay."""
        ...


class DeviceOpener(Protocol):
    """Opens the device at an address."""

    def __call__(self, address: str, *, writable: bool) -> BlockDevice:
        """Open the device.

        Raise BadUse for an invalid address, DeviceFailed if no device can be opened there.
        """
        ...


def is_remote(device: object) -> bool:
    """Return whether the device is known to be on another machine."""
    return isinstance(device, MayBeRemote) and device.is_remote


def check_range(address: str, *, size_bytes: int, offset: int, length: int) -> None:
    """Raise DeviceFailed unless [offset, offset + length) lies in [0, size_bytes).

    Every adapter calls it first, so that no write grows a device.
    """
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise DeviceFailed(
            f"{length} bytes aren't all inside a device of {size_bytes} bytes",
            where=f"{address}, offset {offset}",
            next="Compare the volume's size with the device's. Grow the device if it is smaller.",
        )
