"""HistoryWatch: whether the commands topic is still the one in which a site's positions were taken.

The node renews a history that ended, and a site then sees another one in the log. Until the node
has done that, or if nothing that the node keeps shows it, the site finds out for itself: it holds
the log's watermark, and its own saved positions, against the topic (docs/decisions/histories.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.tracking_log.breaks import CommandsNow, break_reason
from mirrorlog.tracking_log.heads import Watermark

_NOWHERE: Final = -1
AskCommandsNow: TypeAlias = Callable[[int, int], CommandsNow | None]
"""Takes a partition and a position. Returns what the commands topic holds now, None for unknown."""


class HistoryWatch:
    """The partitions and secondaries whose positions contradict the commands topic.

    ended: by partition, what shows that the history of its log ended. No site claims anything by
        that log. It is looked at again until the log is of another history, or agrees.
    """

    def __init__(self, commands_now: AskCommandsNow) -> None:
        """Watch by what `commands_now` says (CommandEnds.commands_now)."""
        self._commands_now = commands_now
        self.ended: dict[int, str] = {}
        self._other: dict[str, str] = {}

    def look(
        self, partition: int, watermark: Watermark, unchecked: Iterable[SecondaryState]
    ) -> bool | None:
        """Hold the log's watermark, and saved states, against the topic.

        watermark: of the log, read before the call. unchecked: states that were loaded since the
        last look. Only the command at the highest of their positions is read: it stands for those
        below.
        Return whether `ended` changed for the partition; None if nothing is known of the topic yet:
        call again. Raise KafkaFailed if the broker doesn't answer.
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
        now = self._commands_now(partition, position)
        if now is None:
            return None
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

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self._other.pop(volume, None)

    def forget_partition(self, partition: int) -> None:
        """Forget a partition whose log is read no more."""
        self.ended.pop(partition, None)

    def is_other(self, volume: str) -> bool:
        """Return whether take_other() has something to say."""
        return volume in self._other

    def take_other(self, volume: str) -> str | None:
        """Return and forget what shows that the volume's saved position is of another history."""
        return self._other.pop(volume, None)
