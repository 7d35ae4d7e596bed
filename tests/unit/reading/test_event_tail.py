"""The last events of partitions: what every read of the whole would give, and no more read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.ports.streams import Message
from mirrorlog.reading.event_tail import PartRange, last_of_all, steps_back

WANTED, OTHER = b"wanted", b"other"


class RecordedReader:
    """Reads ranges of messages in memory, and notes how often each position is read."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = list(messages)
        self.asked: list[PartRange] = []

    def __call__(self, part: PartRange) -> Iterable[Message]:
        self.asked.append(part)
        return (
            message
            for message in self._messages
            if message.partition == part.partition and part.start <= message.position < part.end
        )


def message(*, partition: int, position: int, value: bytes, at_us: int) -> Message:
    return Message("t", partition, position, b"k", value, at_us)


@st.composite
def partitions(draw: st.DrawFn) -> list[list[Message]]:
    """Draw partitions with gaps, and with times that only grow within a partition."""
    result = []
    for number in range(draw(st.integers(1, 3))):
        position, at_us, part = 0, 0, []
        for _ in range(draw(st.integers(0, 40))):
            position += draw(st.sampled_from([1, 1, 1, 2, 300]))
            at_us += draw(st.integers(1, 5))
            value = draw(st.sampled_from([WANTED, OTHER]))
            part.append(message(partition=number, position=position, value=value, at_us=at_us))
        result.append(part)
    return result


@given(parts=partitions(), wanted=st.integers(0, 30))
def test_the_last_are_those_of_the_whole(parts: list[list[Message]], wanted: int) -> None:
    reader = RecordedReader(message for part in parts for message in part)
    ranges = [
        PartRange("t", number, start=0, end=part[-1].position + 1 if part else 0)
        for number, part in enumerate(parts)
    ]
    answer = last_of_all(ranges, wanted, reader, lambda message: message.value == WANTED)
    whole = sorted(
        (message for part in parts for message in part if message.value == WANTED),
        key=lambda message: message.at_us,
    )
    assert [message.at_us for message in answer] == [
        message.at_us for message in whole[max(0, len(whole) - wanted) :]
    ]
    assert {message.value for message in answer} <= {WANTED}
    read = [
        (part.partition, position)
        for part in reader.asked
        for position in range(part.start, part.end)
    ]
    assert len(read) == len(set(read))


def test_only_the_end_of_a_long_partition_is_read() -> None:
    part = PartRange("t", 0, start=0, end=10**9)
    reader = RecordedReader(
        message(partition=0, position=position, value=WANTED, at_us=position)
        for position in range(10**9 - 20, 10**9)
    )
    assert len(last_of_all([part], 5, reader, lambda _: True)) == 5
    assert [(asked.start, asked.end) for asked in reader.asked] == [(10**9 - 256, 10**9)]


def test_the_steps_cover_the_range_and_few_are_needed() -> None:
    steps = list(steps_back(PartRange("t", 0, start=7, end=10**9), 10))
    assert (steps[0].end, steps[-1].start) == (10**9, 7)
    assert all(earlier.end == later.start for later, earlier in pairwise(steps))
    assert len(steps) < 15
