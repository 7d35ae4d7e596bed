"""The commands that the topic no longer has, from an archive: the port OlderCommands."""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.archive.archived_topic import ArchivedTopic
from mirrorlog.changed.kept_commands import KeptCommand
from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadInput


class ArchivedCommands:
    """OlderCommands in an archive."""

    def __init__(self, archived: ArchivedTopic) -> None:
        self._archived = archived

    def kept_after(self, volume: Volume, *, below: int) -> int:
        """Return the position above which each command below `below` is archived."""
        return self._archived.covered_after(volume.partition, below=below)

    def read(self, volume: Volume, *, after: int, through: int) -> Iterator[KeptCommand]:
        """Yield the volume's commands in `(after, through]`, in the order of their positions."""
        for message in self._archived.messages(
            volume.partition, after=after, through=through, volume=volume.volume
        ):
            if message.value is None:
                continue
            try:
                command = decode(message.value, TrackingCommand)
            except BadInput:
                continue  # the node refused it, and no record has it
            if command.volume == volume.volume:
                appended_us = message.at_us if message.by_broker else None
                yield KeptCommand(message.position, command, appended_us)
