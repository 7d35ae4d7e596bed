"""The map of XFS by xfs_db: each sector of a file names the file itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from file_images import (
    MIB,
    SECTOR,
    bytes_of_kind,
    files_by_sector,
    map_of,
    need,
    new_image,
    run_tool,
    tagged,
    tagged_sectors,
)

from mirrorlog.consumers.file_names.owners import OwnerKind
from mirrorlog.consumers.file_names.xfs_reader import FolderEntry, parse_folders


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file system with two folders of many files, as a protofile describes them."""
    need("mkfs.xfs", "xfs_db")
    folder, chance = tmp_path_factory.mktemp("xfs"), random.Random(1)
    lines = ["/stub", "10000 1000", "d--755 0 0"]
    for number in range(120):
        if number in (0, 100):
            lines.append(f"folder{number} d--755 0 0")
        source = folder / f"source{number}"
        source.write_bytes(tagged(number, chance.choice([1000, 5000, 70_000])))
        lines.append(f"file{number} ---644 0 0 {source}")
        if number == 99:
            lines.append("$")
    lines += [f"link l--777 0 0 {'x' * 800}", "$", "$"]
    (folder / "proto").write_text("\n".join(lines) + "\n")
    made = new_image(folder / "image", 320 * MIB)
    run_tool("mkfs.xfs", "-q", "-p", folder / "proto", made)
    return made


def test_every_sector_is_of_the_file_that_it_names(image: Path) -> None:
    index = map_of(image)
    sectors = tagged_sectors(image)
    paths = {
        number: f"/folder{0 if number < 100 else 100}/file{number}".encode()
        for number in range(120)
    }
    assert set(sectors.values()) == set(paths)
    for at, names in files_by_sector(index, iter(sectors)).items():
        assert names == [paths[sectors[at]]]
    (area,) = index.areas
    assert (area.type_name, area.is_dirty) == ("XFS", False)
    kinds = {owner.kind for owner in index.all_owners}
    assert kinds >= {OwnerKind.JOURNAL, OwnerKind.SUPERBLOCK, OwnerKind.DIRECTORY, OwnerKind.LINK}


def test_inodes_are_where_xfs_db_says(image: Path) -> None:
    index = map_of(image)
    for path in (b"/folder0/file7", b"/folder100/link"):
        ((_, inode),) = index.inodes_of(path)
        starts, lengths = index.inode_entries_of(path)
        said = run_tool("xfs_db", "-r", "-c", f"inode {inode}", "-c", "daddr", image)
        block = int(said.split()[-1]) * SECTOR
        assert block <= int(starts[0]) < block + 64 * int(lengths[0])
        with image.open("rb") as file:
            file.seek(int(starts[0]))
            entry = file.read(int(lengths[0]))
        assert entry[:2] == b"IN"
        assert int.from_bytes(entry[152:160], "big") == inode  # di_ino of version 3


def test_free_space_and_files_are_what_xfs_db_counts(image: Path) -> None:
    text = run_tool("xfs_db", "-r", "-c", "freesp", image)
    blocks = sum(int(line.split()[3]) for line in text.splitlines()[1:])
    assert bytes_of_kind(map_of(image), OwnerKind.FREE) == blocks * 4096


def test_names_that_look_like_output_are_names() -> None:
    evil = b"x (good)\n12         7                  regular        0x00000001   1 y"
    text = (
        b"current inode number is 128\n"
        b"8          128                directory      0x0000002e   1 . (good)\n"
        b"12         9                  regular        0x00197a63 %3d %s (good)\n"
        b"15         10                 symlink        0x00197a63   2 ok (good)\n"
        b"16         11                 regular        0x00197a63   9 short (good)\n"
    ) % (len(evil), evil)
    assert parse_folders(text) == (
        [FolderEntry(128, 9, b"regular", evil), FolderEntry(128, 10, b"symlink", b"ok")],
        1,
    )


def test_a_partition_isnt_read_and_that_is_said(image: Path, tmp_path: Path) -> None:
    need("sfdisk")
    disk = new_image(tmp_path / "disk", 8 * MIB)
    run_tool("sfdisk", "-q", disk, input="label: gpt\nsize=4M\n")
    with disk.open("r+b") as file:
        file.seek(MIB)
        with image.open("rb") as source:
            file.write(source.read(1 << 16))
    (area,) = map_of(disk).areas
    assert area.type_name is None
    assert "XFS in a partition" in area.notes[0]
