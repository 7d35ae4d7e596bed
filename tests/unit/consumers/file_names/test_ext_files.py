"""The map of ext2, ext3 and ext4, against debugfs and dumpe2fs."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from file_images import (
    bytes_of_kind,
    debugfs,
    free_by_dumpe2fs,
    inodes_by_debugfs,
    make_ext,
    make_tree,
    map_of,
    need,
    run_tool,
)

from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.owners import NAMED, Owner, OwnerKind

KINDS = {
    "4 KiB": ("-t", "ext4", "-b", "4096"),
    "1 KiB": ("-t", "ext4", "-b", "1024"),
    "many groups": ("-t", "ext4", "-b", "1024", "-g", "1024", "-N", "2048"),
    "ext2": ("-t", "ext2", "-b", "1024"),
    "ext3, 2 KiB": ("-t", "ext3", "-b", "2048"),
    "inline data": ("-t", "ext4", "-O", "inline_data", "-b", "4096"),
    "meta_bg": ("-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "1024"),
    "sparse_super2": ("-t", "ext4", "-O", "sparse_super2", "-b", "1024", "-g", "2048"),
    "32 bits, no journal": ("-t", "ext4", "-O", "^64bit,^has_journal,^metadata_csum"),
    "system inodes": ("-t", "ext4", "-O", "quota,project,orphan_file", "-I", "256"),
    "no flex_bg": ("-t", "ext4", "-O", "^flex_bg", "-b", "1024", "-g", "4096"),
}


def owner_at(index: FileIndex, byte: int) -> tuple[Owner, ...]:
    pieces = index.pieces(np.array([byte]), np.array([1]))
    return index.owners(int(pieces.owners[0]))


def paths_on_disk(tree: Path) -> dict[bytes, int]:
    """Return the number of the file that each path of a tree leads to."""
    root = os.fsencode(tree)
    inodes = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = folder + b"/" + name
            inodes[path[len(root) :]] = os.lstat(path).st_ino
    return inodes


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_is_of_the_file_that_debugfs_names(kind: str, tmp_path: Path) -> None:
    need("mke2fs", "debugfs", "dumpe2fs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=len(kind))
    image = make_ext(tmp_path / "image", tree, *KINDS[kind])
    reserve = [f"fallocate /holes {4 * number + 1} {4 * number + 2}" for number in range(20, 60)]
    if not kind.startswith(("ext2", "ext3")):  # Linux reserves blocks in extents alone
        debugfs(image, [*reserve, "fallocate /etc/shadow 1 40"], writes=True)
    index = map_of(image)
    (area,) = index.areas
    size = area.block_bytes
    assert (area.is_dirty, area.notes, area.length) == (False, (), image.stat().st_size)

    # Inodes, of all blocks at edges of the map and of others.
    last = area.length // size
    edges = {int(edge) // size + step for edge in index.edges for step in (-1, 0)}
    blocks = sorted(
        block
        for block in edges | set(random.Random(1).sample(range(last), 1500))
        if 0 <= block < last
    )
    for block, inode in inodes_by_debugfs(image, blocks).items():
        (owner,) = owner_at(index, block * size)
        has_inode = owner.first_inode >= 0 and owner.kind is not OwnerKind.INODES
        assert (owner.first_inode if has_inode else None) == inode, (block, owner)

    # Free space is exactly what dumpe2fs says, and nothing is left over.
    free = np.zeros(last, bool)
    for first, end in free_by_dumpe2fs(image):
        free[first : end + 1] = True
    mine = np.zeros(last, bool)
    for edge, end, number in zip(
        index.edges, index.edges[1:], index.owner_numbers.tolist(), strict=False
    ):
        (owner,) = index.owners(number)
        assert owner.kind not in (OwnerKind.UNKNOWN, OwnerKind.UNNAMED)
        mine[edge // size : end // size] = owner.kind is OwnerKind.FREE
    assert np.array_equal(free, mine)

    # Names: every path, hard links of one file together, and none besides.
    named = paths_on_disk(tree)
    by_path = {path: index.inodes_of(path) for path in named}
    assert all(len(inodes) == 1 for inodes in by_path.values())
    for path, number in named.items():
        (inode,) = by_path[path]
        same = {other for other, its in named.items() if its == number}
        owner = Owner(kind=OwnerKind.FILE, area=inode[0], first_inode=inode[1])
        assert set(index.paths(owner)) == same
    assert len(index.names) == len(named) + 1  # lost+inodes


def test_what_folders_dont_name_is_named_by_what_it_is(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", "-b", "4096", "-I", "128")
    blocks = [
        int(debugfs(image, [f"blocks {path}"]).split("\n")[1].split()[0])
        for path in ("/etc/shadow", "/etc/passwd")
    ]
    value = tmp_path / "value"
    value.write_bytes(b"v" * 2000)
    debugfs(
        image,
        [
            "unlink /etc/passwd",  # its inode stays in use, as that of a deleted file that is open
            f"ea_set -f {value} /etc/shadow user.note",
            "feature needs_recovery",
        ],
        writes=True,
    )
    index = map_of(image)
    (file,), (unnamed,) = (owner_at(index, block * 4096) for block in blocks)
    assert (file.kind, index.paths(file)) == (OwnerKind.FILE, [b"/etc/shadow"])
    assert (unnamed.kind, index.paths(unnamed)) == (OwnerKind.UNNAMED, [])
    starts, lengths = index.extents_of(b"/etc/shadow")
    kinds = [owner_at(index, int(start))[0].kind for start in starts]
    assert sorted(kinds) == [OwnerKind.ATTRIBUTES, OwnerKind.FILE]
    assert lengths.tolist() == [4096, 4096]
    starts, lengths = index.inode_entries_of(b"/etc/shadow")
    (table,) = owner_at(index, int(starts[0]))
    within = index.inodes_within(table, start=int(starts[0]), length=int(lengths[0]))
    assert within == (file.first_inode, file.first_inode)
    assert index.inodes_within(table, start=int(starts[0]) // 4096 * 4096, length=4096) == (
        (file.first_inode - 1) // 32 * 32 + 1,
        (file.first_inode - 1) // 32 * 32 + 32,
    )
    maps = [
        number
        for number in index.owner_numbers.tolist()
        if index.owners(number)[0].kind is OwnerKind.FILE_MAP
    ]
    assert {path for number in maps for path in index.paths(index.owners(number)[0])} == {b"/holes"}
    assert index.areas[0].is_dirty
    assert "mounted, or wasn't unmounted in order" in index.areas[0].notes[0]


def test_a_file_that_lies_in_its_inode_has_an_entry_there_and_no_range(tmp_path: Path) -> None:
    need("mke2fs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=1)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", "-O", "inline_data", "-b", "4096")
    index = map_of(image)
    assert len(index.extents_of(b"/etc/passwd")[0]) == 0
    starts, lengths = index.inode_entries_of(b"/etc/passwd")
    data = image.read_bytes()[int(starts[0]) :][: int(lengths[0])]
    assert b"root:x:0\n" in data


def test_names_in_encrypted_folders_arent_claimed_to_be_known(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=1)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", "-O", "encrypt", "-b", "4096")
    debugfs(image, ["set_inode_field /etc flags 0x80800"], writes=True)
    index = map_of(image)
    names = {
        path
        for number in index.owner_numbers.tolist()
        for owner in index.owners(number)
        if owner.kind in NAMED
        for path in index.paths(owner)
    }
    assert b"/etc/shadow" not in names
    assert any(name.startswith(b"/etc/(encrypted name of inode ") for name in names)
    assert "encrypted folders" in index.areas[0].notes[0]


def test_a_layout_that_isnt_read_is_said(tmp_path: Path) -> None:
    need("mke2fs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=1)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", "-O", "bigalloc", "-C", "16384")
    index = map_of(image)
    assert index.areas[0].notes == ("not read: ext4 with clusters of several blocks (bigalloc)",)
    assert [owner.kind for owner in owner_at(index, 0)] == [OwnerKind.NOT_READABLE]
    assert len(index.owner_numbers) == 1


def test_a_deleted_name_isnt_that_of_the_file_that_has_its_inode_now(tmp_path: Path) -> None:
    need("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=1)
    image = make_ext(tmp_path / "image", tree, "-t", "ext4", "-b", "4096")
    ((_, inode),) = map_of(image).inodes_of(b"/etc/shadow")
    debugfs(image, ["rm /etc/shadow", f"write {tree / 'etc/shadow'} new"], writes=True)
    index = map_of(image)
    assert index.inodes_of(b"/new") == {(0, inode)}
    assert index.inodes_of(b"/etc/shadow") == index.inodes_of(b"/NEW") == set()
    assert index.names.paths(0, inode) == [b"/new"]


def test_the_bitmap_of_a_group_that_was_never_used_isnt_believed(tmp_path: Path) -> None:
    need("mke2fs", "dumpe2fs")
    tree = tmp_path / "tree"
    make_tree(tree, seed=1, files=1)
    options = ("-t", "ext4", "-b", "1024", "-g", "4096", "-O", "^flex_bg,uninit_bg")
    image = make_ext(tmp_path / "image", tree, *options)
    before = list(free_by_dumpe2fs(image))
    bitmaps = [
        int(match[1])
        for match in re.finditer(
            r"BLOCK_UNINIT.*\n.*\n?  Block bitmap at (\d+)", run_tool("dumpe2fs", image)
        )
    ]
    assert bitmaps
    with image.open("r+b") as file:
        for block in bitmaps:
            file.seek(block * 1024)
            file.write(b"\xff" * 1024)
    free = sum(last - first + 1 for first, last in before) * 1024
    assert bytes_of_kind(map_of(image), OwnerKind.FREE) == free
