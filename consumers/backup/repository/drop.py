"""Removes single points, also those that a prune can't take because they are damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog
from mirrorlog.consumers.backup.repository.object_names import manifest_object_name
from mirrorlog.consumers.backup.repository.repository_writer import RepositoryWriter
from mirrorlog.errors import BadUse


def plan_drop(catalog: VolumeCatalog, points: Set[str], *, with_dependents: bool) -> list[str]:
    """Return the points to remove, in an order in which none is removed below another. Pure.

    points: readable or not. with_dependents: what stands on them goes, too. Raise BadUse for a
    point that isn't there, and without `with_dependents` for points on which others stand.
    """
    bases = _bases(catalog)
    for point in points:
        if point not in catalog.unreadable:
            catalog.point(point)
    above = _standing_on(bases, points) - points
    kept = sorted(point for point in above if not _is_hidden(catalog, point))
    if kept and not with_dependents:
        raise BadUse(
            f"{', '.join(kept)} can't be read without {', '.join(sorted(points))}",
            where=catalog.volume,
            next="Remove them together (--with-dependents).",
        )
    gone = points | above
    order: list[str] = []
    while gone:
        tops = sorted(gone - {bases[point] for point in gone})
        order += tops or sorted(gone)  # images that stand on each other in a circle
        gone = gone - set(order)
    return order


def is_prunable(catalog: VolumeCatalog, points: Set[str]) -> bool:
    """Return whether prune_volume() can remove the points: all that stands on them is merged. Pure.

    Not with an unreadable manifest in the volume, and never the newest point.
    """
    visible = {record.point for record in catalog.points[:-1]}
    return not catalog.unreadable and points <= visible


def drop_points(writer: RepositoryWriter, volume: str, order: Sequence[str]) -> None:
    """Remove points for good, in an order that plan_drop() returned.

    1. Remove the manifests of a point, from the lowest revision up. Nothing stands on it.
    2. Remove its image. A kill before that leaves a file that no point needs.
    3. Go on with the next point.

    A kill leaves every other point as it was.
    """
    objects = writer.repository.objects(volume)
    for point in order:
        for revision in objects.revisions.get(point, ()):
            writer.delete(manifest_object_name(volume, point, revision))  # 1
        if point in objects.images:
            writer.delete(objects.images[point])  # 2


def _bases(catalog: VolumeCatalog) -> Mapping[str, str | None]:
    """Return on which point each one stands, as far as anybody knows."""
    bases: dict[str, str | None] = dict.fromkeys(catalog.unreadable)
    bases.update(catalog.bases_of_unreadable)
    bases.update({point: record.image.base for point, record in catalog.records.items()})
    return bases


def _standing_on(bases: Mapping[str, str | None], points: Set[str]) -> set[str]:
    """Return all points that need the image of one of `points`, and `points`."""
    reached = set(points)
    while more := {point for point, base in bases.items() if base in reached} - reached:
        reached |= more
    return reached


def _is_hidden(catalog: VolumeCatalog, point: str) -> bool:
    record = catalog.records.get(point)
    return record is not None and record.manifest.is_hidden
