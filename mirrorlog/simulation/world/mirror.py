"""The mirror between two clusters: like MirrorMaker 2 it lags, repeats, and keeps no position."""

from __future__ import annotations

from random import Random
from typing import Final

from mirrorlog.settings import Settings
from mirrorlog.simulation.memory_broker import MemoryBroker

_MARKER_CHANCE: Final = 0.1
_COMMIT_CHANCE: Final = 0.3


class _Flow:
    """One topic on its way. next: the position to copy next. committed: where a restart begins."""

    def __init__(self, topic: str, source: MemoryBroker, target: MemoryBroker) -> None:
        self.topic: Final = topic
        self.source: Final = source
        self.target: Final = target
        self.next = 0
        self.committed = 0

    def copy(self, messages: int, random: Random) -> int:
        """Copy up to so many messages; return how many there were.

        The target's positions drift away, by markers of transactions. A source that went back in
        time is copied from its beginning again.
        """
        kept = self.source.partition(self.topic, 0)
        if self.next > kept.end:
            self.next = self.committed = 0
        waiting = [message for message in kept.messages if message.position >= self.next][:messages]
        for message in waiting:
            assert message.key is not None
            self.target.append(self.topic, 0, message.key, message.value)
            self.next = message.position + 1
            if random.random() < _MARKER_CHANCE:
                self.target.append_marker(self.topic, 0)
        if messages and not waiting:
            self.next = kept.end
        return len(waiting)


class MirrorModel:
    """Mirrors the log, the descriptions and what verifications ask to the site.

    Questions, progress and digests of the site go back.

    Topics keep their names (IdentityReplicationPolicy).
    """

    def __init__(
        self, source: MemoryBroker, target: MemoryBroker, settings: Settings, random: Random
    ) -> None:
        topics = settings.topics
        self._random: Final = random
        self._forth: Final = [
            _Flow(name, source, target)
            for name in (topics.changelog, topics.volumes, topics.digests)
        ]
        self._back: Final = [
            _Flow(name, target, source)
            for name in (topics.questions, topics.progress, topics.digest_answers)
        ]
        self._cut: list[_Flow] = []

    @property
    def _flows(self) -> list[_Flow]:
        return [*self._forth, *self._back]

    def run(self) -> None:
        """Copy some messages of each topic whose way isn't cut."""
        for flow in self._flows:
            if flow in self._cut:
                continue
            flow.copy(self._random.choice((0, 1, 3, 20, 1000)), self._random)
            if self._random.random() < _COMMIT_CHANCE:
                flow.committed = flow.next

    def restart(self) -> None:
        """Kill the mirror and start it again: it repeats what it had not committed."""
        for flow in self._random.choice((self._forth, self._back, self._flows)):
            flow.next = min(flow.next, flow.committed)

    def skip(self) -> None:
        """Pass over what waits of the log, as a mirror does that lost its offsets."""
        flow = self._forth[0]
        flow.next = flow.source.end_position(flow.topic, 0)

    def cut(self) -> None:
        """Cut one way, or both."""
        self._cut = list(self._random.choice((self._forth, self._back, self._flows)))

    def cut_back(self) -> None:
        """Cut the way to the source."""
        self._cut = list(self._back)

    def mend(self) -> None:
        """Let all ways be open again."""
        self._cut = []

    def drain(self) -> None:
        """Copy all that there is."""
        for flow in self._flows:
            while flow.copy(1000, self._random):
                pass
