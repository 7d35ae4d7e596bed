"""Which point of a repository an option `--at` names. Nothing is asked of Kafka."""

from __future__ import annotations

from typing import Final

from mirrorlog.changed.points import AtTime, format_time
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.consumers.backup.repository.catalog import PointRecord, VolumeCatalog
from mirrorlog.consumers.backup.repository.object_names import POINT
from mirrorlog.errors import BadUse, OutOfRetention

NEWEST: Final = "newest"
_NEXT: Final = "`mirrorlog backup list` shows the points."


def chosen_point(catalog: VolumeCatalog, text: str, *, now_us: int) -> PointRecord:
    """Return the point that `text` names: by its name, `newest`, or by a time.

    A time takes the newest point that isn't after it. now_us: the time from which words count.

    Raise BadUse if the text names nothing, or if there is no such point; OutOfRetention for a time
    before all points; StateDamaged for a point whose manifest can't be read.
    """
    if POINT.fullmatch(text.strip()):
        return catalog.point(text.strip())
    if text.strip() == NEWEST:
        if catalog.newest is None:
            raise BadUse(f"volume {catalog.volume} has no points", next=_NEXT)
        return catalog.newest
    asked = understand_point(text, now_us)
    if not isinstance(asked, AtTime):
        raise BadUse(
            f"'{text[:60]}' is neither a point nor a time",
            next=f"Write the name of a point, {NEWEST}, or a time such as '2h ago'. {_NEXT}",
        )
    earlier = [record for record in catalog.points if record.manifest.time_us <= asked.at_us]
    if earlier:
        return max(earlier, key=lambda record: record.manifest.time_us)
    raise OutOfRetention(
        f"volume {catalog.volume} has no point as old as {format_time(asked.at_us)}",
        where=_oldest(catalog),
        next=_NEXT,
    )


def _oldest(catalog: VolumeCatalog) -> str:
    if not catalog.points:
        return "it has no points at all"
    oldest = min(record.manifest.time_us for record in catalog.points)
    return f"its oldest point is of {format_time(oldest)}"
