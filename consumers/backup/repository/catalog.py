"""All points of a volume, and on which image each one stands. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from mirrorlog.consumers.backup.repository.image_files import ImageFacts
from mirrorlog.consumers.backup.repository.manifests import PointManifest
from mirrorlog.errors import BadUse, StateDamaged


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRecord:
    """A point, or what is left of one that was dropped.

    revisions: of its manifests that exist, ascending; `manifest` is the last one. image: what the
    file is, which a killed prune may have replaced or not.
    """

    manifest: PointManifest
    revisions: tuple[int, ...]
    image: ImageFacts

    @property
    def point(self) -> str:
        """The name of the point."""
        return self.manifest.point

    @property
    def is_settled(self) -> bool:
        """Whether no killed prune left something to be ended."""
        return self.manifest.replacement is None and len(self.revisions) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeCatalog:
    """What a repository has of a volume.

    records: by the name of the point, in the order in which they were written, with those that were
    dropped and carry others. unreadable: points whose manifest is damaged, and why.
    bases_of_unreadable: what the files of those say on which point they stand.
    images: the points that have a file. leftovers: names of objects that no point needs.
    """

    volume: str
    records: Mapping[str, PointRecord]
    unreadable: Mapping[str, StateDamaged] = field(default_factory=dict)
    bases_of_unreadable: Mapping[str, str | None] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    leftovers: tuple[str, ...] = ()

    @property
    def points(self) -> tuple[PointRecord, ...]:
        """The points that can be restored, the oldest first."""
        return tuple(record for record in self.records.values() if not record.manifest.is_hidden)

    @property
    def newest(self) -> PointRecord | None:
        """The point that was written last; None if there is none."""
        return self.points[-1] if self.points else None

    def point(self, name: str) -> PointRecord:
        """Return a point. Raise BadUse if there is none, StateDamaged if it is unreadable."""
        if name in self.unreadable:
            raise self.unreadable[name]
        record = self.records.get(name)
        if record is None or record.manifest.is_hidden:
            raise BadUse(
                f"volume {self.volume} has no point {name}",
                where=self.volume,
                next="`mirrorlog backup list` shows the points.",
            )
        return record

    def chain(self, point: str) -> tuple[str, ...]:
        """Return the points whose images a point needs, newest first, itself included.

        Raise StateDamaged if one of them is missing, or they form a circle.
        """
        chain: list[str] = []
        name: str | None = point
        while name is not None:
            if name in chain or name not in self.images:
                reason = "stands on itself" if name in chain else "is missing"
                raise StateDamaged(
                    f"point {point} can't be read: the image of {name} {reason}",
                    where=self.volume,
                    next="Restore another point, and run `mirrorlog backup check`.",
                )
            chain.append(name)
            name = self.base_of(name)
        return tuple(chain)

    def image_ids(self, point: str) -> list[str] | None:
        """Return the ids of the images of chain(); None if a manifest of one can't be read.

        Raise as chain().
        """
        known = [self.records.get(name) for name in self.chain(point)]
        ids = [record.image.image_id for record in known if record is not None]
        return ids if len(ids) == len(known) else None

    def base_of(self, point: str) -> str | None:
        """Return the point on whose image the one of `point` stands; None if it stands alone.

        Raise StateDamaged if nobody knows.
        """
        if point in self.records:
            return self.records[point].image.base
        if point in self.bases_of_unreadable:
            return self.bases_of_unreadable[point]
        raise (
            self.unreadable[point]
            if point in self.unreadable
            else StateDamaged(f"the manifest of point {point} is missing", where=self.volume)
        )

    def children(self) -> Mapping[str, tuple[str, ...]]:
        """Return the points that stand on each point."""
        children: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
        for record in self.records.values():
            if record.image.base is not None:
                children[record.image.base] += (record.point,)
        return children
