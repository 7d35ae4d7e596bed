"""HistoryWatch: whether the commands topic is still the one in which a site's positions were taken.

The node renews a history that ended, and a site then sees another one in the log. Until the node
has done that, or if nothing that the node keeps shows it, the site finds out for itself: it holds
the log's watermark, and its own saved positions, against the topic (docs/decisions/histories.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.streams import TopicAdmin, TopicReader
from mirrorlog.reading.commands_now import commands_now
from mirrorlog.reading.read_through import ReadPatience
from mirrorlog.tracking_log.breaks import CommandsNow, break_reason
from mirrorlog.tracking_log.heads import Watermark

_NOWHERE: Final = -1


class HistoryWatch:
    """The partitions and secondaries whose positions contradict the commands topic.

    ended: by partition, what shows that the history of its log ended. No site claims anything by
        that log. It is looked at again until the log is of another history, or agrees.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        admin: TopicAdmin,
        topic: str,
        clock: Clock,
        patience_s: float,
    ) -> None:
        self._open_reader, self._admin, self._topic = open_reader, admin, topic
        self._patience = ReadPatience(clock, patience_s, "reading the command at a saved position")
        self.ended: dict[int, str] = {}
        self._other: dict[str, str] = {}

    def look(
        self, partition: int, watermark: Watermark, unchecked: Iterable[SecondaryState]
    ) -> bool:
        """Hold the log's watermark, and saved states, against the topic.

        watermark: of the log, read before the call. unchecked: states that were loaded since the
        last look. Only the command at the highest of their positions is read: it stands for those
        below.
        Return whether `ended` changed for the partition. Raise KafkaFailed if the broker doesn't
        answer.
        """
        anchored = [
            (state.known_position, bytes.fromhex(state.anchor), state)
            for state in unchecked
            if state.known_position is not None
            and state.anchor is not None
            and watermark.history is not None
            and state.history_id == watermark.history.id
        ]
        position, anchor, _ = max(
            anchored, key=lambda entry: entry[0], default=(_NOWHERE, None, None)
        )
        now = self._now(partition, position)
        saved = Watermark(
            partition=partition,
            through=position,
            at_us=0,
            history=watermark.history,
            anchor=anchor,
        )
        if anchored and (reason := break_reason(saved, now)):
            for _, _, state in anchored:
                self._other[state.volume] = reason
        before = self.ended.pop(partition, None)
        of_log = Watermark(
            partition=partition,
            through=watermark.through,
            at_us=0,
            history=watermark.history,
        )
        if reason := break_reason(of_log, now):
            self.ended[partition] = reason
        return before != self.ended.get(partition)

    def take_other(self, volume: str) -> str | None:
        """Return and forget what shows that the volume's saved position is of another history."""
        return self._other.pop(volume, None)

    def _now(self, partition: int, position: int) -> CommandsNow:
        return commands_now(
            self._open_reader, self._admin, self._topic, partition, position, self._patience
        )
