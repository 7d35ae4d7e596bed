"""A repository of backups: opens it, and reads what is known of its points and their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from mirrorlog.adapters.os_failures import os_errors_named
from mirrorlog.adapters.sealed_json import sealed_line, unsealed
from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.image_files import (
    IDENTIFYING_BYTES,
    ImageFacts,
    ImageFiles,
    ImageIdentity,
)
from mirrorlog.consumers.backup.repository.manifests import PointManifest, decode_point
from mirrorlog.consumers.backup.repository.object_names import (
    HEADER,
    VOLUMES,
    image_name,
    image_point,
    manifest_object_name,
    manifest_parts,
    named_by,
    volume_prefix,
)
from mirrorlog.errors import BadUse, RepositoryFailed, StateDamaged
from mirrorlog.ports.backup_stores import BackupStore

_FORMAT: Final = "mirrorlog-backups"
_VERSION: Final = 1
_PRUNED: Final = "Try again if a prune has just ended. Otherwise run `mirrorlog backup check`."


@dataclass(frozen=True, slots=True)
class VolumeObjects:
    """What the store has of a volume, by the names of the objects.

    revisions: the numbers of the manifests of each point, ascending. images: the name of the image
    of each point. others: names that are of neither kind.
    """

    revisions: Mapping[str, list[int]]
    images: Mapping[str, str]
    others: Sequence[str]


@dataclass(frozen=True, slots=True)
class Repository:
    """The points in a store. Any number of processes may read it. RepositoryFailed if it fails.

    repository_id: a canonical UUID, which each manifest names. lock_wait_s: for how long who wants
    to write waits for another writer to end.
    """

    store: BackupStore
    images: ImageFiles
    repository_id: str
    lock_wait_s: float = 0.0

    @classmethod
    def create(cls, store: BackupStore, images: ImageFiles) -> Repository:
        """Create an empty repository. Raise BadUse if the store has one."""
        repository_id = str(uuid4())
        fields = {"format": _FORMAT, "version": _VERSION, "repository_id": repository_id}
        if not store.create(HEADER, sealed_line(fields)):
            raise BadUse(
                "there is a repository already",
                where=store.where,
                next="Use it, or name another place.",
            )
        return cls(store, images, repository_id)

    @classmethod
    def open(cls, store: BackupStore, images: ImageFiles) -> Repository:
        """Open a repository. Raise BadUse if there is none, StateDamaged if its header is wrong."""
        content = store.read(HEADER)
        if content is None:
            raise BadUse(
                "there is no repository of backups",
                where=store.where,
                next="Check the address. A backup creates the repository.",
            )
        try:
            fields = unsealed(content)
            if (fields["format"], fields["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"it is version {fields['version']} of {fields['format']}")
            return cls(store, images, str(UUID(fields["repository_id"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, ValueError) else "a field is wrong"
            raise StateDamaged(
                f"the header of the repository can't be read: {reason}",
                where=f"{store.where}, {HEADER}",
                next="A newer release may have written it. The images need no header: qemu-img "
                "opens them.",
            ) from error

    def volumes(self) -> tuple[str, ...]:
        """Return the names of the volumes that have points, sorted.

        A volume of which no manifest can be read is known by its folder, unless that is too long.
        """
        folders: dict[str, str | None] = {}
        for name in self.store.names(VOLUMES):
            folder = name.removeprefix(VOLUMES).partition("/")[0]
            if folders.get(folder) is None and manifest_parts(name) is not None:
                try:
                    folders[folder] = self._manifest(name).volume
                except StateDamaged:
                    folders[folder] = None  # the next manifest of the volume may name it
        named = (
            named_by(folder) if volume is None else volume for folder, volume in folders.items()
        )
        return tuple(sorted(volume for volume in named if volume is not None))

    def catalog(self, volume: str) -> VolumeCatalog:
        """Return what the repository has of a volume: nothing, if it doesn't know the volume.

        If a prune ends meanwhile, the catalog may name objects that are gone.
        """
        objects = self.objects(volume)
        revisions, files = objects.revisions, objects.images
        records: list[PointRecord] = []
        unreadable: dict[str, StateDamaged] = {}
        for point, numbers in revisions.items():
            try:
                records.append(self._record(volume, point, numbers))
            except StateDamaged as error:
                unreadable[point] = error
        needed = {record.image.base for record in records} | revisions.keys()
        records.sort(key=lambda record: (record.manifest.written_at_us, record.point))
        return VolumeCatalog(
            volume=volume,
            records={record.point: record for record in records},
            unreadable=unreadable,
            bases_of_unreadable=self._bases(volume, unreadable),
            images=frozenset(files),
            leftovers=(*objects.others, *(files[point] for point in files if point not in needed)),
        )

    def objects(self, volume: str) -> VolumeObjects:
        """Return the objects of a volume by their names. None of them is read."""
        revisions: dict[str, list[int]] = {}
        images: dict[str, str] = {}
        others: list[str] = []
        for name in self.store.names(volume_prefix(volume)):
            if (parts := manifest_parts(name)) is not None:
                revisions.setdefault(parts[0], []).append(parts[1])
            elif (point := image_point(name, self.images.suffix)) is not None:
                images[point] = name
            else:
                others.append(name)
        ascending = {point: sorted(numbers) for point, numbers in revisions.items()}
        return VolumeObjects(ascending, images, others)

    def identify(self, volume: str, point: str) -> ImageIdentity:
        """Return what the image of a point says of itself. Raise StateDamaged if it isn't one."""
        name = image_name(volume, point, self.images.suffix)
        where = f"{self.store.where}, {name}"
        beginning = self.store.read_range(name, offset=0, length=IDENTIFYING_BYTES)
        if beginning is None:
            raise StateDamaged(f"the image of point {point} is missing", where=where)
        return self.images.identify(beginning, where)

    def image_problem(
        self, catalog: VolumeCatalog, record: PointRecord, *, compares_size: bool = True
    ) -> str | None:
        """Return how an image differs from what is known of its point; None if it doesn't.

        Its size, its id and what it stands on are compared, and no data are read. The catalog names
        its file. Raise RepositoryFailed.
        """
        if compares_size:
            name = image_name(catalog.volume, record.point, self.images.suffix)
            size_bytes = self.store.size_bytes(name)
            if size_bytes != record.image.file_bytes:
                return (
                    f"the image of {record.point} has {size_bytes} bytes, and was written with "
                    f"{record.image.file_bytes}"
                )
        try:
            identity = self.identify(catalog.volume, record.point)
        except StateDamaged as error:
            return error.what
        return identity_problem(identity, catalog, record.point, self.images)

    @contextmanager
    def chain_files(self, catalog: VolumeCatalog, point: str) -> Iterator[tuple[Path, ...]]:
        """Lend the images of which a point consists as local files, newest first.

        Raise BadUse if there is no such point. Raise StateDamaged if an image is missing, is
        another one than the manifest says, or stands on another file than the next one.
        """
        catalog.point(point)
        chain = catalog.chain(point)
        with self.local_files(catalog.volume, chain) as paths:
            for name, path in zip(chain, paths, strict=True):
                beginning = _beginning(path, f"{self.store.where}, {path.name}")
                identity = self.images.identify(beginning, f"{self.store.where}, {path.name}")
                if (problem := identity_problem(identity, catalog, name, self.images)) is not None:
                    raise StateDamaged(
                        f"point {point} can't be read: {problem}",
                        where=f"{self.store.where}, {path.name}",
                        next=_PRUNED,
                    )
            yield paths

    @contextmanager
    def local_files(self, volume: str, points: tuple[str, ...]) -> Iterator[tuple[Path, ...]]:
        """Lend the images of points as local files, which nobody may change."""
        names = [image_name(volume, point, self.images.suffix) for point in points]
        local = [self.store.local_path(name) for name in names]
        if None not in local:
            yield tuple(path for path in local if path is not None)
            return
        with self.store.work_folder() as folder:
            paths = tuple(folder / name.rpartition("/")[2] for name in names)
            for name, path in zip(names, paths, strict=True):
                if not self.store.download(name, path):
                    raise StateDamaged(f"image {name} is missing", where=self.store.where)
            yield paths

    def _record(self, volume: str, point: str, revisions: list[int]) -> PointRecord:
        manifest = self._manifest(manifest_object_name(volume, point, revisions[-1]))
        if (manifest.repository_id, manifest.volume, manifest.point) != (
            self.repository_id,
            volume,
            point,
        ):
            raise StateDamaged(
                f"the manifest is that of point {manifest.point} of volume {manifest.volume}, in "
                f"repository {manifest.repository_id}",
                where=f"{self.store.where}, {point}",
            )
        image = self._current_image(manifest)
        return PointRecord(manifest=manifest, revisions=tuple(revisions), image=image)

    def _current_image(self, manifest: PointManifest) -> ImageFacts:
        """Return which of the two images of a manifest the file is."""
        if manifest.replacement is None:
            return manifest.image
        image_id = self.identify(manifest.volume, manifest.point).image_id
        for image in (manifest.image, manifest.replacement):
            if image.image_id == image_id:
                return image
        raise StateDamaged(
            f"the image of point {manifest.point} is neither of those that its manifest names",
            where=self.store.where,
        )

    def _manifest(self, name: str) -> PointManifest:
        content = self.store.read(name)
        if content is None:
            raise RepositoryFailed(
                f"object {name} vanished while it was read",
                where=self.store.where,
                next="A prune may be running. Try again.",
            )
        return decode_point(content, f"{self.store.where}, {name}")

    def _bases(self, volume: str, points: Mapping[str, object]) -> dict[str, str | None]:
        """Return on which point the images of points stand, by their files."""
        bases: dict[str, str | None] = {}
        for point in points:
            try:
                backing = self.identify(volume, point).backing
            except StateDamaged:
                continue
            bases[point] = None if backing is None else image_point(backing, self.images.suffix)
        return bases


def _beginning(path: Path, where: str) -> bytes:
    """Return the first bytes of an image. Raise StateDamaged if it is missing, DeviceFailed."""
    with os_errors_named("reading an image failed", path, "Run `mirrorlog backup check`."):
        try:
            with path.open("rb") as file:
                return file.read(IDENTIFYING_BYTES)
        except FileNotFoundError:
            raise StateDamaged("an image is missing", where=where, next=_PRUNED) from None


def identity_problem(
    identity: ImageIdentity, catalog: VolumeCatalog, point: str, images: ImageFiles
) -> str | None:
    """Return how an image differs from what is known of a point; None if it doesn't."""
    base = catalog.base_of(point)
    backing = None if base is None else f"{base}{images.suffix}"
    if identity.backing != backing:
        return (
            f"the image of {point} stands on {identity.backing or 'none'}, and should stand on "
            f"{backing or 'none'}"
        )
    record = catalog.records.get(point)
    if record is not None and identity.image_id != record.image.image_id:
        return f"the image of {point} is another one than its manifest names"
    return None
