"""Devices in memory that lose unflushed writes in a crash, and that fail when a test says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from random import Random
from threading import RLock
from typing import Final, NamedTuple, TypeAlias

from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.closing import ClosesOnExit
from mirrorlog.ports.devices import Data, DeviceIdentity, check_range

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = 512
"""A disk writes a sector whole or not at all."""

Hook: TypeAlias = Callable[[str, int, int], None]
"""Called with (operation, offset, length) before each pread, pwrite, zero, flush and resize.

An exception that it raises fails the operation.
"""


def failing(nth: int, operation: str | None = None) -> Hook:
    """Return a hook that fails the n-th operation from now on, counted from 1.

    operation: count only operations of that name; None: count all.
    """
    seen = 0

    def hook(name: str, offset: int, length: int) -> None:
        nonlocal seen
        seen += operation in (None, name)
        if seen == nth and operation in (None, name):
            raise DeviceFailed(
                f"{name} of {length} bytes failed: planned by a test",
                where=f"memory, offset {offset}",
                next="Repeat it.",
            )

    return hook


class MemoryDevice(ClosesOnExit):
    """BlockDevice in memory. It is sparse: it takes memory for the written pages only.

    reopen() returns further handles of the same disk. They share its hook and its crashes. Methods
    without a docstring follow BlockDevice.
    """

    def __init__(self, size_bytes: int, *, address: str = "memory", writable: bool = True) -> None:
        self.address: Final = address
        self._disk: Final = _Disk(size_bytes)
        self._writable = writable
        self._closed = False
        self._opened_in = self._disk.history

    def reopen(self, *, writable: bool = True) -> MemoryDevice:
        """Return another handle of the same disk. It works after a crash too."""
        handle = type(self).__new__(type(self))
        handle.__dict__.update(self.__dict__)  # as copy(self), in less time
        handle._writable, handle._closed, handle._opened_in = writable, False, self._disk.history
        return handle

    def copied(self) -> MemoryDevice:
        """Return a handle of another disk that holds the same, with the same hook."""
        handle = self.reopen()
        handle.__dict__["_disk"] = self._disk.copied()
        return handle

    def on_copy(self, copied: MemoryDevice) -> MemoryDevice:
        """Return this handle, open or closed as it is, of the disk that copied() returned."""
        handle = copy(self)
        handle.__dict__["_disk"] = copied._disk
        return handle

    def crash(self, keep: Random | None = None) -> None:
        """Lose power: drop unflushed writes and close every handle. Continue with reopen().

        keep: draws for each sector of each unflushed write whether it survives. So a sector that
        was written several times may have any of its versions.
        """
        self._disk.crash(keep)

    def snapshot(self) -> bytes:
        """Return the durable content: what a snapshot of the disk holds."""
        return self._disk.durable.read(offset=0, length=self._disk.size_bytes)

    def restore(self, snapshot: bytes) -> None:
        """Lose power, and come back with a disk that went back to a snapshot."""
        self._disk.crash(None)
        handle = self.reopen()
        handle.pwrite(0, snapshot)
        handle.flush()

    @property
    def hook(self) -> Hook | None:
        """The hook of the disk; None for none."""
        return self._disk.hook

    @hook.setter
    def hook(self, hook: Hook | None) -> None:
        self._disk.hook = hook

    @property
    def size_bytes(self) -> int:
        return self._disk.size_bytes

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(storage=self._disk.serial, lasting=self._disk.serial)

    def pread(self, *, offset: int, length: int) -> bytes:
        with self._disk.lock:
            self._begin("pread", offset=offset, length=length)
            return self._disk.now.read(offset=offset, length=length)

    def pwrite(self, offset: int, data: Data) -> None:
        content = bytes(data)
        with self._disk.lock:
            self._begin("pwrite", offset=offset, length=len(content))
            self._disk.change(_Change(offset, len(content), content))

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as ReadsRanges says, range by range."""
        for offset, length, place in ranges:
            memory[place : place + length] = self.pread(offset=offset, length=length)

    def pwrite_ranges(
        self, ranges: RangeColumns, memory: memoryview, *, is_only_writer: bool
    ) -> None:
        """Do as WritesRanges says, range by range."""
        del is_only_writer
        for offset, length, place in ranges:
            self.pwrite(offset, memory[place : place + length])

    def zero(self, *, offset: int, length: int) -> None:
        with self._disk.lock:
            self._begin("zero", offset=offset, length=length)
            self._disk.change(_Change(offset, length, None))

    def zero_ranges(self, ranges: RangeColumns) -> None:
        """Do as ZeroesRanges says, range by range."""
        for offset, length, _ in ranges:
            self.zero(offset=offset, length=length)

    def flush(self) -> None:
        with self._disk.lock:
            self._check_open(0)
            if self._opened_in != self._disk.history:
                raise self._failed(
                    "an earlier flush failed", 0, "Open the device again and write that again."
                )
            try:
                self._begin("flush", offset=0, length=0)
            except BaseException:
                self._disk.fail_flush()
                raise
            self._disk.flush()

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        with self._disk.lock:
            self._check_open(0)
            pages = sorted(page for page in self._disk.now.pages if (page + 1) * PAGE_BYTES > start)
        end = start
        for page in pages:
            if page * PAGE_BYTES > end:
                if end > start:
                    yield start, end - start
                start = page * PAGE_BYTES
            end = min((page + 1) * PAGE_BYTES, self.size_bytes)
        if end > start:
            yield start, end - start

    def resize(self, size_bytes: int) -> None:
        with self._disk.lock:
            if size_bytes < self.size_bytes:
                raise BadUse(
                    f"a device of {self.size_bytes} bytes can't be made smaller", where=self.address
                )
            self._begin("resize", offset=0, length=0)
            self._disk.size_bytes = size_bytes

    def truncate(self, size_bytes: int) -> None:
        """Cut the disk off, or grow it, at once and durably, as another program does."""
        with self._disk.lock:
            self._disk.truncate(size_bytes)

    def close(self) -> None:
        self._closed = True

    def _begin(self, operation: str, *, offset: int, length: int) -> None:
        self._check_open(offset)
        if not self._writable and operation in ("pwrite", "zero", "resize"):
            raise self._failed(
                "the device was opened for reading only", offset, "Open it for writing."
            )
        check_range(self.address, size_bytes=self.size_bytes, offset=offset, length=length)
        if self._disk.hook is not None:
            self._disk.hook(operation, offset, length)

    def _check_open(self, offset: int) -> None:
        if self._closed or self._opened_in.crashes != self._disk.history.crashes:
            raise self._failed(
                "the device is closed, or its machine crashed", offset, "Open the device again."
            )

    def _failed(self, what: str, offset: int, next_step: str) -> DeviceFailed:
        return DeviceFailed(what, where=f"{self.address}, offset {offset}", next=next_step)


class MemoryDevices:
    """DeviceOpener of addresses `memory://name`."""

    def __init__(self) -> None:
        self.devices: Final[dict[str, MemoryDevice]] = {}

    def create(self, address: str, size_bytes: int) -> MemoryDevice:
        """Create a device of zeros. Raise BadUse if the address is invalid or exists."""
        if not re.fullmatch(r"memory://.+", address) or address in self.devices:
            raise BadUse(
                "a new device in memory needs an unused address",
                where=address,
                next="Write memory://name.",
            )
        self.devices[address] = MemoryDevice(size_bytes, address=address)
        return self.devices[address]

    def __call__(self, address: str, *, writable: bool) -> MemoryDevice:
        if not address.startswith("memory://"):
            raise BadUse(
                "no device is opened by this address", where=address, next="Known schemes: memory."
            )
        if address not in self.devices:
            raise DeviceFailed(
                "there is no such device", where=f"{address}, offset 0", next="Create it first."
            )
        return self.devices[address].reopen(writable=writable)


@dataclass(frozen=True, slots=True)
class _Change:
    """One write that may not be durable yet.

    data: None for zeros.
    """

    offset: int
    length: int
    data: bytes | None

    def sectors(self, pages: Iterable[int]) -> Iterator[_Change]:
        """Yield the parts of the write in these pages, one a sector."""
        for page in pages:
            for sector in range(page * PAGE_BYTES, (page + 1) * PAGE_BYTES, SECTOR_BYTES):
                start, end = (
                    max(sector, self.offset),
                    min(sector + SECTOR_BYTES, self.offset + self.length),
                )
                if start < end:
                    data = (
                        None
                        if self.data is None
                        else self.data[start - self.offset : end - self.offset]
                    )
                    yield _Change(start, end - start, data)


@dataclass(slots=True)
class _SparseBytes:
    """Bytes in pages. An absent page reads as zeros."""

    pages: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> _SparseBytes:
        """Return a copy with pages of its own."""
        return _SparseBytes({page: bytearray(content) for page, content in self.pages.items()})

    def present(self, *, offset: int, length: int) -> list[int]:
        """Return the present pages that overlap the range."""
        touched = _touched(offset=offset, length=length)
        if len(touched) < len(self.pages):
            return [page for page in touched if page in self.pages]
        return [page for page in self.pages if page in touched]

    def read(self, *, offset: int, length: int) -> bytes:
        """Return the bytes of the range."""
        content = bytearray(length)
        for page in self.present(offset=offset, length=length):
            start, end = _overlap(page, offset=offset, length=length)
            content[start - offset : end - offset] = self.pages[page][
                start - page * PAGE_BYTES : end - page * PAGE_BYTES
            ]
        return bytes(content)

    def apply(self, change: _Change) -> None:
        """Write a change."""
        if change.data is None:
            pages = self.present(offset=change.offset, length=change.length)
        else:
            pages = list(_touched(offset=change.offset, length=change.length))
        for page in pages:
            start, end = _overlap(page, offset=change.offset, length=change.length)
            if change.data is None and end - start == PAGE_BYTES:
                del self.pages[page]
                continue
            part = (
                bytes(end - start)
                if change.data is None
                else change.data[start - change.offset : end - change.offset]
            )
            content = self.pages.setdefault(page, bytearray(PAGE_BYTES))
            content[start - page * PAGE_BYTES : end - page * PAGE_BYTES] = part


def _touched(*, offset: int, length: int) -> range:
    """Return the pages that overlap the range."""
    return range(offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)) if length else range(0)


def _overlap(page: int, *, offset: int, length: int) -> tuple[int, int]:
    """Return [start, end) of the part of the range that lies in the page."""
    return max(page * PAGE_BYTES, offset), min((page + 1) * PAGE_BYTES, offset + length)


_serials: Final = count(1)


class _History(NamedTuple):
    """The events that invalidate a disk's handles. Each handle keeps the counts at its opening."""

    crashes: int = 0
    failed_flushes: int = 0


class _Disk:
    """The state that the handles of a disk share.

    now: the content that reads see. durable: the content that a crash leaves.
    unflushed: the writes between the two, in order.
    """

    def __init__(self, size_bytes: int) -> None:
        self.serial: Final = f"memory {next(_serials)}"
        self.size_bytes = size_bytes
        self.durable = _SparseBytes()
        self.now = _SparseBytes()
        self.unflushed: list[_Change] = []
        self.hook: Hook | None = None
        self.history = _History()
        self.lock: Final = RLock()

    def copied(self) -> _Disk:
        """Return another disk with the same content, serial number, hook and history."""
        other = copy(self)
        other.now, other.durable = self.now.copy(), self.durable.copy()
        other.unflushed = list(self.unflushed)
        return other

    def change(self, change: _Change) -> None:
        """Write a change. It isn't durable yet."""
        self.now.apply(change)
        self.unflushed.append(change)

    def flush(self) -> None:
        """Make all changes durable."""
        for change in self.unflushed:
            self.durable.apply(change)
        self.unflushed.clear()

    def truncate(self, size_bytes: int) -> None:
        """Cut the disk off, or grow it, durably. What was cut off is zeros if it comes back."""
        self.flush()
        gone = _Change(size_bytes, max(0, self.size_bytes - size_bytes), None)
        for content in (self.durable, self.now):
            content.apply(gone)
        self.size_bytes = size_bytes

    def fail_flush(self) -> None:
        """Fail as the kernel does: unflushed writes stay readable, and never become durable.

        Every handle that is open now reports it.
        """
        self.unflushed.clear()
        self.history = _History(self.history.crashes, self.history.failed_flushes + 1)

    def crash(self, keep: Random | None) -> None:
        """Drop the changes that aren't durable, except for the sectors that `keep` draws."""
        with self.lock:
            if keep is not None:
                for change in self.unflushed:
                    self._keep_some(change, keep)
            self.unflushed.clear()
            self.now = self.durable.copy()
            self.history = _History(self.history.crashes + 1, self.history.failed_flushes)

    def _keep_some(self, change: _Change, keep: Random) -> None:
        has_data = change.data is not None
        pages = (
            _touched(offset=change.offset, length=change.length)
            if has_data
            else self.durable.present(offset=change.offset, length=change.length)
        )
        for sector in change.sectors(pages):
            if keep.getrandbits(1):
                self.durable.apply(sector)
