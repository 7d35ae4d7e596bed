"""A copy of a secondary that is held still, in a file that lives as long as its drill.

A file is copied by the kernel, as a reflink if possible. An NBD export is read through several
connections at once.

The file is locked (flock(2)) while its drill lives. What a drill left that was killed is removed
before the next copy is made. nbdkit opens the file at each connection, so it needs a name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.range_locks import pieces
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.units import format_size

_FICLONE: Final = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
_PREFIX, _SUFFIX = "drill-", ".img"
_PIECE_BYTES: Final = 8 << 20
_READ_BYTES: Final = 1 << 20
_READERS: Final = 8
_ZEROS: Final = bytes(_READ_BYTES)
_CANNOT_COPY_RANGE: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class DrillCopy:
    """A copy, open for reading and writing. is_reflink: it took no time and no space."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path: Final = path
        self.fd: Final = fd
        self.is_reflink = False

    def close(self) -> None:
        """Remove the copy."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


def copy_still(
    device: BlockDevice, folder: Path, *, on_piece: Callable[[], None] = lambda: None
) -> DrillCopy:
    """Return a copy in `folder`, as a reflink if the file system can make one.

    Otherwise what the device has allocated is copied, and on_piece is called after each piece.
    Raise DeviceFailed if there isn't enough space, or if the device fails.
    """
    with _new_copy(folder) as copy:
        if not _reflink(device, copy):
            _fill(device, copy, folder, on_piece)
    return copy


def reflink_still(device: BlockDevice, folder: Path) -> DrillCopy | None:
    """Return a reflink in `folder`; None if the file system can't make one of the device.

    Raise DeviceFailed if nothing can be made there.
    """
    with _new_copy(folder) as copy:
        is_made = _reflink(device, copy)
    if is_made:
        return copy
    copy.close()
    return None


@contextmanager
def _new_copy(folder: Path) -> Iterator[DrillCopy]:
    """Make an empty copy, which is removed if the block fails. Raise DeviceFailed for OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_left_copies(folder)
        fd, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=folder)
    except OSError as error:
        raise _failed(error, folder) from error
    copy = DrillCopy(Path(name), fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield copy
    except OSError as error:
        copy.close()
        raise _failed(error, folder) from error
    except BaseException:
        copy.close()
        raise


def remove_left_copies(folder: Path) -> None:
    """Remove copies of drills that don't live any more."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _reflink(device: BlockDevice, copy: DrillCopy) -> bool:
    """Make the copy a reflink. Return whether the file system could do that."""
    if isinstance(device, FileDevice):
        with suppress(OSError):
            fcntl.ioctl(copy.fd, _FICLONE, device.fileno())
            copy.is_reflink = True
    return copy.is_reflink


def _fill(device: BlockDevice, copy: DrillCopy, folder: Path, on_piece: Callable[[], None]) -> None:
    _check_space(device, copy.fd, folder)
    os.ftruncate(copy.fd, device.size_bytes)
    if not isinstance(device, FileDevice):
        with FileDevice(copy.path, writable=True) as target:
            _read_all(device, target, on_piece)
        return
    for offset, length in device.allocated():
        _copy(device, copy.fd, offset, offset + length, on_piece)


def _read_all(device: BlockDevice, target: FileDevice, on_piece: Callable[[], None]) -> None:
    """Copy what the device has allocated, in several threads. Zeros become holes."""

    def copy_piece(piece: tuple[int, int]) -> None:
        offset, length = piece
        data = device.pread(offset=offset, length=length)
        if data != _ZEROS[:length]:
            target.pwrite(offset, data)

    left = _pieces(device)
    with ThreadPoolExecutor(_READERS) as readers:
        while together := list(islice(left, 2 * _READERS)):
            for _ in readers.map(copy_piece, together):
                on_piece()


def _pieces(device: BlockDevice) -> Iterator[tuple[int, int]]:
    for offset, length in device.allocated():
        yield from pieces(offset=offset, length=length, most_bytes=_READ_BYTES)


def _check_space(device: BlockDevice, fd: int, folder: Path) -> None:
    needed_bytes = sum(length for _, length in device.allocated())
    stats = os.fstatvfs(fd)
    free_bytes = stats.f_bavail * stats.f_frsize
    if needed_bytes > free_bytes:
        raise DeviceFailed(
            f"a copy of the secondary takes {format_size(needed_bytes)}, and "
            f"{format_size(free_bytes)} are free; the file system can't make a reflink",
            where=str(folder),
            next="Name a folder with more space (--copy-dir), or serve the secondary itself "
            "while its site waits (--hold).",
        )


def _copy(device: FileDevice, fd: int, start: int, end: int, on_piece: Callable[[], None]) -> None:
    """Copy the bytes [start, end) to the same place."""
    while start < end:
        wanted = min(_PIECE_BYTES, end - start)
        try:
            copied = os.copy_file_range(device.fileno(), fd, wanted, start, start)
        except OSError as error:
            if error.errno not in _CANNOT_COPY_RANGE:
                raise
            copied = os.pwrite(fd, device.pread(offset=start, length=wanted), start)
        if copied == 0:
            raise OSError(errno.EIO, "the secondary became smaller meanwhile")
        start += copied
        on_piece()


def _failed(error: OSError, folder: Path) -> DeviceFailed:
    return DeviceFailed(
        f"copying the secondary failed: {error.strerror or error}",
        where=str(folder),
        next="Give this user access and free space there, or name another folder (--copy-dir).",
    )
