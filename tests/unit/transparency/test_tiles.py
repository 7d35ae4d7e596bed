"""Names and contents of the files of a log, as https://c2sp.org/tlog-tiles shows them."""

from __future__ import annotations

import pytest

from mirrorlog.errors import StateDamaged
from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.merkle import HASH_BYTES, leaf_hash
from mirrorlog.transparency.tiles import (
    TiledLog,
    bundle_bytes,
    bundle_path,
    read_bundle,
    tile_path,
    tile_width,
)


def test_paths() -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(0, 273, 112) == "tile/0/273.p/112"
    assert tile_path(3, 1234067) == "tile/3/x001/x234/067"
    assert bundle_path(1000) == "tile/entries/x001/000"
    assert bundle_path(999, 1) == "tile/entries/999.p/1"


def test_a_tree_of_70000_has_the_tiles_that_the_specification_counts() -> None:
    size = 70_000
    log = GrowingLog()
    entries = [number.to_bytes(4, "big") for number in range(size)]
    log.append(entries, [leaf_hash(entry) for entry in entries])
    files = log.commit()
    full = {name for name in files if ".p/" not in name}
    partial = {name for name in files if ".p/" in name}
    assert len([name for name in full if name.startswith("tile/0/")]) == 273
    assert len([name for name in full if name.startswith("tile/1/")]) == 1
    assert partial == {
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
        "tile/entries/273.p/112",
    }
    assert len(files["tile/0/000"]) == 256 * HASH_BYTES
    assert [tile_width(level, 0, size) for level in range(4)] == [256, 256, 1, 0]


def test_256_leaves_are_a_full_tile_and_a_partial_one_above_it() -> None:
    log = GrowingLog()
    entries = [b"leaf"] * 256
    log.append(entries, [leaf_hash(entry) for entry in entries])
    assert log.commit().keys() == {"tile/0/000", "tile/entries/000", "tile/1/000.p/1"}


def test_a_bundle_has_its_entries() -> None:
    entries = [b"", b"a", b"b" * 65_535]
    bundle = bundle_bytes(entries)
    assert bundle[:5] == b"\x00\x00\x00\x01a"
    assert list(read_bundle(bundle, where="a test")) == entries
    with pytest.raises(StateDamaged):
        list(read_bundle(bundle[:-1], where="a test"))


def test_what_is_missing_or_cut_is_damage() -> None:
    log = GrowingLog()
    entries = [b"leaf"] * 300
    log.append(entries, [leaf_hash(entry) for entry in entries])
    files = log.commit()
    for name in ("tile/0/001.p/44", "tile/entries/001.p/44", "tile/1/000.p/1"):
        for content in (None, files[name][:-1]):
            damaged = {**files, name: content}
            with pytest.raises(StateDamaged, match="a folder"):
                GrowingLog.restored(damaged.get, 300, log.root, where="a folder")
    flipped = {**files, "tile/0/001.p/44": bytes(44 * HASH_BYTES)}
    with pytest.raises(StateDamaged, match="root"):
        GrowingLog.restored(flipped.get, 300, log.root, where="a folder")
    with pytest.raises(StateDamaged):
        TiledLog({}.get, 1, where="a folder").entry(0)
