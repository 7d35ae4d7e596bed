"""The file of an image, of which nothing is read that differs from what was written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.backup.qcow2.image_check import file_pieces, piece_failure
from mirrorlog.consumers.backup.qcow2.image_digests import ImageDigests
from mirrorlog.domain.range_columns import RangeColumns
from mirrorlog.errors import DeviceFailed, StateDamaged


class DamagedPiece(DeviceFailed):
    """A piece of an image isn't what was written. Other pieces can be read."""


class CheckedFile(FileDevice):
    """BlockDevice of a file, for reading. The first read of a piece compares its digest.

    Reading raises DamagedPiece if a piece differs that the range touches.
    """

    def __init__(self, path: Path, digests: ImageDigests) -> None:
        """Open the file. digests: of when it was written. Raise StateDamaged if it is shorter."""
        super().__init__(path, writable=False)
        if self.size_bytes < digests.file_bytes:
            self.close()
            raise StateDamaged(
                f"the image has {self.size_bytes} of {digests.file_bytes} bytes",
                where=str(path),
                next="Run `mirrorlog backup check`: it says which points that takes along.",
            )
        self._pieces: Final = list(file_pieces(digests, read_data=True))
        self._ends: Final = np.array([piece.offset + piece.length for piece in self._pieces])
        self._is_right: Final = np.zeros(len(self._pieces), np.bool_)

    def pread(self, *, offset: int, length: int) -> bytes:
        self._check(offset, offset + length)
        return super().pread(offset=offset, length=length)

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        for offset, length, _ in ranges:
            self._check(offset, offset + length)
        super().pread_ranges(ranges, memory)

    def _check(self, start: int, end: int) -> None:
        first, last = np.searchsorted(self._ends, (start, end - 1), "right").tolist()
        for number in range(first, min(last + 1, len(self._pieces))):
            if not self._is_right[number]:
                self._check_piece(number)

    def _check_piece(self, number: int) -> None:
        piece = self._pieces[number]
        read = partial(FileDevice.pread, self)
        failure = piece_failure(read, piece, size_bytes=self.size_bytes)
        if failure is not None:
            raise DamagedPiece(
                f"{piece.length} bytes of an image are damaged: {failure}",
                where=f"{self.address}, offset {piece.offset}",
                next="Run `mirrorlog backup check`: it says which points that takes along.",
            )
        self._is_right[number] = True
