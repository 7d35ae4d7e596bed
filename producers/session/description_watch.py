"""Follows the descriptions of a session's volumes while they are open.

The node renews the generation of a volume when it finds that the history of its partition broke;
an operator may renew it, too. The log believes what a command says of acknowledged positions only
if the command names the current generation (docs/decisions/histories.md). So a session that kept
the old one would keep its sites waiting for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput
from mirrorlog.producers.session.fence import (
    other_primary_error,
    promoted_error,
    taken_over_error,
)
from mirrorlog.reading.catalog import Catalog

_INTERVAL_S: Final = 1.0


class DescriptionWatch:
    """Looks at the catalog once in _INTERVAL_S seconds. One thread calls it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog: Final = catalog
        self._looked_s = float("-inf")

    def is_due(self, now_s: float) -> bool:
        """Return whether the next look is due. now_s: the time by the monotonic clock."""
        return now_s - self._looked_s >= _INTERVAL_S

    def renewed(self, volumes: Mapping[str, Volume], now_s: float) -> list[Volume]:
        """Return those of `volumes` that were renewed, as the session goes on with them.

        Their generation is another one, or the node has given them a history. A volume of which
        another copy was promoted is left out: this session has the former primary. Only the
        generation and the history are taken over. The session keeps the size with which it opened a
        volume.
        Raise KafkaFailed and WrongCluster as Catalog.poll does.
        """
        self._looked_s = now_s
        self._catalog.poll(0)
        return [
            with_generation_of(volume, newest)
            for name, volume in volumes.items()
            if (newest := self._catalog.get(name)) is not None
            and _left_behind(volume, newest) is None
            and (newest.generation, newest.history_id) != (volume.generation, volume.history_id)
            and newest.description_order >= volume.description_order
        ]

    def ended(self, volumes: Mapping[str, Volume], session: str) -> dict[str, BadInput]:
        """Return by name those of `volumes` to which `session` may write no more, and why.

        They were taken over from it, or another copy of them was promoted, by the last look.
        """
        ended: dict[str, BadInput] = {}
        for name, volume in volumes.items():
            newest = self._catalog.get(name)
            if newest is None:
                continue
            left_behind = _left_behind(volume, newest)
            if left_behind is not None:
                ended[name] = left_behind
            elif session in newest.ended_sessions:
                ended[name] = taken_over_error(name, session)
        return ended


def _left_behind(volume: Volume, newest: Volume) -> BadInput | None:
    """Return the error if the session's copy isn't the primary any more; None if it is.

    volume: as the session opened it. A promotion ended its generation; or the description names the
    mark of another primary, and the promotion is forgotten, because the generation was renewed
    since.
    """
    promotion = newest.promotion_ending(volume.generation)
    if promotion is not None:
        return promoted_error(volume.volume, promotion)
    if newest.primary_id is not None and newest.primary_id != volume.primary_id:
        return other_primary_error(newest)
    return None


def with_generation_of(volume: Volume, newest: Volume) -> Volume:
    """Return `volume` with the generation and the history of its newest description."""
    return replace(
        volume,
        generation=newest.generation,
        cluster=newest.cluster,
        history_id=newest.history_id,
        epoch=newest.epoch,
        topic_id=newest.topic_id,
        described_position=newest.described_position,
    )
