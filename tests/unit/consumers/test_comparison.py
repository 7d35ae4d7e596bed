"""Comparison: the secondary holds the primary's bytes, and only blocks that differ are written."""

from __future__ import annotations

from random import Random

import pytest

from mirrorlog.consumers.resync.comparison import write_differing, zero_differing
from mirrorlog.simulation.memory_devices import MemoryDevice

BLOCK = 4096
BLOCKS = 64
SIZE = BLOCKS * BLOCK - 1000


class Written(MemoryDevice):
    """A device that notes the blocks that are written, and counts the bytes that are read."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.blocks: set[int] = set()
        self.written_bytes = self.read_bytes = 0

    def note(self) -> None:
        """Begin to note."""
        self.hook = self._note

    def _note(self, operation: str, offset: int, length: int) -> None:
        if operation == "pread":
            self.read_bytes += length
        if operation in ("pwrite", "zero"):
            self.written_bytes += length
            self.blocks |= set(range(offset // BLOCK, (offset + length - 1) // BLOCK + 1))


@pytest.mark.parametrize("seed", range(30))
def test_exactly_the_blocks_that_differ_are_written(seed: int) -> None:
    random = Random(seed)
    device = Written()
    content = bytearray(SIZE)
    for block in range(BLOCKS):
        if random.random() < 0.7:
            end = min(SIZE, (block + 1) * BLOCK)
            content[block * BLOCK : end] = random.randbytes(end - block * BLOCK)
    start = random.choice([0, 0, 3 * BLOCK, random.randrange(SIZE)])
    length = random.randrange(1, SIZE - start + 1)
    wanted = bytes(content)
    held, differing = bytearray(wanted), set[int]()
    for _ in range(random.choice([0, 1, 5, 40])):
        at = random.randrange(SIZE)
        held[at] ^= 1 + random.randrange(255)
    for at in range(start, start + length):
        if held[at] != wanted[at]:
            differing.add(at // BLOCK)
    device.pwrite(0, held)
    device.note()
    data = memoryview(wanted)[start : start + length]
    written_bytes = write_differing(device, start, data, BLOCK)
    assert device.blocks == differing
    assert written_bytes == device.written_bytes <= len(differing) * BLOCK
    device.hook = None
    expected = held[:start] + wanted[start : start + length] + held[start + length :]
    assert device.pread(offset=0, length=SIZE) == bytes(expected)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_zeros_already_is_not_written_and_holes_are_not_read(seed: int) -> None:
    random = Random(seed)
    device = Written()
    dirty = {random.randrange(BLOCKS) for _ in range(random.randrange(6))}
    written = {random.randrange(BLOCKS) for _ in range(random.randrange(6))}
    for block in written:
        device.pwrite(block * BLOCK, bytes(min(BLOCK, SIZE - block * BLOCK)))
    for block in dirty:
        device.pwrite(min(SIZE - 1, block * BLOCK + random.randrange(BLOCK)), b"x")
    device.note()
    zeroed_bytes = zero_differing(device, offset=0, length=SIZE, block_size=BLOCK)
    assert device.blocks == dirty
    assert device.read_bytes <= len(dirty | written) * BLOCK
    assert zeroed_bytes == device.written_bytes <= len(dirty) * BLOCK
    device.hook = None
    assert device.pread(offset=0, length=SIZE) == bytes(SIZE)


def test_nothing_outside_of_a_range_is_zeroed() -> None:
    device = Written()
    device.pwrite(0, b"x" * SIZE)
    assert zero_differing(device, offset=1000, length=5000, block_size=BLOCK) == 5000
    assert device.pread(offset=0, length=SIZE) == b"x" * 1000 + bytes(5000) + b"x" * (SIZE - 6000)
