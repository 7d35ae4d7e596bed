"""How many writes of a volume lie in positions that retention took: the log still counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirrorlog.changed.proven_log import ProvenLog
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.history.source import CoveredRange


@dataclass(frozen=True, slots=True)
class WritesNotKept:
    """The number of writes is at least `at_least` and at most `at_most`.

    The two differ if a record of the log lies in what is missing only in part.
    """

    at_least: int
    at_most: int


def writes_not_kept(
    volume: Volume, missing: Sequence[CoveredRange], ports: QueryPorts, patience_s: float
) -> WritesNotKept | None:
    """Return how many extents of the volume's commands the missing positions held, by its log.

    None: nobody knows. The log doesn't cover the positions, or isn't complete through them within
    `patience_s`, or they belong to an earlier generation.
    """
    if not missing:
        return WritesNotKept(0, 0)
    try:
        log = ProvenLog(volume, ports.logs.read(volume, missing[-1].through, patience_s))
    except KafkaFailed:
        return None
    try:
        for gap in missing:
            if gap.after < volume.origin_position:
                return None
            log.prove(after=gap.after, through=gap.through)
        at_least = at_most = 0
        for gap in missing:
            reached = gap.after
            for record in log.first_parts(gap.after):
                if record.after >= gap.through:
                    break
                at_most += record.writes
                if record.after >= reached and record.through <= gap.through:
                    at_least += record.writes
                reached = record.through
        return WritesNotKept(at_least, at_most)
    except OutOfRetention:
        return None
    finally:
        log.close()
