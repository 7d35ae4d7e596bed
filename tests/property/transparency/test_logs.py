"""Logs in tiles against a tree that is computed by RFC 6962's own recursion."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.merkle import (
    consistency_proof,
    inclusion_proof,
    is_consistent,
    is_included,
    leaf_hash,
    range_root,
)
from mirrorlog.transparency.tiles import TILE_WIDTH, TiledLog, bundle_path, tile_path

SIZES = st.one_of(
    st.integers(1, 40), st.integers(250, 260), st.integers(500, 800), st.just(65_536 + 300)
)
FEW = settings(max_examples=12, deadline=None)


def entries_of(size: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(size)]


def naive_root(leaves: list[bytes]) -> bytes:
    """Return MTH(D[n]) as RFC 6962, section 2.1, defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def grown(sizes: list[int]) -> tuple[dict[str, bytes], GrowingLog]:
    """Return the files and the log after commits at these sizes, which ascend."""
    log, files, entries = GrowingLog(), dict[str, bytes](), entries_of(sizes[-1])
    for size in sizes:
        added = entries[log.size : size]
        log.append(added, [leaf_hash(entry) for entry in added])
        files |= log.commit()
    return files, log


@FEW
@given(st.lists(SIZES, min_size=1, max_size=3))
def test_a_log_has_the_root_of_the_naive_tree_however_it_grew(sizes: list[int]) -> None:
    sizes = sorted(sizes)
    files, log = grown(sizes)
    entries = entries_of(sizes[-1])
    assert log.root == naive_root(entries)
    for size in sizes:
        tiled = TiledLog(files.get, size, where="a test")
        assert range_root(tiled, 0, size) == naive_root(entries[:size])
        assert tiled.entry(size - 1) == entries[size - 1]


@FEW
@given(SIZES, SIZES)
def test_a_restored_log_grows_as_if_it_had_never_stopped(first: int, second: int) -> None:
    first, second = sorted((first, second))
    files, log = grown([first])
    again = GrowingLog.restored(files.get, first, log.root, where="a test")
    added = entries_of(second)[first:]
    again.append(added, [leaf_hash(entry) for entry in added])
    assert again.root == naive_root(entries_of(second))
    expected, _ = grown([first, second])
    assert {**files, **again.commit()} == expected


@FEW
@given(SIZES, st.data())
def test_every_proof_holds_and_no_other(size: int, data: st.DataObject) -> None:
    files, log = grown([size])
    tiled = TiledLog(files.get, size, where="a test")
    index = data.draw(st.integers(0, size - 1))
    leaf = leaf_hash(entries_of(size)[index])
    proof = inclusion_proof(tiled, index, size)
    assert is_included(leaf, index, size, proof, log.root)
    other = data.draw(st.integers(0, size - 1))
    assert is_included(leaf, other, size, proof, log.root) == (other == index)
    assert not is_included(leaf, index, size, [*proof, leaf], log.root)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        forged = [*proof[:place], leaf_hash(proof[place]), *proof[place + 1 :]]
        assert not is_included(leaf, index, size, forged, log.root)
        assert not is_included(leaf, index, size, proof[:-1], log.root)


@FEW
@given(SIZES, st.data())
def test_two_sizes_of_one_log_are_consistent_and_no_other_tree_is(
    size: int, data: st.DataObject
) -> None:
    files, log = grown([size])
    tiled = TiledLog(files.get, size, where="a test")
    old_size = data.draw(st.integers(1, size))
    old_root = naive_root(entries_of(old_size))
    proof = consistency_proof(tiled, old_size, size)
    assert is_consistent(old_size, size, proof, old_root, log.root)
    assert not is_consistent(old_size, size, proof, leaf_hash(old_root), log.root)
    assert not is_consistent(old_size, size, proof, old_root, leaf_hash(log.root))
    if proof:
        forged = [leaf_hash(proof[0]), *proof[1:]]
        assert not is_consistent(old_size, size, forged, old_root, log.root)
        assert not is_consistent(old_size, size, proof[:-1], old_root, log.root)


def test_a_partial_tile_may_be_gone_once_the_full_one_is_there() -> None:
    files, _ = grown([100, TILE_WIDTH])
    del files[tile_path(0, 0, 100)], files[bundle_path(0, 100)]
    tiled = TiledLog(files.get, 100, where="a test")
    assert range_root(tiled, 0, 100) == naive_root(entries_of(100))
    assert tiled.entry(99) == entries_of(100)[99]
    assert len(tiled.entries(0)) == 100
