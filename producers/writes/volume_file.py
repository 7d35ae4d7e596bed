"""A volume as a raw file of Python's io, for code that wants to read(), write() and seek()."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Final, Protocol

from mirrorlog.ports.devices import Data

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class FileVolume(Protocol):
    """The volume that VolumeFile needs. TrackedVolume describes the methods."""

    @property
    def size_bytes(self) -> int: ...

    def pread(self, length: int, offset: int) -> Data: ...

    def pwrite(self, data: Data, offset: int) -> None: ...

    def flush(self) -> None: ...


class VolumeFile(io.RawIOBase):
    """A raw file of fixed size.

    As on a block device, data that doesn't fit isn't written, and a write of which nothing fits
    raises ENOSPC. Closing the file flushes it, and leaves the volume open. A file belongs to one
    thread; other threads take files of their own, or the volume's pread() and pwrite(). Errors are
    the volume's.
    """

    def __init__(self, volume: FileVolume) -> None:
        super().__init__()
        self._volume: Final = volume
        self._position = 0
        self._is_flushed = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it. It may lie behind the end. OSError (EINVAL) below 0."""
        self._check_open()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._volume.size_bytes}
        if whence not in bases or bases[whence] + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into the buffer up to the volume's end. Return the number of bytes."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        length = max(min(len(view), self._volume.size_bytes - self._position), 0)
        if length:
            view[:length] = self._volume.pread(length, self._position)
        self._position += length
        return length

    def write(self, data: ReadableBuffer) -> int:
        """Write as much as fits. Return the number of bytes. OSError (ENOSPC) if nothing fits."""
        self._check_open()
        view = memoryview(data).cast("B")
        length = max(min(len(view), self._volume.size_bytes - self._position), 0)
        if len(view) and not length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if length:
            self._is_flushed = False
            self._volume.pwrite(view[:length], self._position)
        self._position += length
        return length

    def flush(self) -> None:
        """Make what this file has written durable on the primary."""
        self._check_open()
        if not self._is_flushed:
            self._volume.flush()
            self._is_flushed = True

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
