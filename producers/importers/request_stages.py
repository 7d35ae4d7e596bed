"""Follows block requests through a recording, so that each names its range once."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from mirrorlog.domain.block_sets import BitMap64

_MAX_SECTORS: Final = 1 << 20
_MAX_RANGES: Final = 1 << 16
"""The limits of the sectors and of the ranges on their way in one stage: a few MiB of memory."""


class _Stage(Enum):
    """How far a request has come. A completed one isn't followed any more."""

    REMAPPED = auto()
    QUEUED = auto()
    ISSUED = auto()


_FROM: Final = {
    "A": (),
    "Q": (_Stage.REMAPPED,),
    "D": (_Stage.QUEUED, _Stage.REMAPPED),
    "R": (_Stage.ISSUED, _Stage.QUEUED),
    "C": (_Stage.ISSUED, _Stage.QUEUED),
}
"""The stages that a request may come from, by the action that moves it. Other actions move none."""
_TO: Final = {
    "A": _Stage.REMAPPED,
    "Q": _Stage.QUEUED,
    "D": _Stage.ISSUED,
    "R": _Stage.QUEUED,
    "C": None,
}


class RequestStages:
    """The ranges of requests on their way, by stage.

    It holds ranges, not requests: one issued request may be many queued ones that were merged. It
    forgets ranges when there are too many. Then a request names its range once more, which does no
    harm.
    """

    def __init__(self) -> None:
        self._ranges = {stage: BitMap64() for stage in _Stage}
        self._sectors = dict.fromkeys(_Stage, 0)
        self._count = dict.fromkeys(_Stage, 0)

    def is_first(self, action: str, first: int, end: int) -> bool:
        """Follow the event of a request, and return whether no event has named its range before.

        action: as in BlockEvent. first, end: the first sector of the range and the one behind it;
        at least one sector.

        False is safe: an earlier event named all of the range, and the same request may have caused
        it. A request that begins anew (queued, or remapped from a partition) is always first.
        """
        stages = _FROM.get(action)
        for stage in _Stage if stages is None else stages:
            ranges = self._ranges[stage]
            if ranges.contains_range(first, end):
                if stages is not None:
                    ranges.remove_range(first, end)
                    self._add(_TO[action], first, end)
                return False
        self._add(_TO.get(action, _Stage.QUEUED), first, end)
        return True

    def _add(self, stage: _Stage | None, first: int, end: int) -> None:
        """Add the range to a stage, unless it is too large to be followed."""
        if stage is None or end - first > _MAX_SECTORS:
            return
        ranges = self._ranges[stage]
        ranges.add_range(first, end)
        self._sectors[stage] += end - first
        self._count[stage] += 1
        if self._sectors[stage] > _MAX_SECTORS or self._count[stage] > _MAX_RANGES:
            # Most requests have left the stage since the last look.
            containers = ranges.get_statistics()["n_containers"]
            if len(ranges) > _MAX_SECTORS // 2 or containers > _MAX_RANGES // 4:
                ranges.clear()
            self._sectors[stage], self._count[stage] = len(ranges), 0
