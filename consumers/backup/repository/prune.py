"""Removes points, and leaves all others as they are, byte for byte."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace
from uuid import uuid4

from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.object_names import image_name
from mirrorlog.consumers.backup.repository.prune_plan import Hide, Merge, PruneStep, plan_prune
from mirrorlog.consumers.backup.repository.repository_writer import (
    DamagedSource,
    RepositoryWriter,
)


@dataclass(slots=True)
class PruneReport:
    """What a prune did.

    removed: points whose images are gone. merged: points whose images were written anew.
    hidden: points that were dropped and whose images stay, because others stand on them.
    damaged: why images weren't merged, for people.
    """

    removed: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def prune_volume(writer: RepositoryWriter, volume: str, drop: Set[str]) -> PruneReport:
    """Remove the points `drop` of a volume. Whatever an earlier prune left is ended first.

    1. End what a killed prune left: a replaced image gets its manifest, and earlier revisions and
       objects that no point needs are removed.
    2. Plan (plan_prune). Take the steps in their order:
    3. Hide a point: its next manifest says so. Nothing that is read changes.
    4. Merge: read the sources and compare all their digests. Write the new image to a file of its
       own, durably.
    5. Write a manifest that names the new image beside the old one.
    6. Replace the image in one step. It reads as before, and all that stand on it do.
    7. Write a manifest that names the new image alone.
    8. Remove a point on which nothing stands any more: its manifests from the lowest revision up,
       and then its image.

    A kill between or in any of these leaves every kept point as it was, and the next call goes on.
    Raise StateDamaged if a manifest of the volume is unreadable: its point may need any image.
    Raise ValueError as plan_prune().
    """
    repository = writer.repository
    catalog = repository.catalog(volume)
    for error in catalog.unreadable.values():
        raise error
    _settle(writer, catalog)  # 1
    catalog = repository.catalog(volume)
    plan = plan_prune(catalog, drop)  # 2
    return _Execution(writer, volume, dict(catalog.records)).run(plan)


def _settle(writer: RepositoryWriter, catalog: VolumeCatalog) -> None:
    for record in catalog.records.values():
        if record.manifest.replacement is not None:
            writer.revise(record, replace(record.manifest, image=record.image, replacement=None))
        elif not record.is_settled:
            writer.delete_revisions(record.manifest, record.revisions[:-1])
    for name in catalog.leftovers:
        writer.delete(name)


@dataclass(slots=True)
class _Execution:
    """A plan that is being executed. records: as they are after the steps so far."""

    writer: RepositoryWriter
    volume: str
    records: dict[str, PointRecord]
    report: PruneReport = field(default_factory=PruneReport)
    needed: set[str] = field(default_factory=set)

    def run(self, plan: tuple[PruneStep, ...]) -> PruneReport:
        for step in plan:
            if isinstance(step, Hide):
                self._hide(step.point)
            elif isinstance(step, Merge):
                self._merge(step)
            elif step.point not in self.needed:
                self._remove(step.point)
        self.report.hidden = [
            name for name, record in self.records.items() if record.manifest.is_hidden
        ]
        return self.report

    def _hide(self, point: str) -> None:  # 3
        record = self.records[point]
        self.records[point] = self.writer.revise(record, replace(record.manifest, is_hidden=True))

    def _merge(self, step: Merge) -> None:
        record = self.records[step.point]
        suffix = self.writer.repository.images.suffix
        sources = (record, *(self.records[name] for name in step.sources))
        target = self.writer.work / f"{uuid4().hex}{suffix}"
        try:
            image = self.writer.merge(  # 4
                self.volume,
                sources,
                target,
                size_bytes=record.manifest.size_bytes,
                below=self._chain(step.base),
            )
        except DamagedSource as error:
            self.report.damaged.append(str(error))
            self.needed |= set(step.sources)
            return
        record = self.writer.revise(record, replace(record.manifest, replacement=image))  # 5
        self.writer.lock.check()
        store = self.writer.repository.store
        store.replace(image_name(self.volume, step.point, suffix), target)  # 6
        manifest = replace(record.manifest, image=image, replacement=None)
        self.records[step.point] = self.writer.revise(record, manifest)  # 7
        self.report.merged.append(step.point)

    def _chain(self, point: str | None) -> tuple[PointRecord, ...]:
        """Return the points of which a point consists, newest first; none for None."""
        chain: list[PointRecord] = []
        while point is not None:
            chain.append(self.records[point])
            point = chain[-1].image.base
        return tuple(chain)

    def _remove(self, point: str) -> None:  # 8
        record = self.records.pop(point)
        self.writer.delete_revisions(record.manifest, record.revisions)
        suffix = self.writer.repository.images.suffix
        self.writer.delete(image_name(self.volume, point, suffix))
        self.report.removed.append(point)
