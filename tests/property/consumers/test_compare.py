"""The judge finds every difference, wherever it lies, and no other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirrorlog.consumers.verify import compare
from mirrorlog.consumers.verify.compare import Comparison, compare_files
from mirrorlog.errors import BadUse, DeviceFailed

PAGE = 4096
SIZE = 10 * PAGE + 700
BLOCK = 1 << 14
TIB = 1 << 40


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "left", tmp_path / "right"


def lay(path: Path, size_bytes: int, pieces: dict[int, bytes]) -> None:
    """Write a sparse file with these pieces in it."""
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size_bytes)


# Layouts in one line: each letter is a page, '.' a hole, '0' zeros that are written.
def pages(layout: str) -> dict[int, bytes]:
    return {
        number * PAGE: (b"\0" if letter == "0" else letter.encode()) * PAGE
        for number, letter in enumerate(layout)
        if letter != "."
    }


@pytest.mark.parametrize(
    ("left", "right", "different"),
    [
        ("a.b..cc", "a.b..cc", ""),
        ("a.b", "a0b", ""),
        ("000", "...", ""),
        ("...", "...", ""),
        ("a..", "...", "0"),
        ("...", "..b", "2"),
        ("aab", "a.b", "1"),
        ("a.c", "b.d", "02"),
        (".b.", "c.d", "012"),
        ("abc", "0bc", "0"),
    ],
)
def test_layouts(pair: tuple[Path, Path], left: str, right: str, different: str) -> None:
    for path, layout in zip(pair, (left, right), strict=True):
        lay(path, len(layout) * PAGE, pages(layout))
    comparison = compare_files(*pair, block_size=PAGE)
    assert comparison.first_differences == tuple(int(number) * PAGE for number in different)
    assert (comparison.different_blocks, comparison.identical) == (len(different), not different)


@st.composite
def sparse(draw: st.DrawFn) -> dict[int, bytes]:
    ends = draw(st.lists(st.integers(0, SIZE), max_size=8, unique=True).map(sorted))
    return {
        start: draw(st.sampled_from([b"\0", b"a", b"b"])) * (end - start)
        for start, end in zip(ends[::2], ends[1::2], strict=False)
    }


def expected(left: bytes, right: bytes, block_size: int, most: int) -> tuple[int, tuple[int, ...]]:
    """Return the same by the plainest code: a byte that one side lacks differs."""
    size = max(len(left), len(right))
    firsts: dict[int, int] = {}
    for at in range(size):
        if left[at : at + 1] != right[at : at + 1]:
            firsts.setdefault(at // block_size, at)
    return len(firsts), tuple(firsts.values())[:most]


@settings(max_examples=150, deadline=None)
@given(
    left=sparse(),
    right=st.none() | sparse(),
    planted=st.none() | st.integers(0, SIZE - 1) | st.sampled_from([0, SIZE - 1, PAGE - 1, PAGE]),
    cut=st.sampled_from([0, 0, 0, 1, 699, 5000, SIZE]),
    block_size=st.sampled_from([512, PAGE, BLOCK, 1 << 20]),
    read_bytes=st.sampled_from([1000, 2 * PAGE, 1 << 20]),
    most=st.integers(0, 4),
)
@example(
    left={0: b"a" * SIZE},
    right=None,
    planted=None,
    cut=5000,
    block_size=512,
    read_bytes=1 << 20,
    most=4,
)  # data on both sides of the end of the smaller file
@example(left={}, right=None, planted=SIZE - 1, cut=0, block_size=BLOCK, read_bytes=1 << 20, most=1)
def test_it_finds_what_a_plain_loop_finds(
    *,
    left: dict[int, bytes],
    right: dict[int, bytes] | None,
    planted: int | None,
    cut: int,
    block_size: int,
    read_bytes: int,
    most: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(compare, "READ_BYTES", read_bytes):
        paths = Path(folder) / "left", Path(folder) / "right"
        lay(paths[0], SIZE, left)
        lay(
            paths[1],
            SIZE - cut,
            {
                start: data
                for start, data in (left if right is None else right).items()
                if start < SIZE - cut
            },
        )
        if planted is not None and planted < SIZE - cut:
            with paths[1].open("r+b") as file:
                os.pwrite(
                    file.fileno(), bytes([os.pread(file.fileno(), 1, planted)[0] ^ 1]), planted
                )
        blocks, firsts = expected(paths[0].read_bytes(), paths[1].read_bytes(), block_size, most)
        moved: list[int] = []
        for order in (paths, paths[::-1]):
            comparison = compare_files(
                *order, block_size=block_size, progress=moved.append, max_differences=most
            )
            assert (
                comparison.identical,
                comparison.different_blocks,
                comparison.first_differences,
            ) == (
                not blocks,
                blocks,
                firsts,
            )
        assert sum(moved) == 2 * max(path.stat().st_size for path in paths)


def test_a_difference_deep_in_a_hole_of_a_huge_volume(pair: tuple[Path, Path]) -> None:
    lay(pair[0], TIB, {12345: b"same", TIB // 3: b"x"})
    lay(pair[1], TIB, {12345: b"same"})
    comparison = compare_files(*pair, block_size=PAGE)
    assert (comparison.identical, comparison.different_blocks, comparison.first_differences) == (
        False,
        1,
        (TIB // 3,),
    )
    assert comparison.compared_bytes <= 1 << 20


def test_a_larger_file_differs_however_much_larger_it_is(pair: tuple[Path, Path]) -> None:
    lay(pair[0], TIB, {})
    lay(pair[1], 5000, {})
    assert compare_files(*pair, block_size=PAGE, max_differences=3) == Comparison(
        False, TIB - 5000, TIB // PAGE - 1, (5000, 2 * PAGE, 3 * PAGE)
    )


def test_holes_that_cannot_be_told_are_read(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seek = os.lseek

    def without_holes(fd: int, offset: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(22, "planned")
        return seek(fd, offset, whence)

    lay(pair[0], SIZE, {PAGE: b"a"})
    lay(pair[1], SIZE, {PAGE: b"a", 3 * PAGE: b"b"})
    monkeypatch.setattr(os, "lseek", without_holes)
    assert compare_files(*pair, block_size=PAGE) == Comparison(False, SIZE, 1, (3 * PAGE,))


def test_short_reads_are_carried_on(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    lay(pair[0], SIZE, {0: b"ab" * 3000})
    lay(pair[1], SIZE, {0: b"ab" * 2999 + b"aX"})
    monkeypatch.setattr(
        os, "pread", lambda fd, length, offset: pread(fd, min(length, 1001), offset)
    )
    assert compare_files(*pair, block_size=PAGE).first_differences == (5999,)


def test_what_cannot_be_judged_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    left, right = pair
    lay(left, SIZE, {})
    right.hardlink_to(left)
    with pytest.raises(BadUse, match="both sides are the same file"):
        compare_files(left, right, block_size=PAGE)
    with pytest.raises(BadUse):
        compare_files(left, tmp_path, block_size=PAGE)
    with pytest.raises(BadUse):
        compare_files(left, left, block_size=0)
    with pytest.raises(DeviceFailed, match="missing"):
        compare_files(left, tmp_path / "missing", block_size=PAGE)


def test_a_file_that_shrinks_meanwhile_is_an_error(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in pair:
        lay(path, SIZE, {0: b"a" * SIZE})
    pread = os.pread

    def shrink(fd: int, length: int, offset: int) -> bytes:
        os.truncate(pair[0], 100)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", shrink)
    with pytest.raises(DeviceFailed, match="smaller"):
        compare_files(*pair, block_size=PAGE)
