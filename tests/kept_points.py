"""Points of one volume in a repository in a folder, written as a backup writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from backup_positions import at

from mirrorlog.adapters.backup_folder import FolderBackups
from mirrorlog.consumers.backup.qcow2.chain_reader import ChainReader
from mirrorlog.consumers.backup.qcow2.format import ImageLayout
from mirrorlog.consumers.backup.qcow2.image_plan import ImagePlan
from mirrorlog.consumers.backup.qcow2.image_writing import write_image
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.consumers.backup.repository.object_names import image_name
from mirrorlog.consumers.backup.repository.open_point import open_point
from mirrorlog.consumers.backup.repository.qcow2_files import Qcow2Files, backing_name, facts_of
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import (
    MAX_DEPTH,
    RepositoryWriter,
    open_writer,
)
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.consumers.range_reads import CopySource
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung

BLOCK = 4096
HISTORY = "22222222-2222-4222-8222-222222222222"


def add_point(
    writer: RepositoryWriter,
    plan: ImagePlan,
    source: CopySource,
    *,
    position: BackupPosition,
    at_us: int | None,
    written_at_us: int,
) -> str:
    """Add a point of the volume v. Return its name."""
    path = writer.work / "image.qcow2"
    image = facts_of(plan, write_image(path, plan, source))
    manifest = PointManifest(
        repository_id=writer.repository.repository_id,
        volume="v",
        point=writer.new_point(written_at_us),
        position=position,
        at_us=at_us,
        written_at_us=written_at_us,
        source="primary",
        reason=None,
        hooks=(),
        size_bytes=plan.size_bytes,
        block_size=plan.block_size,
        rung=Rung.CHANGED if image.base else Rung.ALLOCATED,
        rung_reason=None,
        image=image,
    )
    return writer.add_point(manifest, path).point


class KeptPoints:
    """A repository in `folder`, and the names of its points, the oldest first.

    size_bytes: of the volume at the next point. max_depth: of chains.
    """

    def __init__(
        self,
        folder: Path,
        size_bytes: int,
        *,
        layout: ImageLayout = ImageLayout.SUBCLUSTERS,
        is_compressed: bool = False,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        self.folder, self.size_bytes = folder, size_bytes
        self.layout, self.is_compressed, self.max_depth = layout, is_compressed, max_depth
        self.names: list[str] = []
        Repository.create(FolderBackups(folder), Qcow2Files())

    @property
    def repository(self) -> Repository:
        """The repository, opened again."""
        return Repository.open(FolderBackups(self.folder), Qcow2Files())

    def add(
        self,
        source: CopySource,
        data: BlockSet,
        zeros: BlockSet,
        *,
        position: BackupPosition | None = None,
    ) -> None:
        """Add a point: these blocks are in its image, the others as in the point before it.

        position: None for one that counts the points.
        """
        number = len(self.names)
        base = self.names[-1] if self.names else None
        plan = ImagePlan(
            size_bytes=self.size_bytes,
            block_size=BLOCK,
            data=data,
            zeros=zeros,
            backing=backing_name(base),
            layout=self.layout,
            image_id=uuid4(),
            is_compressed=self.is_compressed,
        )
        with open_writer(self.repository, "a test", max_depth=self.max_depth) as writer:
            point = add_point(
                writer,
                plan,
                source,
                position=position or at(number, history_id=HISTORY),
                at_us=None,
                written_at_us=1_800_000_000_000_000 + number * 1_000_000,
            )
        self.names.append(point)

    def image(self, number: int) -> Path:
        """Return the file of a point."""
        return self.folder / image_name("v", self.names[number], Qcow2Files.suffix)

    @contextmanager
    def opened(self, number: int) -> Iterator[ChainReader]:
        """Lend the volume as of a point."""
        repository = self.repository
        with open_point(repository, repository.catalog("v"), self.names[number]) as reader:
            yield reader
