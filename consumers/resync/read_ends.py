"""ReadEnds: asks where the commands end, whenever the reads of a cycle are over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mirrorlog.consumers.resync.command_ends import CommandEnd, CommandEnds
from mirrorlog.consumers.resync.secondary import Secondary


class ReadEnds:
    """The volumes whose reads are over, and the questions that were put since.

    The source of a mirror answers later than it is asked.
    """

    def __init__(self, ends: CommandEnds) -> None:
        self._ends: Final = ends
        self._over: Final[set[str]] = set()
        self._numbers: Final[dict[str, int]] = {}

    def note_over(self, volume: str) -> None:
        """Note that all reads and writes of a volume's cycle are over."""
        self._over.add(volume)

    def note_reading(self, volume: str) -> None:
        """Note that the volume is read: what was asked before says nothing of that."""
        self._over.discard(volume)
        self._numbers.pop(volume, None)

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self.note_reading(volume)

    def take(self, secondaries: Mapping[str, Secondary]) -> dict[str, CommandEnd]:
        """Ask for the volumes whose reads are over, once for each partition.

        Return the answers that have come, by volume, each once.
        """
        waiting = {name: secondaries[name].volume.partition for name in self._over}
        numbers = {partition: self._ends.ask(partition) for partition in set(waiting.values())}
        self._numbers.update((name, numbers[partition]) for name, partition in waiting.items())
        self._over.clear()
        answers = {
            name: end
            for name, number in self._numbers.items()
            if (end := self._ends.answer(secondaries[name].volume.partition, number)) is not None
        }
        for name in answers:
            del self._numbers[name]
        return answers
