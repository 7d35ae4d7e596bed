"""The last events of partitions, of all of them or of one volume, without reading the whole topic.

A topic may hold a year of commands. So the end of a partition is read first, and more of it only if
that isn't enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from heapq import merge
from typing import Final, Protocol, TypeAlias

from mirrorlog.ports.streams import Message

_FIRST_STEP: Final = 256
_WIDENING: Final = 4


@dataclass(frozen=True, slots=True)
class PartRange:
    """The positions [start, end) of one partition of a topic."""

    topic: str
    partition: int
    _: KW_ONLY
    start: int
    end: int


class RangeReader(Protocol):
    """Reads a range of positions; positions may have gaps."""

    def __call__(self, part: PartRange, /) -> Iterable[Message]:
        """Yield the messages at positions of `part`, in order."""


Wanted: TypeAlias = Callable[[Message], bool]


def steps_back(part: PartRange, wanted_count: int) -> Iterator[PartRange]:
    """Yield ranges that cover `part` from its end to its start, each larger than the one before.

    wanted_count: how many events are looked for. The first range holds at least that many
    positions.
    """
    end, size = part.end, max(wanted_count, _FIRST_STEP)
    while end > part.start:
        start = max(part.start, end - size)
        yield PartRange(part.topic, part.partition, start=start, end=end)
        end, size = start, size * _WIDENING


def last_messages(
    part: PartRange, wanted_count: int, read: RangeReader, is_wanted: Wanted
) -> list[Message]:
    """Return the last `wanted_count` wanted messages of `part`, oldest first.

    No message is read twice, and at most that many are kept.
    """
    kept: list[Message] = []
    for step in steps_back(part, wanted_count):
        if len(kept) >= wanted_count:
            break
        more = deque(filter(is_wanted, read(step)), maxlen=wanted_count - len(kept))
        kept = [*more, *kept]
    return kept


def last_of_all(
    parts: Sequence[PartRange], wanted_count: int, read: RangeReader, is_wanted: Wanted
) -> list[Message]:
    """Return the last `wanted_count` wanted messages of all parts, by the broker's time."""
    tails = [last_messages(part, wanted_count, read, is_wanted) for part in parts]
    together = list(in_order_of_time(tails))
    return together[max(0, len(together) - wanted_count) :]


def in_order_of_time(parts: Iterable[Iterable[Message]]) -> Iterator[Message]:
    """Merge messages of several partitions by their time. Those of one stay in order.

    One message of each part is in memory. Times within a part may go back by a moment, and then the
    result does too.
    """
    return merge(*parts, key=lambda message: message.at_us)
