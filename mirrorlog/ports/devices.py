"""What stands for a volume's bytes: a file, a block device, memory in tests."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from mirrorlog.errors import DeviceFailed

Data: TypeAlias = bytes | bytearray | memoryview


class BlockDevice(Protocol):
    """`size_bytes` bytes at offsets from 0 on, with no alignment asked of the caller.

    Any number of threads may call one device at the same time, except for resize() and close(), which need it for
    themselves. A failed pwrite() or zero() leaves any mix of old and new bytes in its range, and in no other.

    Errors: DeviceFailed, `where` ends in ", offset N". A range outside [0, size_bytes) is refused before anything is
    touched. A device that was closed, or opened for reading and asked to write, fails likewise.
    """

    @property
    def size_bytes(self) -> int:
        """The size when the device was opened, or after the last resize() here."""
        ...

    def pread(self, *, offset: int, length: int) -> Data:
        """Exactly `length` bytes."""
        ...

    def pwrite(self, offset: int, data: Data) -> None:
        """Write all of `data`. Durable after the next flush()."""
        ...

    def zero(self, *, offset: int, length: int) -> None:
        """The range reads as zeros from now on and takes no space where the device can do that. Durable as pwrite()."""
        ...

    def flush(self) -> None:
        """Everything that pwrite() and zero() finished before the call is durable when it returns.

        Once it has failed it fails for good, for the kernel may drop the pages that it couldn't write and report the
        error only once: open the device again and write again all that came after the last flush() that returned.
        """
        ...

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        """(offset, length) of the ranges from `start` on that may hold data, ascending and apart; all between them reads
        as zeros.

        The whole device where nothing better is known. What is written meanwhile may be missing.
        """
        ...

    def resize(self, size_bytes: int) -> None:
        """Grow; the new part reads as zeros. Durable when it returns. BadUse for less than the size now."""
        ...

    def close(self) -> None:
        """Let go of the device, without a flush(). Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class DeviceOpener(Protocol):
    """Opens what an address names."""

    def __call__(self, address: str, *, writable: bool) -> BlockDevice:
        """BadUse for an address that can't be one, DeviceFailed where nothing can be opened there."""
        ...


def check_range(address: str, *, size_bytes: int, offset: int, length: int) -> None:
    """DeviceFailed unless [offset, offset + length) lies in [0, size_bytes): no adapter grows a device by accident."""
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise DeviceFailed(
            f"{length} bytes aren't all inside a device of {size_bytes} bytes",
            where=f"{address}, offset {offset}",
            next="Compare the volume's size with the device's; grow the device if it is the smaller one.",
        )
