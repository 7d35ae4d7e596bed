"""Which volumes the last commands of a partition may concern. No log and no node are asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.errors import BadInput, OutOfRetention
from mirrorlog.ports.streams import Message, TopicReader
from mirrorlog.reading.read_through import ReadPatience, read_range

MOST_POSITIONS: Final = 10_000
"""Nothing is said of a longer range: reading and decoding it takes a second or more."""
_OF_NO_VOLUME: Final = (CommandKind.HEARTBEAT, CommandKind.SESSION_CLOSE)
"""Commands of these kinds without a volume name no block, of whatever volume."""


class LastCommands:
    """Reads the commands of a partition backwards from `through`, as far as somebody asks.

    through: the position of the last command that counts. Those after it are never looked at.
    """

    def __init__(
        self,
        open_reader: Callable[[], TopicReader],
        topic: str,
        partition: int,
        patience: ReadPatience,
        *,
        through: int,
    ) -> None:
        self.through: Final = through
        self._open_reader, self._topic = open_reader, topic
        self._partition, self._patience = partition, patience
        self._read_after = through
        self._not_kept_after = BEFORE_FIRST - 1
        self._last_of_volumes: Final[dict[str, int]] = {}
        self._last_of_any = BEFORE_FIRST

    def may_concern(self, volume: str, *, after: int) -> bool:
        """Return whether a command in `(after, through]` may concern the volume.

        False is proved: everything there is about other volumes, or says only that a session lives
        or has ended. True is also returned if the range is longer than MOST_POSITIONS, or isn't
        kept any more. Raise KafkaFailed if the broker doesn't answer.
        """
        if self.through - after > MOST_POSITIONS or after <= self._not_kept_after:
            return True
        if after < self._read_after:
            try:
                self._read(after)
            except OutOfRetention:
                self._not_kept_after = after
                return True
        return max(self._last_of_any, self._last_of_volumes.get(volume, BEFORE_FIRST)) > after

    def _read(self, after: int) -> None:
        """Read the commands above `after` that weren't read before."""
        for message in read_range(
            self._open_reader,
            self._topic,
            self._partition,
            self._patience,
            start=after + 1,
            end=self._read_after + 1,
        ):
            self._note(message)
        self._read_after = after

    def _note(self, message: Message) -> None:
        position = message.position
        try:
            command = decode(message.value or b"", TrackingCommand)
        except BadInput:  # a newer release may understand it
            self._last_of_any = max(self._last_of_any, position)
            return
        if command.volume:
            last = self._last_of_volumes.get(command.volume, BEFORE_FIRST)
            self._last_of_volumes[command.volume] = max(last, position)
        elif command.kind not in _OF_NO_VOLUME:
            self._last_of_any = max(self._last_of_any, position)
