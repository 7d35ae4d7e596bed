"""Merkle trees as RFC 6962 defines them (section 2.1), and their proofs (RFC 9162). Pure.

The leaves of a tree are byte strings, in an order. A tree of 2**k leaves that begins at a multiple
of 2**k is complete: its hash never changes as the log grows. Every other hash is made of hashes of
complete trees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final, Protocol

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class SubtreeHashes(Protocol):
    """The hashes of the complete trees in a log."""

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of the leaves [index * 2**level, (index + 1) * 2**level)."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962, section 2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node with two children (RFC 6962, section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of complete trees of one size, a power of two of them."""
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=True)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    return hashes[0]


def folded_root(subtrees: Sequence[bytes]) -> bytes:
    """Return the root over complete trees of descending sizes, from left to right."""
    if not subtrees:
        return EMPTY_ROOT
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


def range_root(hashes: SubtreeHashes, start: int, end: int) -> bytes:
    """Return the hash over the leaves [start, end).

    start: 0, or a multiple of the largest power of two that isn't above end - start, as the ranges
    in proofs are.
    """
    subtrees, place = [], start
    for level in range((end - start).bit_length() - 1, -1, -1):
        if (end - start) >> level & 1:
            subtrees.append(hashes.subtree(level, place >> level))
            place += 1 << level
    return folded_root(subtrees)


def inclusion_proof(hashes: SubtreeHashes, index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[size]) of RFC 6962, section 2.1.1, from the leaf's sibling upwards.

    ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    start, end = 0, size
    path: list[bytes] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(hashes, middle, end))
            end = middle
        else:
            path.append(range_root(hashes, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(hashes: SubtreeHashes, old_size: int, size: int) -> list[bytes]:
    """Return PROOF(old_size, D[size]) of RFC 6962, section 2.1.2; empty where none is needed.

    ValueError unless 0 <= old_size <= size.
    """
    if not 0 <= old_size <= size:
        raise ValueError(f"a tree of {size} leaves has no earlier one of {old_size}")
    if old_size in (0, size):
        return []
    start, end = 0, size
    path: list[bytes] = []
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(range_root(hashes, middle, end))
            end = middle
        else:
            path.append(range_root(hashes, start, middle))
            start = middle
    if start:
        path.append(range_root(hashes, start, end))
    return path[::-1]


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether the proof shows that `leaf`, a leaf's hash, has the index in the tree.

    The algorithm is that of RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return False
    place, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            result = node_hash(sibling, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and result == root


def is_consistent(
    old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes
) -> bool:
    """Return whether the proof shows that the older tree is the beginning of the newer one.

    The algorithm is that of RFC 9162, section 2.1.4.2. The empty tree begins every tree.
    """
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == size:
        return not proof and old_root == root
    if not 0 < old_size < size or not proof:
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    place, last = old_size - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and older == old_root and newer == root


def power_groups(hashes: Sequence[bytes]) -> Iterator[bytes]:
    """Yield roots of the groups into which `hashes` fall, of descending powers of two.

    hashes: those of complete trees of one size, from left to right. Groups of complete trees that
    begin at a multiple of their own size are complete.
    """
    start = 0
    for level in range(len(hashes).bit_length() - 1, -1, -1):
        if len(hashes) >> level & 1:
            yield complete_root(hashes[start : start + (1 << level)])
            start += 1 << level


def _split(leaves: int) -> int:
    """Return the largest power of two below the number of leaves, which is at least 2."""
    return 1 << ((leaves - 1).bit_length() - 1)
