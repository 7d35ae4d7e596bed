"""A repository of backups in a folder, to which bench_backup.py adds points as a backup does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

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
from mirrorlog.consumers.backup.repository.repository_writer import open_writer
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.consumers.range_reads import CopySource
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.site_progress import Rung

BLOCK_BYTES: Final = 4096
VOLUME: Final = "vol1"
_GENERATION: Final = "11111111-1111-4111-8111-111111111111"
_HISTORY: Final = "22222222-2222-4222-8222-222222222222"


@dataclass(slots=True)
class Points:
    """The points of one volume in a repository in `folder`, which is created. names: oldest first.

    size_bytes: of the volume, as it is now.
    """

    folder: Path
    size_bytes: int
    layout: ImageLayout = ImageLayout.SUBCLUSTERS
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        Repository.create(FolderBackups(self.folder), Qcow2Files())

    def add(self, blocks: BlockSet, source: CopySource) -> None:
        """Add a point in which these blocks differ from the last one; the first is a full one.

        The repository is opened, locked, read and unlocked again, as by a command.
        """
        repository = Repository.open(FolderBackups(self.folder), Qcow2Files())
        base = self.names[-1] if self.names else None
        with open_writer(repository, f"backup of {VOLUME}") as writer:
            written_at_us = time.time_ns() // 1000
            point = writer.new_point(written_at_us)
            plan = self.plan(blocks, backing_name(base))
            path = writer.work / f"{uuid4().hex}{repository.images.suffix}"
            written = write_image(path, plan, source)
            manifest = PointManifest(
                repository_id=repository.repository_id,
                volume=VOLUME,
                point=point,
                position=BackupPosition(
                    position=len(self.names),
                    generation=_GENERATION,
                    history_id=_HISTORY,
                    anchor=None,
                    is_consistent=True,
                ),
                at_us=written_at_us,
                written_at_us=written_at_us,
                source="primary",
                reason=None,
                hooks=(),
                size_bytes=self.size_bytes,
                block_size=BLOCK_BYTES,
                rung=Rung.CHANGED if base else Rung.ALLOCATED,
                rung_reason=None,
                image=facts_of(plan, written),
            )
            writer.add_point(manifest, path)
        self.names.append(point)

    def plan(self, blocks: BlockSet, backing: str | None) -> ImagePlan:
        """Return what an image of these blocks is to hold."""
        return ImagePlan(
            size_bytes=self.size_bytes,
            block_size=BLOCK_BYTES,
            data=blocks,
            zeros=BlockSet(),
            backing=backing,
            layout=self.layout,
            image_id=uuid4(),
        )

    def image(self, number: int) -> Path:
        """Return the file of a point."""
        return self.folder / image_name(VOLUME, self.names[number], Qcow2Files.suffix)

    @contextmanager
    def opened(self, number: int, *, reads_all: bool = False) -> Iterator[ChainReader]:
        """Lend the volume as of a point. reads_all: compare its images with their digests first."""
        repository = Repository.open(FolderBackups(self.folder), Qcow2Files())
        catalog = repository.catalog(VOLUME)
        with open_point(repository, catalog, self.names[number], reads_all=reads_all) as reader:
            yield reader
