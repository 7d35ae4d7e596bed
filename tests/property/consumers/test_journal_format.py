"""A journal is what was sealed, or it is nothing: after any cut, any flipped bits, any crash."""

from __future__ import annotations

from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.consumers.journal.apply_journal import apply_journal, staged_ranges
from mirrorlog.consumers.journal.journal_format import (
    JournalHeader,
    SealedJournal,
    StagedRange,
    read_journal,
)
from mirrorlog.consumers.journal.journal_writer import JournalWriter
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.folders import StateFile
from mirrorlog.ports.task_runner import OneAtATime
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_journals import MemoryJournals

SIZE_BYTES = 4096
HEADER = JournalHeader(
    site="a",
    volume="v",
    generation="00000000-0000-0000-0000-000000000001",
    history_id="00000000-0000-0000-0000-000000000002",
    secondary_id="00000000-0000-0000-0000-000000000003",
    epoch=7,
    after=41,
    description=b"description",
)
STATE = b"the state to save"

Round = list[StagedRange]
rounds = st.lists(
    st.lists(
        st.tuples(st.integers(0, 7), st.one_of(st.none(), st.binary(min_size=1, max_size=512))),
        min_size=1,
        max_size=5,
        unique_by=lambda pair: pair[0],
    ).map(
        lambda slots: [
            StagedRange(slot * 512, 512 if data is None else len(data), data)
            for slot, data in slots
        ]
    ),
    min_size=1,
    max_size=4,
)


def write(file: StateFile, staged: list[Round], journal_id: UUID) -> JournalWriter:
    """Stage the rounds."""
    writer = JournalWriter(file, HEADER, journal_id, max_bytes=1 << 20)
    for ranges in staged:
        writer.begin_round()
        for offset, length, data in ranges:
            if data is None:
                writer.zero(offset=offset, length=length)
            else:
                writer.pwrite(offset, data)
    writer.flush()
    return writer


def sealed_content(staged: list[Round]) -> bytes:
    """Return the bytes of a sealed journal."""
    journals = MemoryJournals()
    write(journals.create("v"), staged, UUID(int=5)).seal(through=99, state=STATE)
    return journals.content("v")


def read(content: bytes) -> SealedJournal | None:
    return read_journal(lambda offset, length: content[offset : offset + length])


def expected(staged: list[Round]) -> bytes:
    """Return what a secondary of ones holds when the rounds are applied."""
    content = bytearray(b"\1" * SIZE_BYTES)
    for ranges in staged:
        for offset, length, data in ranges:
            content[offset : offset + length] = bytes(length) if data is None else data
    return bytes(content)


def secondary() -> MemoryDevice:
    device = MemoryDevice(SIZE_BYTES)
    device.pwrite(0, b"\1" * SIZE_BYTES)
    device.flush()
    return device


@given(rounds)
def test_a_sealed_journal_is_read_back_and_applied_as_a_whole(staged: list[Round]) -> None:
    journals, device = MemoryJournals(), secondary()
    live = write(journals.create("v"), staged, UUID(int=5)).seal(through=99, state=STATE)
    journals.crash()
    file = journals.open("v")
    assert file is not None
    journal = read_journal(file.pread)
    assert journal == live
    assert (journal.header, journal.through, journal.state) == (HEADER, 99, STATE)
    assert sorted(
        bytes(staged_range.data or b"") for staged_range in staged_ranges(journal, file)
    ) == sorted(bytes(extent.data or b"") for ranges in staged for extent in ranges)
    for _ in range(2):  # it may be repeated
        apply_journal(journal, file, device, OneAtATime(), lambda: None, has_whole_pages=False)
    device.crash()
    assert device.reopen().pread(offset=0, length=SIZE_BYTES) == expected(staged)


@given(rounds, st.data())
def test_no_damaged_journal_counts(staged: list[Round], data: st.DataObject) -> None:
    content = sealed_content(staged)
    length = data.draw(st.integers(0, len(content) - 1), "cut off at")
    assert read(content[:length]) is None
    assert read(content[:length] + bytes(len(content) - length)) is None or not any(
        content[length:]
    )
    flips = data.draw(st.sets(st.integers(0, len(content) * 8 - 1), min_size=1, max_size=4))
    flipped = bytearray(content)
    for bit in flips:
        flipped[bit // 8] ^= 1 << bit % 8
    assert read(bytes(flipped)) is None
    assert read(content + b"left over") == read(content) is not None


def test_each_single_bit_counts() -> None:
    content = sealed_content([[StagedRange(0, 8, b"12345678"), StagedRange(512, 512, None)]])
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert read(bytes(flipped)) is None, bit


@given(rounds, rounds, st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=300)
def test_after_a_crash_a_journal_is_sealed_or_nothing(
    older: list[Round], newer: list[Round], seed: int, is_sealed: bool
) -> None:
    """Whatever sectors survive, also of an older sealed journal in the same file."""
    journals, random = MemoryJournals(), Random(seed)
    old = write(journals.create("v"), older, UUID(int=1)).seal(through=98, state=STATE)
    writer = write(journals.create("v"), newer, UUID(int=2))
    new = None
    if is_sealed:
        new = writer.seal(through=99, state=STATE)
    journals.crash(keep=random)
    left = read(journals.content("v"))
    assert left == new if is_sealed else left in (None, old)
    if left is not None:
        file, device = journals.open("v"), secondary()
        assert file is not None
        apply_journal(left, file, device, OneAtATime(), lambda: None, has_whole_pages=False)
        assert device.pread(offset=0, length=SIZE_BYTES) == expected(newer if is_sealed else older)


@given(rounds, st.integers(0, 1 << 32))
def test_an_unsealed_journal_is_nothing(staged: list[Round], seed: int) -> None:
    journals = MemoryJournals()
    write(journals.create("v"), staged, UUID(int=1))
    assert read(journals.content("v")) is None
    journals.crash(keep=Random(seed))
    assert read(journals.content("v")) is None


def test_a_journal_that_changed_after_it_was_sealed_is_an_error() -> None:
    journals = MemoryJournals()
    file = journals.create("v")
    sealed = write(file, [[StagedRange(0, 4, b"1234")]], UUID(int=5)).seal(through=1, state=STATE)
    content = bytearray(journals.content("v"))
    content[sealed.entries[0].offset + sealed.entries[0].record_bytes - 1] ^= 1
    journals.put("v", bytes(content))
    with pytest.raises(DeviceFailed, match="sealed"):
        apply_journal(sealed, file, secondary(), OneAtATime(), lambda: None, has_whole_pages=False)
