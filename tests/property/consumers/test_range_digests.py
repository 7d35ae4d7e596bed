"""Digests of ranges depend on the bytes alone, however the device stores and returns them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.consumers.verify.range_digests import digest_function, digests_of
from mirrorlog.domain.verifications import DIGEST_BYTES, ByteRange, DigestAlgorithm, parse_algorithm
from mirrorlog.errors import BadUse
from mirrorlog.ports.task_runner import OneAtATime
from mirrorlog.simulation.memory_devices import MemoryDevice

SIZE = 64 << 10


@pytest.mark.parametrize("algorithm", DigestAlgorithm)
@settings(max_examples=60, deadline=None)
@given(
    written=st.lists(st.tuples(st.integers(0, SIZE - 5000), st.sampled_from(b"\0ab")), max_size=6),
    cuts=st.lists(st.integers(0, SIZE), min_size=2, max_size=12, unique=True),
)
def test_digests_are_those_of_the_bytes_wherever_holes_are(
    algorithm: DigestAlgorithm, written: list[tuple[int, int]], cuts: list[int]
) -> None:
    device, content = MemoryDevice(SIZE), bytearray(SIZE)
    for offset, byte in written:
        data = bytes([byte]) * 5000
        device.pwrite(offset, data)
        content[offset : offset + 5000] = data
    cuts = sorted(cuts)
    ranges = [ByteRange(a, b - a) for a, b in pairwise(cuts)][::-1]
    digest = digest_function(algorithm)
    expected = b"".join(digest(bytes(content[extent.offset : extent.end])) for extent in ranges)
    assert digests_of(device, ranges, algorithm, TaskThreads(3)) == expected


def test_a_range_that_is_read_in_pieces_has_one_digest_holes_or_not(tmp_path: Path) -> None:
    size = 9 << 20
    hole, zeros = tmp_path / "hole", tmp_path / "zeros"
    zeros.write_bytes(bytes(size))
    with hole.open("wb") as file:
        file.truncate(size)
    digests = []
    for path in (hole, zeros):
        with FileDevice(path, writable=False) as device:
            digests.append(digests_of(device, [ByteRange(0, size)], "XXH3_128", OneAtATime()))
    assert digests[0] == digests[1]
    assert len(digests[0]) == DIGEST_BYTES


def test_xxh3_is_the_one_of_its_authors() -> None:
    """XXH3_128bits of nothing and of 'a', by xxhsum 0.8 (`xxh128sum`)."""
    digest = digest_function("XXH3_128")
    assert digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert digest(b"a").hex() == "a96faf705af16834e6c632b61e964e1f"


def test_an_algorithm_that_is_none_is_refused_with_those_that_are() -> None:
    assert parse_algorithm("blake2b-128") is DigestAlgorithm.BLAKE2B_128
    with pytest.raises(BadUse, match="XXH3_128"):
        digest_function("MD5")
