"""On which point the next one stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.repository import Repository
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import StateDamaged


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChoice:
    """The point on which the next one can stand; None: the next one must stand alone.

    passed_over: newer points that can't be stood on, and why, for people.
    """

    base: PointRecord | None
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def passed_over_text(self) -> str:
        """Why points were passed over, for people; empty if none was."""
        return "; ".join(
            f"point {point} can't be stood on: {why}" for point, why in self.passed_over
        )


def choose_base(
    catalog: VolumeCatalog, volume: Volume, problem_of: Callable[[str], str | None]
) -> BaseChoice:
    """Return the newest point that is sound. Pure but for `problem_of`.

    The newest is the one of the highest position in the volume's present generation and history:
    least was written since then. Clocks of machines, and so names of points, don't count. Points of
    an ended generation or history come after those, the last that was written first.

    problem_of: returns why a point can't be stood on, or None.
    """
    passed_over = [(point, error.what) for point, error in catalog.unreadable.items()]
    present = (volume.generation, volume.history_id)

    def order(record: PointRecord) -> tuple[bool, int, int]:
        position = record.manifest.position
        is_present = (position.generation, position.history_id) == present
        return is_present, position.position if is_present else 0, record.manifest.written_at_us

    for record in sorted(catalog.points, key=order, reverse=True):
        problem = problem_of(record.point)
        if problem is None:
            return BaseChoice(base=record, passed_over=tuple(passed_over))
        passed_over.append((record.point, problem))
    return BaseChoice(base=None, passed_over=tuple(passed_over))


def chain_problem(repository: Repository, catalog: VolumeCatalog, point: str) -> str | None:
    """Return why nothing should stand on a point; None if all it needs seems to be there.

    The images' ids, names and sizes are compared. Their data isn't read: `backup check --read-data`
    does that. Raise RepositoryFailed.
    """
    try:
        for name in catalog.chain(point):
            record = catalog.records.get(name)
            if record is None:
                return f"the manifest of {name} can't be read"
            problem = repository.image_problem(catalog, record)
            if problem is not None:
                return problem
    except StateDamaged as error:
        return error.what
    return None
