"""A small format of images, for tests of repositories, and repositories in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

from mirrorlog.consumers.backup.repository.image_files import (
    FileDamage,
    FileDigests,
    ImageFacts,
    ImageIdentity,
    Ranges,
)
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import MAX_DEPTH, open_writer
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import StateDamaged
from mirrorlog.ports.backup_stores import BackupStore

BLOCK = 4096
GENERATION = str(UUID(int=1))
_ENTRY = 16
_PIECE = 4 * _ENTRY


class TinyImages:
    """The port ImageFiles: a line of JSON, and then a number of 16 digits for each block.

    The line has the id, the backing file, the size in blocks and the numbers of the blocks that
    the image holds. Zero stands for a block of zeros.
    """

    suffix = ".tiny"

    def write(
        self, path: Path, blocks: Mapping[int, int], *, size: int, base: str | None, image_id: str
    ) -> ImageFacts:
        """Write an image. blocks: versions by block."""
        backing = None if base is None else f"{base}{self.suffix}"
        header = {"id": image_id, "backing": backing, "size": size, "blocks": sorted(blocks)}
        line = json.dumps(header).encode() + b"\n"
        data = b"".join(b"%016d" % blocks[block] for block in sorted(blocks))
        path.write_bytes(line + data)
        pieces = [data[first : first + _PIECE] for first in range(0, len(data), _PIECE)]
        digests = FileDigests(
            algorithm="blake2b",
            piece_bytes=_PIECE,
            pieces=tuple(map(_digest, pieces)),
            tables=_digest(line),
        )
        return ImageFacts(
            image_id=image_id,
            base=base,
            layout="tiny",
            file_bytes=len(line + data),
            changed_blocks=len(blocks),
            stored_bytes=len(data),
            digests=digests,
        )

    def read(self, path: Path) -> tuple[int, dict[int, int]]:
        """Return the size in blocks, and the versions by block."""
        line, _, data = path.read_bytes().partition(b"\n")
        header = json.loads(line)
        versions = [int(data[at : at + _ENTRY]) for at in range(0, len(data), _ENTRY)]
        return int(header["size"]), dict(zip(header["blocks"], versions, strict=True))

    def read_chain(self, paths: Sequence[Path]) -> list[int]:
        """Return the versions of all blocks of the newest of these images, as QEMU reads them."""
        content: list[int] = []
        for path in reversed(paths):
            size, blocks = self.read(path)
            content = [*content[:size], *([0] * (size - len(content)))]
            for block, version in blocks.items():
                content[block] = version
        return content

    def identify(self, beginning: bytes) -> ImageIdentity:
        try:
            header = json.loads(beginning.partition(b"\n")[0])
            return ImageIdentity(header["id"], header["backing"])
        except (ValueError, KeyError, TypeError):
            raise StateDamaged("the file is no image") from None

    def check(self, path: Path, image: ImageFacts) -> list[FileDamage]:
        line, _, data = path.read_bytes().partition(b"\n")
        if _digest(line + b"\n") != image.digests.tables:
            return [FileDamage("the tables are damaged", None)]
        blocks = json.loads(line)["blocks"]
        damages = []
        for number, expected in enumerate(image.digests.pieces):
            if _digest(data[number * _PIECE : (number + 1) * _PIECE]) != expected:
                held = blocks[number * 4 : number * 4 + 4]
                damages.append(FileDamage(f"piece {number} is damaged", _ranges(held)))
        if len(data) > len(blocks) * _ENTRY:
            damages.append(FileDamage("the file is too long", ()))
        return damages

    def held_ranges(self, path: Path) -> Ranges:
        return _ranges(list(self.read(path)[1]))

    def merge(
        self,
        paths: Sequence[Path],
        target: Path,
        *,
        backing: str | None,
        base: str | None,
        image_id: str,
    ) -> ImageFacts:
        assert backing == (None if base is None else f"{base}{self.suffix}")
        merged: dict[int, int] = {}
        smallest = 0
        for path in reversed(paths):
            size, blocks = self.read(path)
            smallest = min(smallest, size) if merged or smallest else size
            merged = {block: version for block, version in merged.items() if block < size}
            merged.update(blocks)
        size = self.read(paths[0])[0]
        for block in range(smallest, size):  # the images in between end here: zeros
            merged.setdefault(block, 0)
        if base is None:
            merged = {block: version for block, version in merged.items() if version}
        return self.write(target, merged, size=size, base=base, image_id=image_id)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def _ranges(blocks: Sequence[int]) -> Ranges:
    ranges: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if ranges and ranges[-1][1] == block * BLOCK:
            ranges[-1] = (ranges[-1][0], (block + 1) * BLOCK)
        else:
            ranges.append((block * BLOCK, (block + 1) * BLOCK))
    return tuple(ranges)


@dataclass
class BackupWorld:
    """A volume that is written to, its points, and what each of them must read as.

    seconds: the time, by which points are named.
    """

    store: BackupStore
    random: Random = field(default_factory=lambda: Random(1))
    volume: str = "vol1"
    blocks: int = 24
    max_depth: int = MAX_DEPTH
    seconds: int = 1_700_000_000
    content: list[int] = field(default_factory=list)
    points: dict[str, list[int]] = field(default_factory=dict)
    images: TinyImages = field(default_factory=TinyImages)
    written: int = 0
    changed: set[int] = field(default_factory=set)
    last: str | None = None

    def __post_init__(self) -> None:
        self.content = [0] * self.blocks
        self.repository = Repository.create(self.store, self.images)

    def write(self, *blocks: int) -> None:
        """Write to blocks of the volume."""
        for block in blocks:
            self.written += 1
            self.content[block] = self.written
            self.changed.add(block)

    def write_some(self, most: int = 6) -> None:
        """Write to random blocks, write zeros, and now and then resize the volume."""
        for _ in range(self.random.randrange(1, most)):
            block = self.random.randrange(len(self.content))
            self.write(block)
            if self.random.random() < 0.2:
                self.content[block] = 0
        if self.random.random() < 0.15:
            size = self.random.randrange(self.blocks // 2, self.blocks * 2)
            self.changed = {block for block in self.changed if block < size}
            self.content = [*self.content[:size], *([0] * (size - len(self.content)))]

    def backup(self, base: str | None = "", *, seconds: int = 60) -> str:
        """Add a point. base: on which it stands; empty: on the last one. Return its name."""
        self.seconds += seconds
        base = self.last if base == "" else base
        with open_writer(self.repository, "backup", max_depth=self.max_depth) as writer:
            blocks = self.changed
            if base is None:
                blocks = {block for block, version in enumerate(self.content) if version}
            elif base != self.last:
                blocks = set(range(len(self.content)))
            point = writer.new_point(self.seconds * 1_000_000)
            path = writer.work / "new"
            image = self.images.write(
                path,
                {block: self.content[block] for block in blocks},
                size=len(self.content),
                base=base,
                image_id=str(uuid4()),
            )
            writer.add_point(self.manifest(point, image), path)
        self.points[point], self.last, self.changed = list(self.content), point, set()
        return point

    def manifest(self, point: str, image: ImageFacts) -> PointManifest:
        position = BackupPosition(
            position=self.written,
            generation=GENERATION,
            history_id=None,
            anchor=None,
            is_consistent=True,
        )
        return PointManifest(
            repository_id=self.repository.repository_id,
            volume=self.volume,
            point=point,
            position=position,
            at_us=self.seconds * 1_000_000,
            written_at_us=self.seconds * 1_000_000,
            source="site east",
            reason=None,
            hooks=(),
            size_bytes=len(self.content) * BLOCK,
            block_size=BLOCK,
            rung=Rung.CHANGED if image.base else Rung.ALLOCATED,
            rung_reason=None,
            image=image,
        )

    def reads_as(self, point: str) -> list[int]:
        """Return what a point reads as."""
        repository = Repository.open(self.store, self.images)
        catalog = repository.catalog(self.volume)
        with repository.chain_files(catalog, point) as paths:
            return self.images.read_chain(paths)

    def visible(self) -> list[str]:
        """Return the points that the repository says there are."""
        return [record.point for record in self.repository.catalog(self.volume).points]
