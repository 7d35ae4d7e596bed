"""Checks a volume's points: what is damaged, which points that takes along, and which are sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.image_files import FileDamage, Ranges
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.errors import StateDamaged


@dataclass(frozen=True, slots=True)
class PointDamage:
    """Damage, and what it takes along.

    point: whose manifest or image it is. what: for people. ranges: of the volume; None: all.
    affected: the points that can't be restored, or not in these ranges.
    """

    point: str
    what: str
    ranges: Ranges | None
    affected: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeCheck:
    """What a check said. sound: points that no damage was found for, the oldest first."""

    volume: str
    damages: tuple[PointDamage, ...]
    sound: tuple[str, ...]
    leftovers: tuple[str, ...]

    @property
    def affected(self) -> tuple[str, ...]:
        """The points that some damage affects, in the order of their names."""
        return tuple(sorted({point for damage in self.damages for point in damage.affected}))


def check_volume(repository: Repository, volume: str, *, read_data: bool) -> VolumeCheck:
    """Check manifests, the order of chains, and sizes and ids of images; with read_data all bytes.

    Damage of an image affects a point that stands on it unless the images above hold those ranges.
    Raise RepositoryFailed if the store fails. A prune must not run meanwhile.
    """
    catalog = repository.catalog(volume)
    damages = [*_manifest_damages(catalog), *_chain_damages(catalog)]
    for record in catalog.records.values():
        if record.point in catalog.images:
            damages += [
                PointDamage(
                    record.point,
                    damage.what,
                    damage.ranges,
                    _affected(repository, catalog, record.point, damage.ranges),
                )
                for damage in _image_damages(repository, catalog, record, read_data=read_data)
            ]
    affected = {point for damage in damages for point in damage.affected}
    return VolumeCheck(
        volume=volume,
        damages=tuple(damages),
        sound=tuple(one.point for one in catalog.points if one.point not in affected),
        leftovers=catalog.leftovers,
    )


def _manifest_damages(catalog: VolumeCatalog) -> Iterator[PointDamage]:
    for point, error in catalog.unreadable.items():
        yield PointDamage(point, error.what, None, (point,))
    ids = Counter(record.image.image_id for record in catalog.records.values())
    for record in catalog.records.values():
        if ids[record.image.image_id] > 1:
            what = "another point names the same image"
            yield PointDamage(record.point, what, None, (record.point,))


def _chain_damages(catalog: VolumeCatalog) -> Iterator[PointDamage]:
    """Yield images that are missing, and chains that form a circle or aren't known."""
    for record in catalog.points:
        try:
            catalog.chain(record.point)
        except StateDamaged as error:
            yield PointDamage(record.point, error.what, None, (record.point,))


def _image_damages(
    repository: Repository, catalog: VolumeCatalog, record: PointRecord, *, read_data: bool
) -> Iterator[FileDamage]:
    problem = repository.image_problem(catalog, record, compares_size=not read_data)
    if problem is not None:
        yield FileDamage(problem, None)
        return
    if read_data:
        with repository.local_files(catalog.volume, (record.point,)) as (path,):
            yield from repository.images.check(
                path, record.image, size_bytes=record.manifest.size_bytes
            )


def _affected(
    repository: Repository, catalog: VolumeCatalog, damaged: str, ranges: Ranges | None
) -> tuple[str, ...]:
    """Return the points that read any of the ranges from the image of `damaged`."""
    affected: list[str] = []
    for record in catalog.points:
        try:
            chain = catalog.chain(record.point)
        except StateDamaged:
            continue  # it has a damage of its own
        if damaged not in chain:
            continue
        left = ranges
        for above in chain[: chain.index(damaged)]:
            if left:
                left = without(left, _held(repository, catalog, above))
        size_bytes = record.manifest.size_bytes
        if left is None or any(first < size_bytes for first, _ in left):
            affected.append(record.point)
    return tuple(affected)


def _held(repository: Repository, catalog: VolumeCatalog, point: str) -> Ranges:
    """Return what an image holds; nothing, if it can't be read."""
    try:
        with repository.local_files(catalog.volume, (point,)) as (path,):
            return repository.images.held_ranges(path)
    except StateDamaged:
        return ()


def without(ranges: Ranges, others: Ranges) -> Ranges:
    """Return the parts of ranges that no other range covers."""
    left: list[tuple[int, int]] = []
    for first, end in ranges:
        for other_first, other_end in others:
            if other_end <= first or other_first >= end:
                continue
            if first < other_first:
                left.append((first, other_first))
            first = max(first, other_end)  # noqa: PLW2901
        if first < end:
            left.append((first, end))
    return tuple(left)
