"""Readers beside which somebody else gets on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirrorlog.ports.streams import Message
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader


class WorkingReader(MemoryReader):
    """A reader that lets the node work before each poll."""

    def __init__(self, broker: MemoryBroker, work: Callable[[], None]) -> None:
        super().__init__(broker)
        self._work = work

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        self._work()
        return super().poll(timeout_s, max_messages=max_messages)
