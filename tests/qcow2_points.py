"""The qcow2 images of small volumes, for tests of repositories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from backup_images import BytesSource

from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.qcow2.image_writing import write_image
from mirrorlog.consumers.backup.repository.image_files import ImageFacts
from mirrorlog.consumers.backup.repository.qcow2_files import Qcow2Files, backing_name, facts_of
from mirrorlog.domain.bitmaps import BlockSet


class SmallQcow2(Qcow2Files):
    """ImageFiles, and what tests need to write and read images: the methods of TinyImages.

    Blocks are smaller than the units of images, so that most volumes end within a unit.
    """

    block = 512

    def __init__(
        self, layout: ImageLayout = ImageLayout.SUBCLUSTERS, *, is_compressed: bool = False
    ) -> None:
        self.layout, self.is_compressed = layout, is_compressed

    def write(
        self,
        path: Path,
        content: Sequence[int],
        blocks: set[int],
        *,
        base: str | None,
        image_id: str,
    ) -> ImageFacts:
        plan = ImagePlan(
            size_bytes=len(content) * self.block,
            block_size=self.block,
            data=BlockSet(block for block in blocks if content[block]),
            zeros=BlockSet(block for block in blocks if not content[block]),
            backing=backing_name(base),
            layout=self.layout,
            image_id=UUID(image_id),
            is_compressed=self.is_compressed,
        )
        return facts_of(plan, write_image(path, plan, BytesSource(self.octets(content))))

    def read_chain(self, paths: Sequence[Path]) -> list[int]:
        with ChainReader(paths) as reader:
            return self.versions(reader.pread(offset=0, length=reader.size_bytes))

    def octets(self, content: Sequence[int]) -> bytes:
        """Return the bytes of a volume whose blocks have these versions."""
        return b"".join(version.to_bytes(8, "little") * (self.block // 8) for version in content)

    def versions(self, octets: bytes) -> list[int]:
        """Return the versions of the blocks; -1 for a block that is none."""
        blocks = [octets[at : at + self.block] for at in range(0, len(octets), self.block)]
        return [
            int.from_bytes(block[:8], "little") if block == block[:8] * (self.block // 8) else -1
            for block in blocks
        ]


FORMS: Final = {
    "subclusters": SmallQcow2(),
    "clusters": SmallQcow2(ImageLayout.CLUSTERS),
    "compressed": SmallQcow2(ImageLayout.CLUSTERS, is_compressed=True),
}
"""All forms of images, by names for the ids of tests."""
