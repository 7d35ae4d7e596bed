"""Commands with their positions, and the port to commands that the topic no longer has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mirrorlog.domain.commands import TrackingCommand
from mirrorlog.domain.volumes import Volume


class KeptCommand(NamedTuple):
    """A command of one volume at a position of its partition.

    appended_at_us: when the broker appended it, in microseconds since 1970, rounded down to its
        milliseconds; None if only a producer's clock says so.
    """

    position: int
    command: TrackingCommand
    appended_at_us: int | None


class OlderCommands(Protocol):
    """Commands of volumes that are kept elsewhere when the topic drops them: an archive."""

    def kept_after(self, volume: Volume, *, below: int) -> int:
        """Return the position above which each command of the volume below `below` is kept here.

        Return `below` - 1 if none is: what is kept must reach up to `below` without a gap.
        """

    def read(self, volume: Volume, *, after: int, through: int) -> Iterator[KeptCommand]:
        """Yield the volume's commands in `(after, through]`, in the order of their positions.

        after: not below what kept_after() returned. Extents are as the command named them: not
        clipped. Commands of recordings come as RecordedWrites, with the time of each write.
        """
