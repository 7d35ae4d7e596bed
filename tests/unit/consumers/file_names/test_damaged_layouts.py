"""mirrorlog's own readers of layouts map damaged bytes whole, or say that they can't.

The library isn't asked here: what it does with such bytes is its own affair, in a process of its
own (test_scan_process.py).
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from file_images import MIB, make_ext, make_tree, need

from mirrorlog.consumers.file_names.ext_layout import read_superblock
from mirrorlog.consumers.file_names.layout_reading import UnsupportedLayout
from mirrorlog.consumers.file_names.map_builder import AreaMap, MapBuilder
from mirrorlog.consumers.file_names.owners import Area

SIZE = 12 * MIB


def no_such_file(*_: object, **__: object) -> object:
    raise OSError("there is no such file")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need("mke2fs")
    folder = tmp_path_factory.mktemp("damaged")
    make_tree(folder / "tree", seed=1, files=10)
    options = ("-t", "ext4", "-b", "1024", "-g", "2048")
    return make_ext(folder / "image", folder / "tree", *options, size_bytes=SIZE).read_bytes()


@pytest.mark.parametrize("seed", range(40))
def test_every_byte_has_an_owner_or_the_layout_is_refused(seed: int, whole: bytes) -> None:
    from mirrorlog.consumers.file_names.ext_reader import map_ext

    chance, data = random.Random(seed), bytearray(whole)
    layout = [*range(1024, 2048), *range(2048, 8192)]
    for _ in range(chance.choice([1, 3, 20])):
        at = chance.choice(layout) if seed % 2 else chance.randrange(SIZE)
        data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    builder = MapBuilder(SIZE)
    bare = Area(number=0, start=0, length=SIZE, type_name="ext4")
    area = AreaMap(builder, builder.add_area(bare), 0, SIZE)
    fs = SimpleNamespace(
        info=SimpleNamespace(root_inum=2, block_size=1024),
        open_meta=no_such_file,
        open_dir=no_such_file,
    )

    def read(offset: int, length: int) -> bytes:
        return bytes(data[offset : offset + length]) if 0 <= offset < SIZE else b""

    try:
        superblock = read_superblock(read)
        if superblock is None:
            return
        map_ext(superblock, fs, read, area, bare)
    except UnsupportedLayout:
        return
    index = builder.result(began_at_us=0, read_at_us=0)
    assert index.size_bytes == SIZE
    pieces = index.pieces(index.edges[:-1], np.diff(index.edges))
    assert int(pieces.lengths.sum()) == SIZE


def test_folders_of_hfs_plus_that_cant_be_read_are_said() -> None:
    need()
    from mirrorlog.consumers.file_names.hfs_reader import map_hfs

    def no_folder(inode: int) -> SimpleNamespace:
        if inode == 2:
            raise OSError("the root folder can't be read")
        return SimpleNamespace(info=SimpleNamespace(meta=None))

    for open_meta, said in ((lambda _: no_folder(0), 1), (no_folder, 2)):
        builder = MapBuilder(SIZE)
        bare = Area(number=0, start=0, length=SIZE, type_name="HFS+")
        area = AreaMap(builder, builder.add_area(bare), 0, SIZE)
        info = SimpleNamespace(root_inum=2, block_size=4096, block_count=SIZE // 4096)
        fs = SimpleNamespace(info=info, open_meta=open_meta, open_dir=no_such_file)
        map_hfs(fs, lambda _, length: bytes(length), area, bare)
        assert builder.areas[0].notes[-1] == f"{said} folders or files couldn't be read"
