"""A device past the page cache (open(2), O_DIRECT), for callers that don't align their requests."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from threading import local
from typing import ClassVar, Final

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.range_locks import RangeLocks, pieces
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import Data, check_range

BUFFER_BYTES: Final = 1 << 20
_ALIGNMENTS: Final = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_PAGE: Final = 4096


class DirectDevice(FileDevice):
    """FileDevice with O_DIRECT. Every transfer has the alignment that the storage needs.

    Data goes through a page-aligned buffer of the calling thread. A write that covers a block only
    partly reads the block, changes it and writes it back. Meanwhile no other write of this device
    touches the block (RangeLocks): the read-modify-write would undo it. A write of another process
    to the rest of the block isn't prevented, as with any use of O_DIRECT.
    """

    FLAGS: ClassVar = os.O_DIRECT

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open the device.

        Raise BadUse if the file system has no O_DIRECT, or if the size isn't a multiple of the
        alignment.
        """
        self._ranges: Final = RangeLocks()
        self._buffers: Final = _Buffers()
        try:
            super().__init__(path, writable=writable)
        except DeviceFailed as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EINVAL:
                raise BadUse(
                    "its file system has no reads and writes past the page cache (O_DIRECT)",
                    where=str(path),
                    next="Open it without `direct`.",
                ) from error
            raise
        self._alignment: Final = self._probe_alignment()
        if self._size_bytes % self._alignment:
            self.close()
            raise BadUse(
                f"{self._size_bytes} bytes aren't a multiple of {self._alignment}, the smallest "
                "transfer of O_DIRECT here",
                where=str(path),
                next="Open it without `direct`.",
            )

    def pread(self, *, offset: int, length: int) -> bytes:
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)
        parts = []
        for start, piece in pieces(offset=offset, length=length, most_bytes=BUFFER_BYTES):
            first, end = self._outwards(offset=start, length=piece)
            view = self._buffers.of_thread[: end - first]
            self._read_into(view, first)
            parts.append(bytes(view[start - first : start - first + piece]))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, offset: int, data: Data) -> None:
        rest = memoryview(data).cast("B")
        self._check_write(offset=offset, length=len(rest))
        for start, piece in pieces(offset=offset, length=len(rest), most_bytes=BUFFER_BYTES):
            first, end = self._outwards(offset=start, length=piece)
            with self._ranges.held(first=first, end=end):
                view = self._buffers.of_thread[: end - first]
                for block in sorted({first, end - self._alignment}):
                    if block < start or block + self._alignment > start + piece:
                        self._read_into(
                            view[block - first : block - first + self._alignment], block
                        )
                view[start - first : start - first + piece] = rest[
                    start - offset : start - offset + piece
                ]
                self._write_from(view, first)

    def pwrite_in_order(self, writes: Sequence[tuple[int, bytes]]) -> None:
        for offset, data in writes:  # each may need more than its own bytes
            self.pwrite(offset, data)

    def zero(self, *, offset: int, length: int) -> None:
        """Punch a hole for the whole blocks; write zeros to the edges, and where that fails."""
        self._check_write(offset=offset, length=length)
        first, end = (
            -(-offset // self._alignment) * self._alignment,
            (offset + length) // self._alignment * self._alignment,
        )
        if first >= end:
            self.pwrite(offset, bytes(length))
            return
        self.pwrite(offset, bytes(first - offset))
        with self._ranges.held(first=first, end=end):
            is_done = self._punch(offset=first, length=end - first)
        if not is_done:
            for start, piece in pieces(offset=first, length=end - first, most_bytes=BUFFER_BYTES):
                self.pwrite(start, bytes(piece))
        self.pwrite(end, bytes(offset + length - end))

    def resize(self, size_bytes: int) -> None:
        """Grow the device to a multiple of the alignment. Raise BadUse for any other size."""
        if size_bytes % self._alignment:
            raise BadUse(
                f"{size_bytes} bytes aren't a multiple of {self._alignment}, the smallest "
                "transfer of O_DIRECT here",
                where=self.address,
                next="Give a multiple of that, or open it without `direct`.",
            )
        super().resize(size_bytes)

    def _outwards(self, *, offset: int, length: int) -> tuple[int, int]:
        alignment = self._alignment
        return offset // alignment * alignment, -(-(offset + length) // alignment) * alignment

    def _read_into(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise self._failure("reading", offset + done, error) from error
            if not count:
                raise DeviceFailed(
                    f"the device ended while it was read, {len(view) - done} bytes too early",
                    where=f"{self.address}, offset {offset + done}",
                    next="It shrank after it was opened. Restore its size, then resync.",
                )
            done += count

    def _write_from(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.pwritev(self._fd, [view[done:]], offset + done)
                if count == 0:
                    raise OSError(errno.EIO, "nothing was written")
            except OSError as error:
                raise self._failure("writing", offset + done, error) from error
            done += count

    def _probe_alignment(self) -> int:
        """Return the size of the smallest transfer.

        It is at least a page for a file whose size allows that: in a hole of the file, a smaller
        read succeeds although a smaller write would fail.
        """
        least = _PAGE if self._size_bytes % _PAGE == 0 and not self.is_block_device else 0
        for alignment in (candidate for candidate in _ALIGNMENTS if candidate >= least):
            try:
                os.preadv(self._fd, [self._buffers.of_thread[:alignment]], alignment)
                return alignment
            except OSError as error:
                if error.errno != errno.EINVAL:
                    self.close()
                    raise self._failure("reading", alignment, error) from error
        self.close()
        raise BadUse(
            "nothing can be read past the page cache",
            where=self.address,
            next="Open it without `direct`.",
        )


class _Buffers(local):
    """A page-aligned buffer for each thread."""

    def __init__(self) -> None:
        self.of_thread: Final = memoryview(mmap.mmap(-1, BUFFER_BYTES))
