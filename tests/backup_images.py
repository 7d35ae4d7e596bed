"""Images of backups for tests: a volume in memory whose points become a chain of images."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.qcow2.image_writing import WrittenImage, write_image
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.range_columns import RangeColumns


class BytesSource:
    """CopySource of the bytes of a volume."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def pread(self, *, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.content)
        return self.content[offset : offset + length]

    def pread_ranges(self, ranges: RangeColumns, memory: memoryview) -> None:
        for offset, length, place in ranges:
            memory[place : place + length] = self.pread(offset=offset, length=length)


def write_whole(path: Path, content: bytes) -> WrittenImage:
    """Write an image that holds all of a volume."""
    plan = ImagePlan(
        size_bytes=len(content),
        block_size=4096,
        data=BlockSet.of_range(0, -(-len(content) // 4096)),
        zeros=BlockSet(),
        backing=None,
        layout=ImageLayout.SUBCLUSTERS,
        image_id=uuid4(),
    )
    return write_image(path, plan, BytesSource(content))


@dataclass
class ImageChain:
    """A volume, and an image of each of its points, the newest first.

    layout: of the images. contents: of the volume at each point, in the same order as `paths`.
    """

    folder: Path
    layout: ImageLayout
    block_size: int
    content: bytearray = field(default_factory=bytearray)
    changed: set[int] = field(default_factory=set)
    zeroed: set[int] = field(default_factory=set)
    paths: list[Path] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    is_compressed: bool = False
    image_ids: list[UUID] = field(default_factory=list)
    written: list[WrittenImage] = field(default_factory=list)

    def resize(self, size_bytes: int) -> None:
        """Change the size. What is added is zeros.

        A block of it counts as changed only if the last point holds something there.
        """
        before = len(self.content)
        del self.content[size_bytes:]
        self.content.extend(bytes(size_bytes - len(self.content)))
        held = len(self.contents[0]) if self.contents else 0
        if before >= held:
            return
        for block in range(before // self.block_size, -(-min(size_bytes, held) // self.block_size)):
            if block * self.block_size < before:
                self.changed.add(block)
            else:
                self.zeroed.add(block)

    def write(self, block: int, seed: int) -> None:
        """Write a block; do nothing behind the end."""
        start = block * self.block_size
        length = min(self.block_size, len(self.content) - start)
        if length > 0:
            source = random.Random(seed)
            data = source.randbytes(length)
            if self.is_compressed:  # from a few bytes a cluster to what can't be compressed
                data = (data[: source.choice([3, 700, 3500, 4096])] * length)[:length]
            self.content[start : start + length] = data
            self.changed.add(block)
            self.zeroed.discard(block)

    def zero(self, block: int) -> None:
        """Make a block zeros; do nothing behind the end."""
        start = block * self.block_size
        length = min(self.block_size, len(self.content) - start)
        if length > 0:
            self.content[start : start + length] = bytes(length)
            self.changed.discard(block)
            self.zeroed.add(block)

    def take_point(self) -> Path:
        """Write an image of what changed since the last point."""
        blocks = -(-len(self.content) // self.block_size)
        image_id = uuid4()
        path = self.folder / f"point{len(self.paths)}.qcow2"
        plan = ImagePlan(
            size_bytes=len(self.content),
            block_size=self.block_size,
            data=BlockSet(block for block in self.changed if block < blocks),
            zeros=BlockSet(block for block in self.zeroed if block < blocks),
            backing=self.paths[0].name if self.paths else None,
            layout=self.layout,
            image_id=image_id,
            is_compressed=self.is_compressed,
        )
        written = write_image(path, plan, BytesSource(bytes(self.content)))
        self.paths.insert(0, path)
        self.contents.insert(0, bytes(self.content))
        self.image_ids.insert(0, image_id)
        self.written.insert(0, written)
        self.changed.clear()
        self.zeroed.clear()
        return path


def random_chain(
    folder: Path, layout: ImageLayout, *, points: int, seed: int = 7, is_compressed: bool = False
) -> ImageChain:
    """Return a chain of points of a volume that grows and shrinks, with writes and zeros."""
    source = random.Random(seed)
    chain = ImageChain(folder, layout, 4096, is_compressed=is_compressed)
    for _ in range(points):
        chain.resize(512 * source.randint(2000, 12000))
        blocks = len(chain.content) // 4096
        for _ in range(60):
            chain.write(source.randint(0, blocks), source.randint(0, 1 << 30))
        first = source.randint(0, blocks)
        for block in range(first, first + source.randint(1, 80)):
            chain.zero(block)
        first = source.randint(0, blocks)
        for block in range(first, first + source.randint(1, 100)):
            chain.write(block, block)
        chain.take_point()
    return chain
