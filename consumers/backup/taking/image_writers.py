"""The port that writes the image of a point, and its adapter for qcow2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.qcow2.image_writing import write_image
from mirrorlog.consumers.backup.repository.image_files import ImageFacts
from mirrorlog.consumers.backup.repository.qcow2_files import backing_name, facts_of
from mirrorlog.consumers.range_reads import CopySource
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.errors import BadUse


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageContent:
    """What the image of a point is to hold.

    size_bytes, block_size: of the volume. data: the blocks that are read. zeros: those that are
    zeros. base: the point on which the image stands; None: all other blocks are zeros.
    """

    size_bytes: int
    block_size: int
    data: BlockSet
    zeros: BlockSet
    base: str | None


class WritesImages(Protocol):
    """Writes images of points."""

    def write(self, path: Path, content: ImageContent, source: CopySource) -> ImageFacts:
        """Write an image to a new file, durably, and return what a manifest says of it.

        source: reads the volume as of the point. After an error, the file is gone. Raise
        DeviceFailed, and BadUse for a content that no image can hold.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Writer:
    """WritesImages of qcow2. Raise BadUse for a layout that can't be compressed."""

    layout: ImageLayout = ImageLayout.SUBCLUSTERS
    is_compressed: bool = False

    def __post_init__(self) -> None:
        if self.is_compressed and self.layout is not ImageLayout.CLUSTERS:
            raise BadUse(
                f"images of the layout {self.layout} can't be compressed",
                next=f"Choose --layout {ImageLayout.CLUSTERS}.",
            )

    def write(self, path: Path, content: ImageContent, source: CopySource) -> ImageFacts:
        """Do as the port says."""
        plan = ImagePlan(
            size_bytes=content.size_bytes,
            block_size=content.block_size,
            data=content.data,
            zeros=content.zeros,
            backing=backing_name(content.base),
            layout=self.layout,
            image_id=uuid4(),
            is_compressed=self.is_compressed,
        )
        return facts_of(plan, write_image(path, plan, source))
