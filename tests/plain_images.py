"""A small format of images, for tests of repositories, and repositories in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Protocol
from uuid import UUID, uuid4

from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.check import check_volume
from mirrorlog.consumers.backup.repository.image_files import (
    FileDamage,
    FileDigests,
    ImageFacts,
    ImageFiles,
    ImageIdentity,
    LendsBelow,
    PartDigests,
    Ranges,
)
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.consumers.backup.repository.prune import PruneReport, prune_volume
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.consumers.backup.repository.repository_writer import MAX_DEPTH, open_writer
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.domain.site_progress import Rung
from mirrorlog.errors import StateDamaged
from mirrorlog.ports.backup_stores import BackupStore
from mirrorlog.simulation.memory_backups import MemoryBackups

BLOCK = 4096
BEHIND_ANY_END = 1 << 62
GENERATION = str(UUID(int=1))
_ENTRY = 16
_PIECE = 4 * _ENTRY


class WritableImages(ImageFiles, Protocol):
    """A format of images, and what tests need to write and read its files."""

    @property
    def block(self) -> int:
        """The size of a block in bytes."""
        ...

    def write(
        self,
        path: Path,
        content: Sequence[int],
        blocks: set[int],
        *,
        base: str | None,
        image_id: str,
    ) -> ImageFacts:
        """Write an image of these blocks. content: the versions of all blocks of the volume."""
        ...

    def read_chain(self, paths: Sequence[Path]) -> list[int]:
        """Return the versions of all blocks of the newest of these images, as QEMU reads them."""
        ...


class TinyImages:
    """The port ImageFiles: a line of JSON, and then a number of 16 digits for each block.

    The line has the id, the backing file, the size in blocks and the numbers of the blocks that
    the image holds. Zero stands for a block of zeros.
    """

    suffix = ".tiny"
    block = BLOCK

    def write(
        self,
        path: Path,
        content: Sequence[int],
        blocks: set[int],
        *,
        base: str | None,
        image_id: str,
    ) -> ImageFacts:
        """Write an image of these blocks. content: the versions of all blocks of the volume."""
        held = {block: content[block] for block in blocks}
        return self._write(path, held, size=len(content), base=base, image_id=image_id)

    def _write(
        self, path: Path, blocks: Mapping[int, int], *, size: int, base: str | None, image_id: str
    ) -> ImageFacts:
        backing = None if base is None else f"{base}{self.suffix}"
        header = {"id": image_id, "backing": backing, "size": size, "blocks": sorted(blocks)}
        line = json.dumps(header).encode() + b"\n"
        data = b"".join(b"%016d" % blocks[block] for block in sorted(blocks))
        path.write_bytes(line + data)
        pieces = [data[first : first + _PIECE] for first in range(0, len(data), _PIECE)]
        digests = FileDigests(
            algorithm="blake2b",
            parts=(
                _part("tables", 0, len(line), len(line), [line]),
                _part("data", len(line), len(data), _PIECE, pieces),
            ),
        )
        return ImageFacts(
            image_id=image_id,
            base=base,
            layout="tiny",
            file_bytes=len(line + data),
            data_bytes=len(blocks) * BLOCK,
            stored_bytes=len(line + data),
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

    def identify(self, beginning: bytes, where: str) -> ImageIdentity:
        try:
            header = json.loads(beginning.partition(b"\n")[0])
            return ImageIdentity(header["id"], header["backing"])
        except (ValueError, KeyError, TypeError):
            raise StateDamaged("the file is no image", where=where) from None

    def check(self, path: Path, image: ImageFacts, *, size_bytes: int) -> list[FileDamage]:
        line, _, data = path.read_bytes().partition(b"\n")
        tables, pieces = (part.digests for part in image.digests.parts)
        if _digest(line + b"\n") != tables:
            return [FileDamage("the tables are damaged", None)]
        blocks = json.loads(line)["blocks"]
        damages = []
        for number in range(len(pieces) // 64):
            expected = pieces[number * 64 : number * 64 + 64]
            if _digest(data[number * _PIECE : (number + 1) * _PIECE]) != expected:
                held = blocks[number * 4 : number * 4 + 4]
                damages.append(FileDamage(f"piece {number} is damaged", _ranges(held)))
        if len(data) > len(blocks) * _ENTRY:
            damages.append(FileDamage("the file is too long", ()))
        return damages

    def held_ranges(self, path: Path) -> Ranges:
        size, blocks = self.read(path)
        held = _ranges(list(blocks))
        if held and held[-1][1] == size * BLOCK:
            return (*held[:-1], (held[-1][0], BEHIND_ANY_END))
        return (*held, (size * BLOCK, BEHIND_ANY_END))

    def merge(
        self,
        paths: Sequence[Path],
        target: Path,
        *,
        base: str | None,
        image_id: str,
        size_bytes: int,
        below: LendsBelow,
    ) -> ImageFacts:
        merged: dict[int, int] = {}
        smallest = 0
        for path in reversed(paths):
            size, blocks = self.read(path)
            smallest = min(smallest, size) if merged or smallest else size
            merged = {block: version for block, version in merged.items() if block < size}
            merged.update(blocks)
        size = self.read(paths[0])[0]
        assert size * BLOCK == size_bytes
        for block in range(smallest, size):  # the images in between end here: zeros
            merged.setdefault(block, 0)
        if base is None:
            merged = {block: version for block, version in merged.items() if version}
        return self._write(target, merged, size=size, base=base, image_id=image_id)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def _part(
    name: str, offset: int, length: int, piece_bytes: int, pieces: Sequence[bytes]
) -> PartDigests:
    return PartDigests(
        part=name,
        offset=offset,
        length=length,
        piece_bytes=piece_bytes,
        digests="".join(map(_digest, pieces)),
    )


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

    seconds: the time, by which points are named. least: the blocks that the volume has had at least
    since the last point.
    """

    store: BackupStore
    random: Random = field(default_factory=lambda: Random(1))
    volume: str = "vol1"
    blocks: int = 24
    max_depth: int = MAX_DEPTH
    seconds: int = 1_700_000_000
    content: list[int] = field(default_factory=list)
    points: dict[str, list[int]] = field(default_factory=dict)
    images: WritableImages = field(default_factory=TinyImages)
    written: int = 0
    least: int = 0
    changed: set[int] = field(default_factory=set)
    last: str | None = None

    def __post_init__(self) -> None:
        self.content = [0] * self.blocks
        self.least = self.blocks
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
            self.resize(self.random.randrange(self.blocks // 2, self.blocks * 2))

    def resize(self, size: int) -> None:
        """Change the size to so many blocks. What is added is zeros.

        A block of it counts as changed if the last point may hold something there.
        """
        last = len(self.points[self.last]) if self.last else 0
        self.least = min(self.least, size)
        self.changed |= set(range(self.least, min(size, last)))
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
            image = self.images.write(path, self.content, blocks, base=base, image_id=str(uuid4()))
            writer.add_point(self.manifest(point, image), path)
        self.points[point], self.last, self.changed = list(self.content), point, set()
        self.least = len(self.content)
        return point

    def prune(self, drop: Set[str]) -> PruneReport:
        """Remove points. `points` still has what they read as."""
        with open_writer(self.repository, "prune") as writer:
            return prune_volume(writer, self.volume, drop)

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
            size_bytes=len(self.content) * self.images.block,
            block_size=self.images.block,
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

    def check_points(
        self, points: Mapping[str, list[int]], copy: BackupStore | None = None
    ) -> None:
        """Each of these points is there and reads as it must, and no byte of a file is damaged.

        copy: a copy of the store, which is looked at in its place.
        """
        repository = Repository.open(copy or self.store, self.images)
        catalog = repository.catalog(self.volume)
        assert set(points) <= {record.point for record in catalog.points}
        for point, content in points.items():
            with repository.chain_files(catalog, point) as paths:
                assert self.images.read_chain(paths) == content
        checked = check_volume(repository, self.volume, read_data=True)
        assert (checked.damages, set(checked.sound) >= set(points)) == ((), True)

    def check_tidy(self, points: Set[str]) -> None:
        """There are these points, hidden ones that they need, and nothing else."""
        catalog = self.repository.catalog(self.volume)
        assert {record.point for record in catalog.points} == points
        needed = {name for point in points for name in catalog.chain(point)}
        assert set(catalog.records) == needed == set(catalog.images)
        assert catalog.leftovers == ()
        assert all(record.is_settled for record in catalog.records.values())


def catalog_with(manifests: Iterable[Mapping[str, object]]) -> VolumeCatalog:
    """Return a catalog with a point for each of `manifests`: the fields that its manifest has."""
    world = BackupWorld(MemoryBackups())
    fields_of = {}
    for fields in manifests:
        world.write_some()
        fields_of[world.backup()] = fields
    catalog = world.repository.catalog(world.volume)
    records = {
        record.point: replace(record, manifest=replace(record.manifest, **fields_of[record.point]))
        for record in catalog.points
    }
    return replace(catalog, records=records)
