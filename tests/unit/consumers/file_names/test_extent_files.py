"""The files of a row's extent add up to it, however many there are."""

from __future__ import annotations

import json

import pytest
from notation import command, message, volume

from mirrorlog.consumers.audit.text_rows import TEXTS
from mirrorlog.consumers.file_names.extent_files import MORE, ExtentFiles, TextWithFiles
from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.map_builder import MapBuilder, Tier
from mirrorlog.consumers.file_names.name_table import ROOT
from mirrorlog.consumers.file_names.owners import Area, Owner, OwnerKind
from mirrorlog.domain.commands import CommandKind
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.command_rows import command_rows

BLOCK = 4096
FILES = 700
VOLUME = volume("v", 4 * FILES * BLOCK)


@pytest.fixture(scope="module")
def index() -> FileIndex:
    """Return an index of half the volume, in which every other block is a file's."""
    size = 2 * FILES * BLOCK
    builder = MapBuilder(size)
    builder.add_area(Area(number=0, start=0, length=size, type_name="ext4", inode_bytes=256))
    for number in range(FILES):
        inode = number + 10
        builder.names.add(b"file\n%d" % number, area=0, inode=inode, parent=ROOT)
        owner = Owner(kind=OwnerKind.FILE, area=0, first_inode=inode, last_inode=inode)
        builder.claim(Tier.USED, 2 * number * BLOCK, BLOCK, owner)
    table = Owner(kind=OwnerKind.INODES, area=0, first_inode=1, last_inode=16, begin=BLOCK)
    builder.claim(Tier.USED, BLOCK, BLOCK, table)
    builder.claim(Tier.REST, 0, size, Owner(kind=OwnerKind.FREE, area=0))
    return builder.result(began_at_us=0, read_at_us=0)


def rows_of(*texts: str) -> HistoryBatch:
    commands = [command(text, sequence=number) for number, text in enumerate(texts)]
    messages = [message(position, sent) for position, sent in enumerate(commands)]
    barrier = message(len(texts), command(kind=CommandKind.BARRIER, note="two\nlines"))
    return command_rows([*messages, barrier], VOLUME, through=len(texts))


def test_shares_add_up_to_their_rows(index: FileIndex) -> None:
    end = 4 * FILES * BLOCK
    batch = rows_of("0+1", f"0+{end}", f"100+{5 * BLOCK}", f"{end - 10}+10", f"{1 << 63}+4096")
    shares = ExtentFiles(index).of(batch)
    lengths = batch.numbers("length").to_list()
    assert [row and sum(share.length for share in row) for row in shares] == [
        length if length else None for length in lengths
    ]
    assert shares[-1] is None
    assert [row[-1].label for row in shares if row] == [
        "file",
        MORE,
        "free",
        "not on the device that was read",
        "not on the device that was read",
    ]
    whole = shares[1]
    assert whole is not None
    assert len(whole) == 1001
    assert whole[-1].detail == f"{2 * FILES + 1 - 1000} more ranges"


def test_an_inode_table_says_which_inodes(index: FileIndex) -> None:
    (shares, _) = ExtentFiles(index).of(rows_of(f"{BLOCK + 300}+1000"))
    assert shares is not None
    assert [(share.label, share.inodes) for share in shares] == [("inode table", (2, 6))]
    assert shares[0].as_text() == "[inode table 2-6]"


def test_a_row_beyond_the_device_changes_no_name_of_other_rows() -> None:
    size = 6 * BLOCK
    builder = MapBuilder(size)
    builder.add_area(Area(number=0, start=0, length=size, type_name="ext4", root_inode=2))
    for block, inode in ((0, 5), (0, 6), (2, 7), (2, 8)):  # two ranges, shared by two files each
        builder.names.add(b"file%d" % inode, area=0, inode=inode, parent=ROOT)
        owner = Owner(kind=OwnerKind.FILE, area=0, first_inode=inode, last_inode=inode)
        builder.claim(Tier.USED, block * BLOCK, BLOCK, owner)
    looked_up = ExtentFiles(builder.result(began_at_us=0, read_at_us=0))
    both = [f"0+{BLOCK}", f"{2 * BLOCK}+{BLOCK}"]
    expected = [(b"/file5", b"/file6"), (b"/file7", b"/file8")]
    for texts in (both, [*both, f"{size - 1}+2"], both):
        shares = looked_up.of(rows_of(*texts))
        assert [row[0].names for row in shares[:2] if row] == expected


def test_what_is_no_file_has_no_inode() -> None:
    builder = MapBuilder(BLOCK)
    builder.add_area(Area(number=0, start=0, length=BLOCK, type_name="FAT12", root_inode=2))
    reserved = Owner(kind=OwnerKind.METADATA, area=0, detail="reserved sectors")
    builder.claim(Tier.USED, 0, BLOCK, reserved)
    looked_up = ExtentFiles(builder.result(began_at_us=0, read_at_us=0))
    (shares, _) = looked_up.of(rows_of("0+512"))
    assert shares is not None
    assert [share.as_fields() for share in shares] == [
        {"file": None, "label": "metadata", "detail": "reserved sectors", "bytes": 512}
    ]


@pytest.mark.parametrize("name", ["table", "csv", "json"])
def test_every_row_has_its_files_whatever_its_note_is(name: str, index: FileIndex) -> None:
    batch = rows_of("0+1", f"{2 * BLOCK}+1")
    text = TextWithFiles(name, TEXTS[name](), ExtentFiles(index))
    written = text.header() + text.rows(batch)
    if name == "json":
        files = [json.loads(line)["files"] for line in written.splitlines()]
        assert [row and row[0]["file"] for row in files] == ["/file\n0", "/file\n1", None]
    else:
        assert written.count("file\\n0") == written.count("file\\n1") == 1
        assert "two\nlines" in written
