"""A snapshot reads as the primary was when it was taken, whatever is written since, or not at all.

The store is the C code that nbdkit's filter runs (producers/nbd/snapshot_store.c). The primary is
memory. A write does as the filter does: it keeps the old contents, then overwrites them. Other
things happen between the steps of a write, and between those of a read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.producers.nbd.native import build_snapshot_store

UNIT = 4096
UNITS = 12
SIZE = UNITS * UNIT - 512
MOST = 8
READ_PRIMARY = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
)
Range: TypeAlias = tuple[int, int]

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the library of the store."""
    path = build_snapshot_store(tmp_path_factory.mktemp("native"))
    loaded = ctypes.CDLL(str(path))
    loaded.ml_store_new.restype = ctypes.c_void_p
    loaded.ml_store_used.restype = ctypes.c_uint64
    loaded.ml_store_unchanged.restype = ctypes.c_uint64
    return loaded


class World:
    """A primary, its store, and by snapshot what it must read as.

    is_failing: the primary's old contents can't be read.
    """

    def __init__(self, library: Any, *, memory_units: int, file_units: int) -> None:
        self.library = library
        self.primary = bytearray(SIZE)
        self.images: dict[int, bytes] = {}
        self.broken: set[int] = set()
        self.is_failing = False
        self.version = 0
        self.fd = os.memfd_create("kept") if file_units else -1
        self.store = ctypes.c_void_p(
            library.ml_store_new(
                ctypes.c_uint64(SIZE),
                ctypes.c_uint64(memory_units * UNIT),
                self.fd,
                ctypes.c_uint64(file_units * UNIT),
            )
        )

    def close(self) -> None:
        self.library.ml_store_free(self.store)
        if self.fd >= 0:
            os.close(self.fd)

    @property
    def used(self) -> int:
        return int(self.library.ml_store_used(self.store))

    def take(self) -> int:
        number = int(self.library.ml_store_take(self.store))
        if number >= 0:
            assert number not in self.images
            self.images[number] = bytes(self.primary)
        return number

    def drop(self, number: int) -> None:
        self.library.ml_store_drop(self.store, number)
        del self.images[number]
        self.broken.discard(number)

    def write(self, where: Range, between: Callable[[], None] = lambda: None) -> None:
        """Keep the old contents, then overwrite them. between: called at K2."""
        offset, length = where
        raised: list[BaseException] = []  # ctypes would only print it

        def read_primary(_: object, buffer: int, count: int, start: int) -> int:
            try:
                assert start + count <= SIZE
                if self.is_failing:
                    return -1
                ctypes.memmove(buffer, bytes(self.primary[start : start + count]), count)
                between()
            except BaseException as error:  # noqa: BLE001 (it is raised below)
                raised.append(error)
                return -1
            return 0

        self.library.ml_store_keep(
            self.store,
            ctypes.c_uint64(offset),
            ctypes.c_uint64(length),
            READ_PRIMARY(read_primary),
            None,
        )
        if raised:
            raise raised[0]
        self.version = (self.version + 1) % 5  # the fifth writes zeros
        self.primary[offset : offset + length] = bytes([self.version]) * length

    def read(
        self, number: int, where: Range, between: Callable[[], None] = lambda: None
    ) -> bytes | None:
        """Read from the snapshot; None if it is broken. between: called between S1 and S2."""
        offset, length = where
        buffer = ctypes.create_string_buffer(bytes(self.primary[offset : offset + length]), length)
        between()
        code = self.library.ml_store_read(
            self.store, number, ctypes.c_uint64(offset), ctypes.c_uint64(length), buffer
        )
        assert code in (0, errno.ENOSPC, errno.EIO)
        assert code == self.library.ml_store_broken(self.store, number)
        return None if code else buffer.raw

    def check(self, number: int, where: Range, between: Callable[[], None] = lambda: None) -> None:
        """Hold what the snapshot reads as against the primary as it was when it was taken."""
        offset, length = where
        data = self.read(number, where, between)
        if data is None:
            self.broken.add(number)
        else:
            assert number not in self.broken, "a broken snapshot reads again"
            assert data == self.images[number][offset : offset + length]
        same = self.unchanged(number, where)
        assert self.primary[offset : offset + same] == self.images[number][offset : offset + same]
        assert not (same and data is None), "a broken snapshot claims something"

    def unchanged(self, number: int, where: Range) -> int:
        """Return how many bytes from the range's start on haven't changed since the snapshot."""
        offset, length = where
        count = self.library.ml_store_unchanged(
            self.store, number, ctypes.c_uint64(offset), ctypes.c_uint64(length)
        )
        return int(count)


@contextmanager
def world_of(library: Any, *, memory_units: int, file_units: int) -> Iterator[World]:
    world = World(library, memory_units=memory_units, file_units=file_units)
    try:
        yield world
    finally:
        world.close()


@st.composite
def ranges(draw: st.DrawFn, first: int = 0, last: int = SIZE - 1) -> Range:
    offset = draw(st.integers(first, last))
    return offset, draw(st.integers(1, last + 1 - offset))


LOW, HIGH = ranges(0, 6 * UNIT - 1), ranges(6 * UNIT, SIZE - 1)
"""Ranges of two halves: what happens within a write in one of them writes in the other."""


@given(st.data())
def test_a_snapshot_reads_as_the_primary_was_or_not_at_all(
    library: Any, data: st.DataObject
) -> None:
    memory_units, file_units = data.draw(st.sampled_from([(12, 0), (3, 30), (0, 40), (2, 3)]))
    with world_of(library, memory_units=memory_units, file_units=file_units) as world:

        def something(where: st.SearchStrategy[Range], *, may_take: bool) -> None:
            what = data.draw(st.sampled_from(["write", "write", "read", "take", "drop", "fail"]))
            numbers = sorted(world.images)
            if what == "take" and may_take:
                assert (world.take() < 0) is (len(numbers) == MOST)
            elif what == "drop" and numbers:
                world.drop(data.draw(st.sampled_from(numbers)))
            elif what == "read" and numbers:
                world.check(data.draw(st.sampled_from(numbers)), data.draw(ranges()))
            elif what == "fail":
                world.is_failing = data.draw(st.integers(0, 9)) == 0
            else:
                world.write(data.draw(where))

        for _ in range(data.draw(st.integers(1, 25))):
            what = data.draw(st.sampled_from(["any", "in a write", "in a read"]))
            numbers = sorted(world.images)
            if what == "in a write":
                world.write(data.draw(LOW), lambda: something(HIGH, may_take=False))
            elif what == "in a read" and numbers:
                number = data.draw(st.sampled_from(numbers))
                between = partial(world.write, data.draw(ranges()))
                world.check(number, data.draw(ranges()), between)
            else:
                something(ranges(), may_take=True)
        for number in list(world.images):
            world.check(number, (0, SIZE))
            world.drop(number)
        assert world.used == 0


def test_snapshots_share_what_is_kept(library: Any) -> None:
    with world_of(library, memory_units=8, file_units=0) as world:
        world.write((0, SIZE))
        first, second = world.take(), world.take()
        world.write((0, 2 * UNIT))
        assert world.used == 2
        third = world.take()
        world.write((0, UNIT))
        assert world.used == 3
        world.drop(first)
        assert world.used == 3
        world.drop(second)
        assert world.used == 1
        world.check(third, (0, SIZE))


def test_the_oldest_snapshot_breaks_when_the_store_is_full(library: Any) -> None:
    with world_of(library, memory_units=2, file_units=2) as world:
        world.write((0, SIZE))
        old = world.take()
        world.write((0, 3 * UNIT))
        new = world.take()
        world.write((UNIT, UNIT))
        assert world.read(old, (0, SIZE)) is not None
        world.write((2 * UNIT, UNIT))
        assert world.read(old, (8 * UNIT, UNIT)) is None
        world.check(new, (0, SIZE))
        world.write((0, SIZE))
        assert world.read(new, (0, UNIT)) is None
        assert world.used == 0


def test_without_a_snapshot_nothing_is_kept(library: Any, tmp_path: Path) -> None:
    with world_of(library, memory_units=2, file_units=0) as world:
        world.is_failing = True  # nor read
        world.write((0, SIZE))
        number = world.take()
        assert world.used == 0
        world.write((0, 1))
        assert world.read(number, (0, UNIT)) is None


@pytest.mark.parametrize("length", [SIZE, 1000 * UNIT])
def test_what_no_write_has_changed_is_known(library: Any, length: int) -> None:
    """1,000 units are more than the table has: it is looked at entry by entry."""
    with world_of(library, memory_units=8, file_units=0) as world:
        number = world.take()
        assert world.unchanged(number, (100, length)) == length
        for block, end in ((9, 9), (7, 7), (10, 7), (3, 3)):
            world.write((block * UNIT + 1, 1))
            assert world.unchanged(number, (100, length)) == end * UNIT - 100
            assert world.unchanged(number, (end * UNIT, length)) == 0
        assert world.unchanged(number, (4 * UNIT, length)) == 3 * UNIT
        assert world.unchanged(number, (4 * UNIT, UNIT + 1)) == UNIT + 1
