"""The maps of NTFS, FAT and exFAT, and partitions: each sector of a file names the file itself."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from file_images import (
    MIB,
    SECTOR,
    files_by_sector,
    make_exfat,
    make_ext,
    make_tree,
    map_of,
    need,
    new_image,
    run_tool,
    tagged,
    tagged_sectors,
)

from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.owners import Area, OwnerKind


def check_files(index: FileIndex, image: Path, paths: dict[int, bytes], start: int = 0) -> None:
    """Check every sector that names a file. paths: of the files that weren't deleted."""
    sectors = tagged_sectors(image)
    owners = files_by_sector(index, iter(sectors))
    assert {number for number in sectors.values() if number in paths} == set(paths)
    for at, number in sectors.items():
        assert owners[at] == ([paths[number]] if number in paths else None), (at, number)
    kinds = {index.owners(int(number))[0].kind for number in index.owner_numbers}
    assert OwnerKind.UNKNOWN not in kinds
    for number, path in paths.items():
        starts, lengths = index.extents_of(path)
        inside = sum(1 for its in sectors.values() if its == number)
        assert int(lengths.sum()) // SECTOR >= inside
        assert all(int(at) >= start for at in starts)


@pytest.mark.parametrize(("bits", "size_mib", "cluster"), [(12, 4, 4), (16, 24, 4), (32, 48, 1)])
def test_fat(bits: int, size_mib: int, cluster: int, tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy", "mdel", "mmd")
    image = new_image(tmp_path / "image", size_mib * MIB)
    run_tool("mkfs.vfat", "-F", str(bits), "-s", str(cluster), image)
    run_tool("mmd", "-i", image, "::/a folder")
    chance, paths = random.Random(bits), dict[int, bytes]()

    def put(numbers: range, most: int, more: int = 0) -> None:
        for number in numbers:
            folder = chance.choice(["", "/a folder"])
            length = (
                chance.randrange(1, most // 2048) * 2048
            )  # whole clusters: nothing old after them
            (tmp_path / f"file{number}").write_bytes(tagged(number, length + more))
            run_tool("mcopy", "-i", image, tmp_path / f"file{number}", f"::{folder}/")
            paths[number] = f"{folder}/file{number}".encode()

    put(range(20, 22), 30_000, more=300)
    put(range(12), 30_000)
    for number in range(0, 12, 2):
        run_tool("mdel", "-i", image, f"::{paths.pop(number).decode()}")
    put(range(12, 15), 200_000)  # in the holes, in several pieces
    index = map_of(image)
    check_files(index, image, paths)
    if bits < 32:  # FAT32 remembers where it was last, and fills no holes before
        assert any(len(index.extents_of(path)[0]) > 1 for path in paths.values())
    assert (index.areas[0].type_name, index.areas[0].is_dirty) == (f"FAT{bits}", False)
    with image.open("r+b") as file:
        file.seek(0x41 if bits == 32 else 0x25)
        file.write(b"\x01")
    assert map_of(image).areas[0].is_dirty


def test_ntfs(tmp_path: Path) -> None:
    need("mkntfs", "ntfscp")
    image = new_image(tmp_path / "image", 24 * MIB)
    run_tool("mkntfs", "-q", "-F", image)
    paths = {}
    for number, length in enumerate([5000, 300, 100_000, 12_288]):
        (tmp_path / f"file{number}").write_bytes(tagged(number, length))
        run_tool("ntfscp", "-q", image, tmp_path / f"file{number}", f"file {number}")
        paths[number] = f"/file {number}".encode()
    run_tool("ntfscp", "-q", "-N", "note", image, tmp_path / "file2", "file 0")
    index = map_of(image)
    sectors = tagged_sectors(image)
    owners = files_by_sector(index, iter(sectors))
    for at, number in sectors.items():
        its = [paths[0]] if owners[at] == [paths[0]] and number == 2 else [paths[number]]
        assert owners[at] == its
    streams = {owner.detail for owner in index.all_owners if owner.kind is OwnerKind.FILE}
    assert streams == {"", "stream note"}

    # A small file is in its record: its entry in the table of inodes holds what it holds.
    assert len(index.extents_of(paths[1])[0]) == 0
    starts, lengths = index.inode_entries_of(paths[1])
    record = image.read_bytes()[int(starts[0]) :][: int(lengths[0])]
    assert record.startswith(b"FILE")
    assert tagged(1, 100) in record
    assert len(index.extents_of(b"/$Bitmap")[0]) == 1
    assert index.inodes_of(b"/FILE 2") == index.inodes_of(paths[2]) != set()
    assert (index.areas[0].type_name, index.areas[0].is_dirty) == ("NTFS", False)
    assert OwnerKind.JOURNAL in {owner.kind for owner in index.all_owners}


def test_exfat(tmp_path: Path) -> None:
    need("mkfs.exfat")
    image = make_exfat(tmp_path / "image", tagged(1, 5000), tagged(2, 12_000))
    index = map_of(image)
    check_files(index, image, {1: b"/file one", 2: b"/folder/file two"})
    assert index.areas[0].type_name == "exFAT"
    assert not index.areas[0].is_dirty


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_partitions(label: str, tmp_path: Path) -> None:
    need("sfdisk", "mke2fs", "mkfs.vfat", "mcopy")
    make_tree(tmp_path / "tree", seed=3, files=2)
    (tmp_path / "tree/tagged").write_bytes(tagged(1, 50_000))
    ext = make_ext(tmp_path / "ext", tmp_path / "tree", "-t", "ext4", size_bytes=12 * MIB)
    fat = new_image(tmp_path / "fat", 4 * MIB)
    run_tool("mkfs.vfat", fat)
    (tmp_path / "file").write_bytes(tagged(2, 50_000))
    run_tool("mcopy", "-i", fat, tmp_path / "file", "::/")
    image = new_image(tmp_path / "image", 40 * MIB)
    table = f"label: {label}\nsize=12M\nsize=4M\nsize=8M\n"
    if label == "dos":
        table = f"label: {label}\nsize=12M\nsize=20M,type=5\n5:size=4M\n6:size=8M\n"
    run_tool("sfdisk", "-q", image, input=table)
    starts = [
        int(line.split("start=")[1].split(",")[0]) * SECTOR
        for line in run_tool("sfdisk", "-d", image).splitlines()
        if "start=" in line and "type=5" not in line
    ]
    data = bytearray(image.read_bytes())
    contents = (ext.read_bytes(), fat.read_bytes(), b"LUKS\xba\xbe")
    for start, content in zip(starts, contents, strict=True):
        data[start : start + len(content)] = content
    image.write_bytes(data)
    index = map_of(image)
    assert [(area.number, area.type_name, area.start) for area in index.areas] == [
        (1, "ext4", starts[0]),
        (2, "FAT12", starts[1]),
        (3, None, starts[2]),
    ]
    sectors = tagged_sectors(image)
    owners = files_by_sector(index, iter(sectors))
    assert all(
        owners[at] == {1: [b"/tagged"], 2: [b"/file"]}[number] for at, number in sectors.items()
    )
    pieces = index.pieces(np.array([0, starts[2]]), np.array([SECTOR, SECTOR]))
    table_owner, luks = (index.owners(int(number))[0] for number in pieces.owners)
    assert table_owner.kind is OwnerKind.PARTITION_TABLE
    assert (luks.kind, luks.detail) == (OwnerKind.NOT_READABLE, "an encrypted volume (LUKS)")
    assert OwnerKind.NO_PARTITION in {owner.kind for owner in index.all_owners}


def test_a_stale_table_before_a_file_system_doesnt_hide_it(tmp_path: Path) -> None:
    need("sfdisk", "mke2fs")
    make_tree(tmp_path / "tree", seed=3, files=2)
    image = make_ext(tmp_path / "image", tmp_path / "tree", "-t", "ext4", size_bytes=16 * MIB)
    other = new_image(tmp_path / "other", 16 * MIB)
    run_tool("sfdisk", "-q", other, input="label: dos\nsize=8M\n")
    with image.open("r+b") as file:
        file.write(other.read_bytes()[:SECTOR])
    (area,) = map_of(image).areas
    assert (area.number, area.type_name) == (0, "ext4")


def test_noise_and_nothing_are_no_file_systems(tmp_path: Path) -> None:
    need()
    for content, said in ((b"", "zeros in"), (random.Random(1).randbytes(MIB), "unknown format")):
        image = tmp_path / "image"
        image.write_bytes(content.ljust(2 * MIB, b"\0"))
        index = map_of(image)
        assert index.areas == (
            Area(
                number=0,
                start=0,
                length=2 * MIB,
                type_name=None,
                notes=(f"not read: {index.all_owners[0].detail}",),
            ),
        )
        assert said in index.all_owners[0].detail


def test_hfs_plus_in_an_apple_partition(tmp_path: Path) -> None:
    need("xorriso")
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    paths = {number: f"/folder/file {number}".encode() for number in range(20)}
    for number in paths:
        (tree / f"folder/file {number}").write_bytes(tagged(number, 2048 * number + 1000))
    image = tmp_path / "image"
    run_tool("xorriso", "-as", "mkisofs", "-quiet", "-hfsplus", "-o", image, tree)
    index = map_of(image)
    (area,) = (area for area in index.areas if area.type_name is not None)
    assert (area.type_name, area.is_dirty) == ("HFS+", False)
    assert "free space of HFS+ isn't told from metadata" in area.notes
    sectors = tagged_sectors(image)
    owners = files_by_sector(index, iter(sectors))
    inside = [at for at in sectors if area.start <= at < area.start + area.length]
    assert {sectors[at] for at in inside} == set(paths)
    assert all(owners[at] == [paths[sectors[at]]] for at in inside)
