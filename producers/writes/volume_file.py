"""A volume as a raw file of Python's io: for whatever wants to read(), write() and seek()."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Final, Protocol

from mirrorlog.ports.devices import Data

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class Bytes(Protocol):
    """What stands behind the file."""

    @property
    def size_bytes(self) -> int: ...

    def pread(self, length: int, offset: int) -> Data: ...

    def pwrite(self, data: Data, offset: int) -> None: ...

    def flush(self) -> None: ...


class VolumeFile(io.RawIOBase):
    """Of fixed size: what doesn't fit any more isn't written, as on a block device, and where nothing fits ENOSPC is raised.

    Closing the file flushes it, and leaves the volume open. It belongs to one thread; others take files of their own, or the
    volume's pread() and pwrite(). Errors are the volume's.
    """

    def __init__(self, volume: Bytes) -> None:
        super().__init__()
        self._volume: Final = volume
        self._at = 0
        self._is_flushed = True

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new position; it may lie behind the end."""
        self._check()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._volume.size_bytes}
        if whence not in bases or bases[whence] + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = bases[whence] + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fills the buffer as far as the volume goes; how many bytes."""
        self._check()
        view = memoryview(buffer).cast("B")
        length = max(min(len(view), self._volume.size_bytes - self._at), 0)
        if length:
            view[:length] = self._volume.pread(length, self._at)
        self._at += length
        return length

    def write(self, data: ReadableBuffer) -> int:
        """Writes as much as fits; how many bytes."""
        self._check()
        view = memoryview(data).cast("B")
        length = max(min(len(view), self._volume.size_bytes - self._at), 0)
        if len(view) and not length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if length:
            self._is_flushed = False
            self._volume.pwrite(view[:length], self._at)
        self._at += length
        return length

    def flush(self) -> None:
        """What was written by this file is durable on the primary."""
        self._check()
        if not self._is_flushed:
            self._volume.flush()
            self._is_flushed = True

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
