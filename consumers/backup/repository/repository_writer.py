"""Writes to a repository, as its only writer: adds points, and removes what killed writers left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Final
from uuid import uuid4

from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.image_files import ImageFacts, ImageFiles
from mirrorlog.consumers.backup.repository.manifests import PointManifest, encode_point
from mirrorlog.consumers.backup.repository.object_names import (
    image_name,
    manifest_object_name,
    point_name,
)
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.errors import RepositoryFailed, StateDamaged
from mirrorlog.ports.backup_stores import RepositoryInUse, WriterLock
from mirrorlog.ports.clock import Clock, SystemClock

MAX_DEPTH: Final = 64
"""A chain that reaches this depth ends in a further full image, which stays as long as any point
that stands on it. So it is longer than the points of a day by the hour, of a week by the day, of a
month by the week, and of a year by the month together (docs/backup.md)."""

_LOCK_POLL_S: Final = 1.0


class DamagedSource(StateDamaged):
    """An image from which another one would be made is damaged. point: whose image it is."""

    def __init__(self, point: str, what: str, where: str) -> None:
        super().__init__(
            f"the image of point {point} is damaged: {what}",
            where=where,
            next="Run `mirrorlog backup check`: it says which points that takes along.",
        )
        self.point = point


def compare_images(images: ImageFiles, files: Iterable[tuple[PointRecord, Path]]) -> None:
    """Compare all bytes of the images of points with their digests. Raise DamagedSource."""
    for record, path in files:
        size_bytes = record.manifest.size_bytes
        for damage in images.check(path, record.image, size_bytes=size_bytes):
            raise DamagedSource(record.point, damage.what, str(path))


@dataclass(frozen=True, slots=True)
class RepositoryWriter:
    """The only writer of a repository, until its lock is released.

    work: a local folder for images that are being written. max_depth: of chains.
    """

    repository: Repository
    lock: WriterLock
    work: Path
    max_depth: int = MAX_DEPTH

    def new_point(self, written_at_us: int) -> str:
        """Return a name for a point."""
        return point_name(written_at_us, SystemRandom().getrandbits(32))

    def add_point(self, manifest: PointManifest, path: Path) -> PointManifest:
        """Add a point whose image is the durable file at `path`. Return its manifest as written.

        1. Remove what killed backups left, if the store lets anybody delete.
        2. If the chain would become too long, merge all of it with the new image to an image that
           stands alone. Nothing that exists is changed.
        3. Upload the image. It doesn't count without a manifest.
        4. Create the manifest. From here on the point exists.

        Raise StateDamaged if an image on which the new one stands is missing, and DamagedSource if
        one is damaged when it is to be merged: the caller then takes a full image. After any error
        or kill the points that were there are as before.
        """
        catalog = self.repository.catalog(manifest.volume)
        self.remove_leftovers(catalog)  # 1
        base = manifest.image.base
        chain = () if base is None else catalog.chain(base)
        suffix = self.repository.images.suffix
        if len(chain) >= self.max_depth and not catalog.unreadable:  # 2
            target = self.work / f"{uuid4().hex}{suffix}"
            sources = tuple(catalog.records[point] for point in chain)
            image = self.merge(
                manifest.volume, sources, target, size_bytes=manifest.size_bytes, on_top=(path,)
            )
            manifest, path = replace(manifest, image=image), target
        self.lock.check()
        name = image_name(manifest.volume, manifest.point, suffix)
        if not self.repository.store.upload(name, path):  # 3
            raise StateDamaged(
                "an image of the new point's name exists", where=self.repository.store.where
            )
        self.write_revision(manifest, 1)  # 4
        return manifest

    def remove_leftovers(self, catalog: VolumeCatalog) -> tuple[str, ...]:
        """Remove objects that no point needs. Return the names of those that stay.

        They stay if the store refuses. While a manifest is unreadable, all stay: it may need them.
        """
        if catalog.unreadable:
            return catalog.leftovers
        return tuple(name for name in catalog.leftovers if not self._try_delete(name))

    def write_revision(self, manifest: PointManifest, revision: int) -> None:
        """Create a manifest. Raise RepositoryFailed if there is one of this number."""
        self.lock.check()
        name = manifest_object_name(manifest.volume, manifest.point, revision)
        if not self.repository.store.create(name, encode_point(manifest)):
            raise RepositoryFailed(
                f"another writer has written {name}",
                where=self.repository.store.where,
                next="Try again when it has ended.",
            )

    def revise(self, record: PointRecord, manifest: PointManifest) -> PointRecord:
        """Write the next revision of a manifest, and remove the earlier ones. Return the record.

        The earlier ones are removed from the lowest up: a kill between leaves the newest.
        """
        revision = record.revisions[-1] + 1
        self.write_revision(manifest, revision)
        self.delete_revisions(manifest, record.revisions)
        image = record.image if manifest.replacement is not None else manifest.image
        return PointRecord(manifest=manifest, revisions=(revision,), image=image)

    def delete_revisions(self, manifest: PointManifest, revisions: tuple[int, ...]) -> None:
        """Delete manifests of a point, from the lowest revision up."""
        for revision in sorted(revisions):
            self.delete(manifest_object_name(manifest.volume, manifest.point, revision))

    def delete(self, name: str) -> None:
        """Delete an object."""
        self.lock.check()
        self.repository.store.delete(name)

    def merge(
        self,
        volume: str,
        sources: tuple[PointRecord, ...],
        target: Path,
        *,
        size_bytes: int,
        below: tuple[PointRecord, ...] = (),
        on_top: tuple[Path, ...] = (),
    ) -> ImageFacts:
        """Write what images hold together to a new file, and return what is known of it.

        on_top, sources, below: newest first. below: the points on which the new image stands; empty
        if it stands alone. size_bytes: of the volume at the newest of the merged points. Raise
        DamagedSource, before anything is written, if the file of a point that is read isn't what
        was written.
        """
        with self._sound_files(volume, sources) as paths:
            return self.repository.images.merge(
                (*on_top, *paths),
                target,
                base=below[0].point if below else None,
                image_id=str(uuid4()),
                size_bytes=size_bytes,
                below=lambda: self._sound_files(volume, below),
            )

    @contextmanager
    def _sound_files(
        self, volume: str, records: tuple[PointRecord, ...]
    ) -> Iterator[tuple[Path, ...]]:
        """Lend the images of points, of which all bytes were compared with their digests."""
        points = tuple(record.point for record in records)
        with self.repository.local_files(volume, points) as paths:
            compare_images(self.repository.images, zip(records, paths, strict=True))
            yield paths

    def _try_delete(self, name: str) -> bool:
        try:
            self.delete(name)
        except RepositoryFailed:
            return False
        return True


@contextmanager
def open_writer(
    repository: Repository,
    purpose: str,
    *,
    max_depth: int = MAX_DEPTH,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[RepositoryWriter]:
    """Become the only writer of a repository, until the `with` block ends.

    purpose: for people, such as `backup of vol1`. Raise RepositoryInUse if there is another writer
    and it doesn't end within repository.lock_wait_s seconds.
    """
    clock = clock or SystemClock()
    until_s = clock.monotonic_s() + repository.lock_wait_s
    with ExitStack() as stack:
        while True:
            try:
                lock = repository.store.lock(purpose)
                break
            except RepositoryInUse:
                left_s = until_s - clock.monotonic_s()
                if left_s <= 0:
                    raise
                sleep(min(left_s, _LOCK_POLL_S))
        stack.callback(lock.release)
        work = stack.enter_context(repository.store.work_folder())
        yield RepositoryWriter(repository, lock, work, max_depth)
