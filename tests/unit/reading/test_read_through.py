"""read_through ends where the topic ended, or at its deadline, whatever happens to the topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.ports.streams import Message
from mirrorlog.reading.read_through import ReadPatience, read_range, read_through
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker, MemoryReader
from mirrorlog.topics import TopicSpec

TOPIC = "t"


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create([TopicSpec(TOPIC, {}, False)], 2)
    return broker


class StuckReader(MemoryReader):
    """Returns what lies below a position and then nothing, like a partition without a leader."""

    def __init__(self, broker: MemoryBroker, stuck_at: int, on_poll: Callable[[], object]) -> None:
        super().__init__(broker)
        self.stuck_at, self.on_poll, self.polls, self.closed = stuck_at, on_poll, 0, 0

    def poll(self, timeout_s: float, *, max_messages: int = 1000) -> Sequence[Message]:
        self.polls += 1
        assert self.polls < 1000, "the reader polls for ever"
        self.on_poll()
        if self.reached(TOPIC, 0) >= self.stuck_at:
            return ()
        return super().poll(timeout_s, max_messages=1)

    def close(self) -> None:
        self.closed += 1


def patience(clock: ManualClock, patience_s: float = 30) -> ReadPatience:
    return ReadPatience(clock, patience_s, "reading what is there")


def fill(broker: MemoryBroker, partition: int, count: int) -> None:
    for number in range(count):
        broker.append(TOPIC, partition, b"k", str(number).encode())


def positions(messages: Sequence[Message], partition: int = 0) -> list[int]:
    return [message.position for message in messages if message.partition == partition]


def test_all_partitions_are_read_to_their_ends(broker: MemoryBroker) -> None:
    fill(broker, 0, 3)
    fill(broker, 1, 1500)
    reader = broker.reader()
    reader.assign(TOPIC, {0: 1, 1: None})
    messages = list(read_through(reader, TOPIC, {0: 3, 1: 1500}, patience(ManualClock())))
    assert positions(messages) == [1, 2]
    assert positions(messages, 1) == list(range(1500))


def test_a_topic_that_never_reaches_its_end_meets_the_deadline(broker: MemoryBroker) -> None:
    fill(broker, 0, 5)
    reader = StuckReader(broker, 2, lambda: None)
    reader.assign(TOPIC, {0: None})
    clock = ManualClock(look_s=0.5)
    messages = []
    with pytest.raises(KafkaFailed) as caught:
        for message in read_through(reader, TOPIC, {0: 5}, patience(clock)):
            messages.append(message)
    assert positions(messages) == [0, 1]
    assert 30 < clock.now_s < 33
    assert caught.value.what == "reading what is there got no further for 30 s"
    assert caught.value.where == "topic t, partition 0, reached position 2 of 5"
    assert "broker" in caught.value.next


def test_a_slow_topic_that_makes_progress_is_read_whatever_it_takes(broker: MemoryBroker) -> None:
    fill(broker, 0, 50)
    reader = StuckReader(broker, 50, lambda: None)
    reader.assign(TOPIC, {0: None})
    clock = ManualClock(look_s=20)
    assert len(list(read_through(reader, TOPIC, {0: 50}, patience(clock)))) == 50
    assert clock.now_s > 30


def test_the_end_is_fixed_at_the_start(broker: MemoryBroker) -> None:
    """A topic that grows faster than it is read doesn't keep the reader."""
    fill(broker, 0, 4)
    reader = StuckReader(broker, 10**6, lambda: fill(broker, 0, 2))
    reader.assign(TOPIC, {0: None})
    assert positions(list(read_through(reader, TOPIC, {0: 4}, patience(ManualClock())))) == [
        0,
        1,
        2,
        3,
    ]


def test_an_empty_topic_is_not_polled(broker: MemoryBroker) -> None:
    reader = StuckReader(broker, 0, lambda: None)
    reader.assign(TOPIC, {0: None})
    assert list(read_through(reader, TOPIC, {0: 0}, patience(ManualClock()))) == []
    assert reader.polls == 0


def test_offsets_with_gaps_and_a_compacted_end_are_passed(broker: MemoryBroker) -> None:
    fill(broker, 0, 9)
    broker.append(TOPIC, 0, b"k", None)
    broker.append(TOPIC, 0, b"other", b"1")
    broker.append(TOPIC, 0, b"other", None)
    broker.compact(TOPIC, 0)
    reader = broker.reader()
    reader.assign(TOPIC, {0: None})
    assert list(read_through(reader, TOPIC, {0: 12}, patience(ManualClock(look_s=1)))) == []
    assert reader.reached(TOPIC, 0) == 12


def test_a_trimmed_beginning(broker: MemoryBroker) -> None:
    fill(broker, 0, 6)
    broker.trim(TOPIC, 0, 4)
    clock = ManualClock()
    from_oldest = read_range(broker.reader, TOPIC, 0, patience(clock), start=None, end=6)
    assert positions(list(from_oldest)) == [4, 5]
    with pytest.raises(OutOfRetention):
        list(read_range(broker.reader, TOPIC, 0, patience(clock), start=2, end=6))


@pytest.mark.parametrize(("start", "end"), [(2, 5), (None, 3), (0, 8), (3, 3), (7, 3)])
def test_a_range_is_read_exactly(broker: MemoryBroker, start: int | None, end: int) -> None:
    fill(broker, 0, 8)
    messages = list(
        read_range(broker.reader, TOPIC, 0, patience(ManualClock()), start=start, end=end)
    )
    assert positions(messages) == list(range(start or 0, end))


def test_a_range_closes_its_reader_also_where_it_is_given_up(broker: MemoryBroker) -> None:
    fill(broker, 0, 3)
    readers = [StuckReader(broker, stuck_at, lambda: None) for stuck_at in (3, 3, 1)]
    given_up = read_range(lambda: readers[1], TOPIC, 0, patience(ManualClock()), start=None, end=3)
    assert (
        len(
            list(
                read_range(lambda: readers[0], TOPIC, 0, patience(ManualClock()), start=None, end=3)
            )
        )
        == 3
    )
    next(given_up)
    given_up.close()
    with pytest.raises(KafkaFailed):
        list(
            read_range(
                lambda: readers[2], TOPIC, 0, patience(ManualClock(look_s=1)), start=None, end=3
            )
        )
    assert [reader.closed for reader in readers] == [1, 1, 1]


def test_what_is_called_before_poll_may_give_the_reading_up(broker: MemoryBroker) -> None:
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    fill(broker, 0, 1)
    wait = ReadPatience(ManualClock(), 30, "reading", before_poll=cancel)
    with pytest.raises(Cancelled):
        next(read_range(broker.reader, TOPIC, 0, wait, start=None, end=1))
