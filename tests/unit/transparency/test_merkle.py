"""Merkle trees against the vectors of Certificate Transparency's reference implementation.

They are in google/certificate-transparency, `merkle_tree_test.cc`: roots, paths and proofs.
"""

from __future__ import annotations

import pytest

from mirrorlog.transparency.merkle import (
    EMPTY_ROOT,
    complete_root,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    is_included,
    leaf_hash,
    range_root,
)

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_5F = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_6B = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_96 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_BC = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_CA = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_0E = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"


class Leaves:
    """The complete trees over LEAVES."""

    def subtree(self, level: int, index: int) -> bytes:
        leaves = LEAVES[index << level : (index + 1) << level]
        assert len(leaves) == 1 << level
        return complete_root([leaf_hash(leaf) for leaf in leaves])


def root(size: int) -> bytes:
    return bytes.fromhex(ROOTS[size])


def of_hex(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


@pytest.mark.parametrize("size", range(9))
def test_roots(size: int) -> None:
    assert range_root(Leaves(), 0, size) == root(size)
    assert root(0) == EMPTY_ROOT


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [_96, _5F, _6B]),
        (5, 8, [_BC, _CA, ROOTS[4]]),
        (2, 3, [ROOTS[2]]),
        (1, 5, [ROOTS[1], _5F, _BC]),
    ],
)
def test_inclusion(index: int, size: int, path: list[str]) -> None:
    proof = inclusion_proof(Leaves(), index, size)
    assert proof == of_hex(path)
    assert is_included(leaf_hash(LEAVES[index]), index, size, proof, root(size))


@pytest.mark.parametrize(
    ("old_size", "size", "path"),
    [
        (1, 1, []),
        (1, 8, [_96, _5F, _6B]),
        (6, 8, [_0E, _CA, ROOTS[4]]),
        (2, 5, [_5F, _BC]),
    ],
)
def test_consistency(old_size: int, size: int, path: list[str]) -> None:
    proof = consistency_proof(Leaves(), old_size, size)
    assert proof == of_hex(path)
    assert is_consistent(old_size, size, proof, root(old_size), root(size))


def test_the_empty_tree_begins_every_tree() -> None:
    assert consistency_proof(Leaves(), 0, 8) == []
    assert is_consistent(0, 8, [], EMPTY_ROOT, root(8))
    assert not is_consistent(0, 8, [], root(1), root(8))
    assert not is_consistent(0, 8, [root(1)], EMPTY_ROOT, root(8))


def test_what_is_outside_the_tree_has_no_proof() -> None:
    for index in (-1, 8):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(Leaves(), index, 8)
        assert not is_included(root(1), index, 8, [], root(8))
    with pytest.raises(ValueError, match="no earlier one"):
        consistency_proof(Leaves(), 9, 8)
    assert not is_consistent(8, 6, [root(1)], root(8), root(6))
