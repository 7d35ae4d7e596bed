"""Compare two volumes byte for byte.

This is the check of a whole run. It reads files by itself and shares nothing with the code that
copies them (no port, no adapter), so that one defect can't be on both sides.

Method: ask both files where they hold data (lseek with SEEK_DATA and SEEK_HOLE, lseek(2)). Skip
what is a hole in both. Take a hole in one of them as zeros. Read and compare the rest.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from mirrorlog.errors import BadUse, DeviceFailed

READ_BYTES: Final = 1 << 20
PIECES_AHEAD: Final = 16
"""The number of pieces that are announced to the kernel before they are read.

Scattered pieces that aren't cached are then read 3 to 4 times as fast."""
REPORTS: Final = 256
"""About how many times progress is reported."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of compare_files().

    compared_bytes: bytes that hold data on at least one side. A hole in both files is equal without
        being read.
    different_blocks: blocks with a difference, with those that only the larger file has.
    first_differences: the byte offset of the first difference in each of the first of these blocks,
        ascending.
    """

    identical: bool
    compared_bytes: int
    different_blocks: int
    first_differences: tuple[int, ...]


def compare_files(
    left: Path,
    right: Path,
    *,
    block_size: int,
    progress: Callable[[int], None] | None = None,
    max_differences: int = 20,
) -> Comparison:
    """Compare two regular files or block devices. Nothing may write to them meanwhile.

    block_size: bytes, the unit in which differences are counted.
    max_differences: how many differences the result names.
    progress: called with the bytes by which the comparison has moved on since the last call, holes
        included. They add up to the size of the larger file.

    The memory is three times READ_BYTES, whatever the sizes. Raise BadUse if both paths are one
    file, or one isn't a file; DeviceFailed if one can't be read.
    """
    if block_size < 1:
        raise BadUse(f"blocks can't have {block_size} bytes", next="Give the volume's block size.")
    with ExitStack() as stack:
        sides = _Side.open(left, stack), _Side.open(right, stack)
        if os.path.sameopenfile(sides[0].fd, sides[1].fd):
            raise BadUse(
                "both sides are the same file, so that a comparison finds nothing",
                where=f"{left} and {right}",
                next="Give the files of the primary and of the secondary.",
            )
        common_bytes = min(side.size_bytes for side in sides)
        larger_bytes = max(side.size_bytes for side in sides)
        differences = _Differences(block_size, max_differences)
        meter = _Meter(larger_bytes, progress)
        compared_bytes = 0
        for piece in _announced(sides, _pieces(*(side.data(common_bytes) for side in sides))):
            contents = [
                side.read(piece.start, piece.end) if holds_data else bytes(piece.end - piece.start)
                for side, holds_data in zip(sides, (piece.in_left, piece.in_right), strict=True)
            ]
            if contents[0] != contents[1]:
                differences.add(piece.start, *contents)
            compared_bytes += piece.end - piece.start
            meter.reach(piece.end)
        differences.add_tail(common_bytes, larger_bytes)
        meter.reach(larger_bytes)
        return Comparison(
            differences.blocks == 0,
            compared_bytes + larger_bytes - common_bytes,
            differences.blocks,
            tuple(differences.first),
        )


class _Piece(NamedTuple):
    """The bytes [start, end), at most READ_BYTES, with data on at least one side."""

    start: int
    end: int
    in_left: bool
    in_right: bool


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two files, open for reading."""

    path: Path
    fd: int
    size_bytes: int

    @classmethod
    def open(cls, path: Path, stack: ExitStack) -> _Side:
        """Open the file until `stack` is closed."""
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise BadUse(
                    "only regular files and block devices can be compared",
                    where=str(path),
                    next="Name one of these.",
                )
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return cls(path, fd, os.lseek(fd, 0, os.SEEK_END))
        except OSError as error:
            raise _unreadable(path, 0, str(error.strerror)) from error

    def data(self, until: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, end) of the ranges before `until` that may hold data.

        This is one range if the file system can't tell.
        """
        end = 0
        while end < until:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
                end = os.lseek(self.fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole from here on
                    return
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise _unreadable(self.path, end, str(error.strerror)) from error
                start, end = end, until
            if start < until:
                yield start, min(end, until)

    def announce(self, start: int, end: int) -> None:
        """Let the kernel begin to read the range."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, start, end - start, os.POSIX_FADV_WILLNEED)

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes [start, end)."""
        content = b""
        while len(content) < end - start:
            offset = start + len(content)
            try:
                part = os.pread(self.fd, end - offset, offset)
            except OSError as error:
                raise _unreadable(self.path, offset, str(error.strerror)) from error
            if not part:
                raise _unreadable(self.path, offset, "it became smaller meanwhile")
            content = content + part if content else part
        return content


def _unreadable(path: Path, offset: int, why: str) -> DeviceFailed:
    return DeviceFailed(
        f"comparing failed: {why}",
        where=f"{path}, offset {offset}",
        next="Make the file readable, then compare again.",
    )


def _pieces(
    lefts: Iterator[tuple[int, int]], rights: Iterator[tuple[int, int]]
) -> Iterator[_Piece]:
    """Yield the pieces with data on either side, ascending.

    They are cut where a side changes between data and hole. lefts, rights: as _Side.data() yields.
    """
    nowhere = (1 << 64, 1 << 64)
    left, right = next(lefts, nowhere), next(rights, nowhere)
    at = 0
    while True:
        while left[1] <= at:
            left = next(lefts, nowhere)
        while right[1] <= at:
            right = next(rights, nowhere)
        start = max(at, min(left[0], right[0]))
        if start == nowhere[0]:
            return
        in_left, in_right = left[0] <= start, right[0] <= start
        at = min(left[in_left], right[in_right], start + READ_BYTES)
        yield _Piece(start, at, in_left, in_right)


def _announced(sides: tuple[_Side, _Side], pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """Yield the pieces. Each is announced to the kernel PIECES_AHEAD pieces before."""
    ahead: deque[_Piece] = deque()
    for piece in pieces:
        for side, holds_data in zip(sides, (piece.in_left, piece.in_right), strict=True):
            if holds_data:
                side.announce(piece.start, piece.end)
        ahead.append(piece)
        if len(ahead) > PIECES_AHEAD:
            yield ahead.popleft()
    yield from ahead


@dataclass(slots=True)
class _Differences:
    """Differences by block. They are added in ascending order."""

    block_size: int
    max_named: int
    blocks: int = 0
    first: list[int] = field(default_factory=list)
    _last_block: int = -1

    def add(self, start: int, left: bytes, right: bytes) -> None:
        """Add the differences between two contents of the range that begins at `start`."""
        at = 0
        while at < len(left):
            end = min(at + self.block_size - (start + at) % self.block_size, len(left))
            if left[at:end] != right[at:end]:
                self._count(start + at, left[at:end], right[at:end])
            at = end

    def add_tail(self, start: int, end: int) -> None:
        """Add the range [start, end), which only the larger file has, whatever its length."""
        if start == end:
            return
        block, last = start // self.block_size, (end - 1) // self.block_size
        if block == self._last_block:
            block += 1
        self.blocks += last - block + 1
        named = range(block, min(last + 1, block + max(0, self.max_named - len(self.first))))
        self.first += [max(start, number * self.block_size) for number in named]

    def _count(self, start: int, left: bytes, right: bytes) -> None:
        block = start // self.block_size
        if block == self._last_block:
            return
        self._last_block = block
        self.blocks += 1
        if len(self.first) < self.max_named:
            self.first.append(
                start
                + next(at for at, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
            )


@dataclass(slots=True)
class _Meter:
    """Reports progress in steps: a call for each piece would cost more than comparing it."""

    size_bytes: int
    report: Callable[[int], None] | None
    reported_bytes: int = 0

    def reach(self, offset: int) -> None:
        """Note that the comparison has reached `offset`; report it if the step is long enough."""
        moved = offset - self.reported_bytes
        if (
            self.report is not None
            and moved > 0
            and (moved >= self.size_bytes // REPORTS or offset == self.size_bytes)
        ):
            self.report(moved)
            self.reported_bytes = offset
