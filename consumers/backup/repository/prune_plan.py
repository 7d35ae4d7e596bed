"""The steps that remove points and leave all others as they are. Pure.

A dropped point on which others stand becomes hidden first. Its image stays until it is merged into
the one above it. A full image at the bottom of a chain is as large as the volume: it stays hidden
until what stands on it is more than half of its size, because a merge writes all of it again.

A point on which several stand stays hidden until only one does.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import TypeAlias

from mirrorlog.consumers.backup.repository.catalog import VolumeCatalog


@dataclass(frozen=True, slots=True)
class Hide:
    """Take a point out of those that can be restored. Its image stays."""

    point: str


@dataclass(frozen=True, slots=True)
class Merge:
    """Replace the image of a point by one that also holds what it takes from hidden points.

    sources: hidden points, newest first: `point` stands on the first, and each on the next one.
    base: the point on which the new image stands; None: it stands alone.
    """

    point: str
    sources: tuple[str, ...]
    base: str | None


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a point and its image, on which nothing stands by then."""

    point: str


PruneStep: TypeAlias = Hide | Merge | Remove


def plan_prune(catalog: VolumeCatalog, drop: Set[str]) -> tuple[PruneStep, ...]:
    """Return the steps that remove the points `drop`, and what was hidden and isn't needed.

    The steps hold if they are taken in this order. Whatever was dropped before and still carries
    others is looked at again. Raise ValueError if `drop` has the newest point, or no point.
    """
    visible = [record.point for record in catalog.points]
    if not drop <= set(visible[:-1]):
        raise ValueError("only points can be dropped, and never the newest one")
    return _Planner(catalog, drop).plan()


class _Planner:
    """The chains as they will be after the steps so far."""

    def __init__(self, catalog: VolumeCatalog, drop: Set[str]) -> None:
        records = catalog.records
        self.hidden = {name for name, record in records.items() if record.manifest.is_hidden}
        self.gone = set(drop) | self.hidden
        self.order = list(records)
        self.base = {name: record.image.base for name, record in records.items()}
        self.bytes = {name: record.image.file_bytes for name, record in records.items()}
        self.steps: list[PruneStep] = []

    def plan(self) -> tuple[PruneStep, ...]:
        self._remove_tops()
        self.steps += [
            Hide(name) for name in self.order if name in self.gone and name not in self.hidden
        ]
        for name in self.order:
            if name not in self.gone:
                self._merge_below(name)
        return tuple(self.steps)

    def _above(self, point: str) -> list[str]:
        """Return the points that stand on a point."""
        return [name for name in self.order if self.base[name] == point]

    def _remove_tops(self) -> None:
        """Remove points on which nothing stands, and then those below that nothing needs."""
        while tops := [name for name in self.order if name in self.gone and not self._above(name)]:
            for name in reversed(tops):
                self._remove(name)

    def _remove(self, name: str) -> None:
        self.steps.append(Remove(name))
        self.order.remove(name)
        self.gone.discard(name)
        del self.base[name], self.bytes[name]

    def _merge_below(self, point: str) -> None:
        """Merge the hidden points on which a kept one stands into it, as far as it is worth it."""
        sources: list[str] = []
        below = self.base[point]
        while below in self.gone and len(self._above(below)) == 1:
            sources.append(below)
            below = self.base[below]
        overlay_bytes = self.bytes[point] + sum(self.bytes[name] for name in sources[:-1])
        if sources and below is None and 2 * overlay_bytes <= self.bytes[sources[-1]]:
            below = sources.pop()
        if not sources:
            return
        self.steps.append(Merge(point, tuple(sources), below))
        self.bytes[point] += sum(self.bytes[name] for name in sources)
        self.base[point] = below
        for name in sources:
            self._remove(name)
