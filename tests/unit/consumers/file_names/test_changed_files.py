"""The bytes of the files that changed add up to the bytes that changed."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notation import volume

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.consumers.file_names.changed_files import FilesAnswer, changed_files
from mirrorlog.consumers.file_names.file_formats import (
    files_as_csv,
    files_as_json,
    table_row,
)
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.map_builder import MapBuilder, Tier
from mirrorlog.consumers.file_names.mapping import mapping_as_json, mapping_notes
from mirrorlog.consumers.file_names.name_table import ROOT
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind
from mirrorlog.domain.bitmaps import BlockSet

BLOCK = 4096
SIZE = 20 * BLOCK + 100
VOLUME = replace(volume("vol1"), size_bytes=SIZE, block_size=BLOCK)


def small_index(size: int = SIZE) -> FileIndex:
    builder = MapBuilder(size)
    area = Area(
        number=2, start=0, length=size, type_name="ext4", block_bytes=1024, notes=("a note",)
    )
    builder.add_area(area)
    names = builder.names
    etc = names.add(b"etc", area=0, inode=3, parent=ROOT)
    names.add(b"shadow", area=0, inode=5, parent=etc)
    names.add(b"not\xffutf8", area=0, inode=6, parent=ROOT)
    names.add(b"new\nline", area=0, inode=6, parent=etc)
    file = Owner(kind=OwnerKind.FILE, area=0, first_inode=5, last_inode=5)
    other = replace(file, first_inode=6, last_inode=6)
    for start, length, owner in (
        (BLOCK, 2 * BLOCK, file),
        (8 * BLOCK, BLOCK, file),
        (3 * BLOCK, 1024, other),
        (10 * BLOCK, BLOCK, replace(file, kind=OwnerKind.ATTRIBUTES)),
        (10 * BLOCK, BLOCK, replace(other, kind=OwnerKind.ATTRIBUTES)),
        (12 * BLOCK, BLOCK, Owner(kind=OwnerKind.JOURNAL, area=0, first_inode=8, last_inode=8)),
        (13 * BLOCK, BLOCK, Owner(kind=OwnerKind.INODES, area=0, first_inode=1, last_inode=16)),
        (15 * BLOCK, BLOCK, Owner(kind=OwnerKind.INODES, area=0, first_inode=17, last_inode=32)),
    ):
        builder.claim(Tier.USED, start, length, owner)
    builder.claim(Tier.REST, 0, size, Owner(kind=OwnerKind.UNKNOWN, area=0))
    return builder.result(began_at_us=1_000_000, read_at_us=2_000_000)


def answer_for(changed: set[int], zeroed: set[int], index: FileIndex) -> FilesAnswer:
    blocks = ChangedBlocks(
        volume=VOLUME,
        since=3,
        until=9,
        changed=BlockSet(sorted(changed)),
        zeroed=BlockSet(sorted(zeroed)),
        hosts=(),
        first_write_at_us=None,
        last_write_at_us=None,
        writes=0,
    )
    return changed_files(blocks, index)


def changed_bytes(blocks: set[int]) -> int:
    return sum(min(BLOCK, SIZE - block * BLOCK) for block in blocks)


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)), st.sampled_from([SIZE, BLOCK * 9]))
def test_the_bytes_add_up_to_what_changed(changed: set[int], zeroed: set[int], size: int) -> None:
    zeroed &= changed
    rows = answer_for(changed, zeroed, small_index(size)).files
    assert sum(row.bytes_changed for row in rows) == changed_bytes(changed)
    assert sum(row.bytes_zeroed for row in rows) == changed_bytes(zeroed)
    assert all(row.bytes_changed for row in rows)


def test_rows_name_files_and_say_what_is_in_none() -> None:
    answer = answer_for({1, 2, 3, 8, 10, 12, 13, 15, 20}, {2}, small_index())
    rows = [(row.label, row.names, row.inode, row.bytes_changed) for row in answer.files]
    both = (b"/etc/new\nline", b"/etc/shadow", b"/not\xffutf8")
    assert rows == [
        ("file", (b"/etc/shadow",), 5, 3 * BLOCK),
        ("inode table", (), None, 2 * BLOCK),
        ("journal", (), None, BLOCK),
        ("attributes of a file", both, None, BLOCK),
        ("neither free nor in a file", (), None, 3 * 1024 + 100),
        ("file", (b"/etc/new\nline", b"/not\xffutf8"), 6, 1024),
    ]
    assert answer.files[0].bytes_zeroed == BLOCK
    assert {row.partition for row in answer.files} == {2}
    notes = list(mapping_notes(small_index(), VOLUME, by_blocks=True))
    assert notes[0] == "partition 2: a note"
    assert "in blocks of 4.0 KiB, the file system in 1.0 KiB" in notes[1]


def test_a_device_that_is_too_small_is_said() -> None:
    answer = answer_for({20}, set(), small_index(9 * BLOCK))
    assert [row.label for row in answer.files] == ["not on the device that was read"]
    assert answer.files[0].partition is None
    *_, note = mapping_notes(small_index(9 * BLOCK), VOLUME, by_blocks=True)
    assert "the device that was read has 36864 bytes" in note


def test_names_survive_json_and_csv() -> None:
    answer = answer_for({1, 3, 12}, set(), small_index())
    journal, shadow, _, other = files_as_json(answer)
    assert shadow["file"] == "/etc/shadow"
    assert "file_hex" not in shadow
    assert (journal["file"], journal["label"]) == (None, "journal")
    assert other["other_names"] == ["/not\\xffutf8"]
    assert bytes.fromhex(other["file_hex"]) == b"/etc/new\nline"
    rows = list(csv.DictReader(io.StringIO("".join(files_as_csv(answer)))))
    assert [row["file"] for row in rows] == ["", "/etc/shadow", "", "/etc/new\nline"]
    assert [int(row["bytes"]) for row in rows] == [4096, 4096, 3072, 1024]
    mapping = mapping_as_json("file:///image", small_index(), VOLUME, by_blocks=False)
    assert mapping["notes"] == ["partition 2: a note"]
    assert mapping["read_at"] == "1970-01-01T00:00:02.000000Z"
    assert table_row(answer.files[3])[2] == "2:/etc/new\nline (also /not\\xffutf8)"


def test_an_index_of_one_volume_isnt_asked_beyond_it() -> None:
    with pytest.raises(ValueError, match="outside"):
        small_index(BLOCK).pieces(*(small_index().edges[1:2], small_index().edges[1:2] * 0 + 9000))
