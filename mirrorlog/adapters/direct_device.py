"""Devices past the page cache (open(2), O_DIRECT), for callers that know nothing of its alignment."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from threading import Condition, local
from typing import ClassVar, Final

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import Data, check_range

BUFFER_BYTES: Final = 1 << 20
_ALIGNMENTS: Final = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_PAGE: Final = 4096


class DirectDevice(FileDevice):
    """FileDevice with O_DIRECT: offsets, lengths and places in memory are multiples of what the storage transfers at least.

    Data goes through a buffer of the thread's, on whole pages. A block of that alignment of which a write has only a part is
    read, changed and written back. Meanwhile no other write of this device touches it (_Ranges): otherwise that would be
    undone. Other processes that write to the other part of the block aren't kept off, as with any O_DIRECT.
    """

    FLAGS: ClassVar = os.O_DIRECT

    def __init__(self, path: Path, *, writable: bool) -> None:
        """BadUse where the file system doesn't know O_DIRECT, or the size isn't a multiple of the alignment."""
        self._ranges: Final = _Ranges()
        self._buffers: Final = _Buffers()
        try:
            super().__init__(path, writable=writable)
        except DeviceFailed as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EINVAL:
                raise BadUse(
                    "its file system can't be read and written past the page cache (O_DIRECT)",
                    where=str(path),
                    next="Open it without `direct`.",
                ) from error
            raise
        self._alignment: Final = self._found_alignment()
        if self._size_bytes % self._alignment:
            self.close()
            raise BadUse(
                f"{self._size_bytes} bytes aren't a multiple of the {self._alignment} that O_DIRECT transfers at least",
                where=str(path),
                next="Open it without `direct`.",
            )

    def pread(self, *, offset: int, length: int) -> bytes:
        check_range(self.address, size_bytes=self._size_bytes, offset=offset, length=length)
        parts = []
        for start, piece in _pieces(offset=offset, length=length, most_bytes=BUFFER_BYTES):
            first, last = self._outwards(offset=start, length=piece)
            view = self._buffers.mine[: last - first]
            self._read_into(view, first)
            parts.append(bytes(view[start - first : start - first + piece]))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, offset: int, data: Data) -> None:
        rest = memoryview(data).cast("B")
        self._check_write(offset=offset, length=len(rest))
        for start, piece in _pieces(offset=offset, length=len(rest), most_bytes=BUFFER_BYTES):
            first, last = self._outwards(offset=start, length=piece)
            with self._ranges.held(first=first, last=last):
                view = self._buffers.mine[: last - first]
                for block in sorted({first, last - self._alignment}):
                    if block < start or block + self._alignment > start + piece:
                        self._read_into(
                            view[block - first : block - first + self._alignment], block
                        )
                view[start - first : start - first + piece] = rest[
                    start - offset : start - offset + piece
                ]
                self._write_from(view, first)

    def zero(self, *, offset: int, length: int) -> None:
        """Whole blocks by the file system, where it can; the edges, and what it can't, with a write."""
        self._check_write(offset=offset, length=length)
        first, last = (
            -(-offset // self._alignment) * self._alignment,
            (offset + length) // self._alignment * self._alignment,
        )
        if first >= last:
            self.pwrite(offset, bytes(length))
            return
        self.pwrite(offset, bytes(first - offset))
        with self._ranges.held(first=first, last=last):
            is_done = self._punch(offset=first, length=last - first)
        if not is_done:
            for start, piece in _pieces(offset=first, length=last - first, most_bytes=BUFFER_BYTES):
                self.pwrite(start, bytes(piece))
        self.pwrite(last, bytes(offset + length - last))

    def resize(self, size_bytes: int) -> None:
        """Grow, to a multiple of the alignment."""
        if size_bytes % self._alignment:
            raise BadUse(
                f"{size_bytes} bytes aren't a multiple of the {self._alignment} that O_DIRECT transfers at least",
                where=self.address,
                next="Give a size that is, or open it without `direct`.",
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
                    next="It was made smaller since it was opened: give it back its size, then resync.",
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

    def _found_alignment(self) -> int:
        """What can be transferred at least. Of a file one page, if its size allows that: in a hole of it reads of less succeed
        where writes wouldn't."""
        least = _PAGE if self._size_bytes % _PAGE == 0 and not self._is_block_device else 0
        for alignment in (each for each in _ALIGNMENTS if each >= least):
            try:
                os.preadv(self._fd, [self._buffers.mine[:alignment]], alignment)
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


def _pieces(*, offset: int, length: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of parts, cut at multiples of `most_bytes`."""
    end = offset + length
    while offset < end:
        piece_end = min(offset - offset % most_bytes + most_bytes, end)
        yield offset, piece_end - offset
        offset = piece_end


class _Buffers(local):
    """A buffer on whole pages for each thread."""

    def __init__(self) -> None:
        self.mine: Final = memoryview(mmap.mmap(-1, BUFFER_BYTES))


class _Ranges:
    """Ranges that threads write to: two that overlap wait for each other, in the order in which they came."""

    def __init__(self) -> None:
        self._came: Final[dict[object, tuple[int, int]]] = {}
        self._freed: Final = Condition()

    @contextmanager
    def held(self, *, first: int, last: int) -> Iterator[None]:
        """[first, last) is this thread's while the context lasts."""
        me = object()
        with self._freed:
            self._came[me] = (first, last)
            while not self._is_first(me, first, last):
                self._freed.wait()
        try:
            yield
        finally:
            with self._freed:
                del self._came[me]
                self._freed.notify_all()

    def _is_first(self, me: object, first: int, last: int) -> bool:
        earlier = takewhile(lambda each: each is not me, self._came)
        return not any(
            first < self._came[each][1] and self._came[each][0] < last for each in earlier
        )
