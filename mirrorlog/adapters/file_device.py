"""A device that is a file or a block device of this machine."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, Final

from mirrorlog.adapters.device_identity import identity_of
from mirrorlog.adapters.folders import sync_files, sync_folder
from mirrorlog.adapters.writeback import start_writeback
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.closing import ClosesOnExit
from mirrorlog.ports.devices import Data, DeviceIdentity, check_range

if TYPE_CHECKING:
    from mirrorlog.adapters.range_transfers import RangeTransfers, Unfinished
    from mirrorlog.domain.range_columns import RangeColumns

FALLOC_FL_KEEP_SIZE: Final = 0x01  # linux/falloc.h
FALLOC_FL_PUNCH_HOLE: Final = 0x02
ZEROS_AT_ONCE_BYTES: Final = 1 << 20
_FEW_RANGES: Final = 8
"""So many ranges are read or written one by one: it takes less time than to set up one call."""

_ADVICE: Final = {
    errno.ENOSPC: "Free space where it lies, then repeat.",
    errno.EDQUOT: "Raise the quota or free space where it lies, then repeat.",
    errno.EFBIG: "Put it on a file system that holds files of this size.",
    errno.EIO: "The storage reports an error. Look at the kernel log, replace the broken part, "
    "then resync.",
    errno.ENOENT: "Check the address; create the volume's file first.",
    errno.EACCES: "Grant this user access to it.",
    errno.EPERM: "Grant this user access to it.",
    errno.EROFS: "Mount its file system for writing.",
    errno.EBADF: "Open the device again.",
}


class FileDevice(ClosesOnExit):
    """BlockDevice on a regular file or a block device.

    Each call passes its offset to the kernel (pread, pwrite), so threads share only the descriptor.
    is_block_device: it is one, and no regular file.
    Methods without a docstring follow BlockDevice.
    """

    FLAGS: ClassVar = 0
    """Additional flags of open(2)."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.address: Final = str(path)
        self._fd = -1
        self._writable: Final = writable
        self._flush_failed = False
        self._identity: DeviceIdentity | None = None
        self._lock: Final = Lock()
        self._transfers_made: RangeTransfers | None = None
        try:
            mode = path.stat().st_mode  # before opening: open() of a FIFO would wait
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise BadUse(
                    "only a regular file or a block device can stand for a volume",
                    where=self.address,
                    next="Name a regular file or a block device.",
                )
            self._fd = os.open(
                path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | self.FLAGS
            )
            self._size_bytes = os.lseek(self._fd, 0, os.SEEK_END)  # st_size of a block device is 0
            self._writable_bytes = self._size_bytes if writable else -1
        except OSError as error:
            self.close()
            raise self._failure("opening", 0, error) from error
        self.is_block_device: Final = stat.S_ISBLK(mode)

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> FileDevice:
        """Create a sparse file of zeros as create_all() does, and open it for writing."""
        cls.create_all({path: size_bytes})
        return cls(path, writable=True)

    @staticmethod
    def create_all(sizes_bytes: Mapping[Path, int]) -> None:
        """Create sparse files of zeros, with few waits for the disk. All are open at a time.

        1. Create each file, and set its size. Never open an existing one.
        2. Make all sizes durable.
        3. Make the entries in their folders durable.

        If a step fails, the files that were created are removed again. Raise BadUse if one of the
        paths exists.
        """
        created: dict[Path, int] = {}
        path, size_bytes = Path(), 0
        try:
            for path, size_bytes in sizes_bytes.items():
                created[path] = _create(path, size_bytes)
                os.ftruncate(created[path], size_bytes)
            sync_files(list(created.values()))
            for folder in dict.fromkeys(path.parent for path in created):
                sync_folder(folder)
        except BaseException as error:
            for made in created:
                with suppress(OSError):
                    made.unlink()
            if isinstance(error, OSError):
                raise _failure("creating", str(path), size_bytes, error) from error
            raise
        finally:
            for fd in created.values():
                os.close(fd)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def identity(self) -> DeviceIdentity:
        if self._identity is None:
            try:
                self._identity = identity_of(self._fd)
            except OSError as error:
                raise self._failure("asking for the identity", 0, error) from error
        return self._identity

    def real_path(self) -> Path:
        """Return the path of the file, without symbolic links.

        The kernel knows the path of an open file. It is the path by name where it doesn't, or where
        another file is there now. Raise OSError.
        """
        try:
            path = Path(f"/proc/self/fd/{self._fd}").readlink()
            if path.is_absolute() and os.path.samestat(path.stat(), os.fstat(self._fd)):
                return path
        except OSError:
            pass
        return Path(self.address).resolve()

    def fileno(self) -> int:
        """Return the descriptor. A process that inherits it holds its locks too."""
        return self._fd

    def pread(self, *, offset: int, length: int) -> bytes:
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise DeviceFailed(
                        f"the device ended while it was read, {length - len(data)} bytes too early",
                        where=f"{self.address}, offset {offset + len(data)}",
                        next="It shrank after it was opened. Restore its size, then resync.",
                    )
                data += more
        except OSError as error:
            raise self._failure("reading", offset, error) from error
        return data

    def pwrite(self, offset: int, data: Data) -> None:
        if data.__class__ is bytes and 0 <= offset <= self._writable_bytes - len(data):
            try:
                # Most writes end here. A short write is repeated below from its start.
                if os.pwrite(self._fd, data, offset) == len(data):
                    return
            except OSError as error:
                raise self._failure("writing", offset, error) from error
        rest = memoryview(data).cast("B")
        self._check_write(offset=offset, length=len(rest))
        while rest:
            try:
                written = os.pwrite(self._fd, rest, offset)
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written")
            except OSError as error:
                raise self._failure("writing", offset, error) from error
            offset += written
            rest = rest[written:]

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        """Do as ReadsRanges says."""
        self._check_ranges(ranges)
        if len(ranges) > _FEW_RANGES:
            unfinished = self._transfers().read(self._fd, ranges, memory)
            ranges = self._rest("reading", unfinished)
        for offset, length, place in ranges:
            memory[place : place + length] = self.pread(offset=offset, length=length)

    def pwrite_ranges(
        self, ranges: RangeColumns, memory: memoryview, *, is_only_writer: bool
    ) -> None:
        """Do as WritesRanges says: past the page cache (O_DIRECT) where that is possible."""
        self._check_write(offset=0, length=0)
        self._check_ranges(ranges)
        if is_only_writer or len(ranges) > _FEW_RANGES:
            unfinished = self._transfers().write(
                self._fd, ranges, memory, is_only_writer=is_only_writer
            )
            ranges = self._rest("writing", unfinished)
        for offset, length, place in ranges:
            self.pwrite(offset, memory[place : place + length])

    def pwrite_in_order(self, writes: Sequence[tuple[int, bytes]]) -> None:
        """Do as WritesInOrder says: one system call does many writes of which no two overlap."""
        rest: Sequence[tuple[int, bytes]] | None = writes
        if len(writes) > _FEW_RANGES and all(
            0 <= offset <= self._writable_bytes - len(data) for offset, data in writes
        ):
            rest = self._transfers().write_contents(self._fd, writes)
        if rest is None:
            middle = len(writes) // 2
            self.pwrite_in_order(writes[:middle])
            self.pwrite_in_order(writes[middle:])
            return
        for offset, data in rest:
            self.pwrite(offset, data)

    def zero(self, *, offset: int, length: int) -> None:
        self._check_write(offset=offset, length=length)
        if length and not self._punch(offset=offset, length=length):
            zeros = memoryview(bytes(min(length, ZEROS_AT_ONCE_BYTES)))
            for start in range(offset, offset + length, len(zeros)):
                self.pwrite(start, zeros[: offset + length - start])

    def start_writeback(self, *, offset: int, length: int) -> None:
        """Do as StartsWriteback says, by sync_file_range(2). Do nothing where that is missing.

        The call waits for nothing to be written, and takes no error away from the next flush().
        """
        try:
            start_writeback(self._fd, offset=offset, length=length)
        except OSError as error:
            self._flush_failed = True
            raise self._failure("writing back", offset, error) from error

    def flush(self) -> None:
        if self._flush_failed:
            raise DeviceFailed(
                "an earlier flush failed, so writes since the flush before it may be lost",
                where=f"{self.address}, offset 0",
                next="Open the device again and repeat those writes.",
            )
        self._sync(os.fdatasync)

    def forget_cached(self) -> None:
        """Do as ForgetsCache says, by posix_fadvise(2), where the system can do that."""
        self.flush()
        with suppress(OSError):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def allocated(self, start: int = 0) -> Iterator[tuple[int, int]]:
        while start < self._size_bytes:
            try:
                data = self._seek(start, os.SEEK_DATA)
                hole = self._seek(data, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data behind `start`
                    return
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise self._failure("looking for data", start, error) from error
                data, hole = start, self._size_bytes
            if data < self._size_bytes:
                yield data, min(hole, self._size_bytes) - data
            start = hole

    def resize(self, size_bytes: int) -> None:
        if size_bytes < self._size_bytes:
            raise BadUse(
                f"a device of {self._size_bytes} bytes can't be made smaller, to {size_bytes}",
                where=self.address,
                next="Create a new volume of that size.",
            )
        self._check_write(offset=0, length=0)
        try:
            # Another process may have grown the device. Never cut that part off.
            actual_bytes = self._seek(0, os.SEEK_END)
            if actual_bytes < size_bytes and self.is_block_device:
                raise DeviceFailed(
                    f"this block device has {actual_bytes} bytes, not {size_bytes}",
                    where=f"{self.address}, offset {actual_bytes}",
                    next="Grow it with the tool that made it (lvextend, for example), then repeat.",
                )
            if actual_bytes < size_bytes:
                os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            raise self._failure("growing", size_bytes, error) from error
        self._sync(os.fsync)
        self._size_bytes = self._writable_bytes = size_bytes
        self._end_transfers()

    def close(self) -> None:
        self._end_transfers()
        fd, self._fd = self._fd, -1  # a late call gets EBADF, never another file's descriptor
        if fd >= 0:
            # Linux frees the descriptor in any case, and flush() reports failed writes.
            with suppress(OSError):
                os.close(fd)

    def _check_write(self, *, offset: int, length: int) -> None:
        if not self._writable:
            raise DeviceFailed(
                "the device was opened for reading only",
                where=f"{self.address}, offset {offset}",
                next="Open it for writing.",
            )
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)

    def _transfers(self) -> RangeTransfers:
        """Return what reads and writes many ranges at once."""
        with self._lock:
            if self._transfers_made is None:
                from mirrorlog.adapters.range_transfers import RangeTransfers  # it needs numpy

                self._transfers_made = RangeTransfers(self._size_bytes)
            return self._transfers_made

    def _end_transfers(self) -> None:
        if self._transfers_made is not None:
            self._transfers_made.close()
            self._transfers_made = None

    def _check_ranges(self, ranges: RangeColumns) -> None:
        if not ranges.are_inside(self._size_bytes):
            for offset, length, _ in ranges:
                check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)

    def _rest(self, doing: str, unfinished: Unfinished) -> RangeColumns:
        """Return the ranges that are to be done one by one. Raise DeviceFailed if one failed."""
        failed = unfinished.codes.nonzero()[0]
        if len(failed):
            first = failed[unfinished.ranges.offsets[failed].argmin()]
            code = int(unfinished.codes[first])
            error = OSError(code, os.strerror(code))
            raise self._failure(doing, int(unfinished.ranges.offsets[first]), error) from error
        return unfinished.ranges

    def _punch(self, *, offset: int, length: int) -> bool:
        """Make the range a hole. Return False if the device can't do that."""
        try:
            return _punch_hole(self._fd, offset=offset, length=length)
        except OSError as error:
            raise self._failure("punching a hole", offset, error) from error

    def _seek(self, offset: int, whence: int) -> int:
        """Return the result of lseek(2). No call uses the position that it sets."""
        return os.lseek(self._fd, offset, whence)

    def _sync(self, sync: Callable[[int], None]) -> None:
        try:
            if self._fd < 0:  # os.fsync would raise a ValueError
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sync(self._fd)
        except OSError as error:
            self._flush_failed = True
            raise self._failure("flushing", 0, error) from error

    def _failure(self, doing: str, offset: int, error: OSError) -> DeviceFailed:
        return _failure(doing, self.address, offset, error)


def _failure(doing: str, address: str, offset: int, error: OSError) -> DeviceFailed:
    return DeviceFailed(
        f"{doing} failed: {error.strerror or error}",
        where=f"{address}, offset {offset}",
        next=_ADVICE.get(
            error.errno or 0, "Look at the kernel log and at the device, then repeat."
        ),
    )


def _create(path: Path, size_bytes: int) -> int:
    """Create an empty file for a device of this size. Return its descriptor, open for writing.

    Raise BadUse if the path exists, DeviceFailed.
    """
    if size_bytes < 0:
        raise BadUse(
            f"a device can't have {size_bytes} bytes", where=str(path), next="Give its size."
        )
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise BadUse(
            "the path of the new volume file exists already, and mirrorlog never overwrites it",
            where=str(path),
            next="Choose another path, or remove the file if it isn't needed.",
        ) from error
    except OSError as error:
        raise _failure("creating", str(path), 0, error) from error


@cache
def _fallocate() -> Callable[[int, int, int, int], int] | None:
    """Return fallocate(2), which the module os lacks; None if the C library lacks it too."""
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        call.restype = ctypes.c_int
    return call


def _punch_hole(fd: int, *, offset: int, length: int) -> bool:
    """Make the range a hole. Return False if that isn't possible there; OSError if it failed."""
    fallocate = _fallocate()
    if fallocate is None:
        return False
    while fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        # EINVAL: the range doesn't begin and end at sectors of a block device.
        if code in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True
