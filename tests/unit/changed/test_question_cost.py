"""What a question reads: it grows with tiers and fan-out, not with writes. Counted, not timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from logs import Log
from notation import record, volume

from mirrorlog.changed.logs import LogView
from mirrorlog.changed.points import AtPosition
from mirrorlog.changed.query import changed_blocks
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.publication_delays import PublicationDelays
from mirrorlog.tracking_log.records import LogRecord

TIERS = 4
BLOCKS = 50
"""Which the writes touch, however many there are."""


@dataclass(frozen=True)
class _Pyramid:
    """The log of a volume of which every tier is kept.

    fan_out: the records of a tier in one of the next. highest: the records of the highest tier.
    writes: the commands in a record of the lowest tier.
    """

    fan_out: int
    highest: int
    writes: int

    @property
    def seconds(self) -> int:
        """The number of records of the lowest tier."""
        return int(self.highest * self.fan_out ** (TIERS - 1))

    def log(self) -> VolumeLog:
        """Return the records."""
        log = VolumeLog()
        for tier in range(TIERS):
            width = self.fan_out**tier
            for begin in range(0, self.seconds, width):
                after, through = (end * self.writes - 1 for end in (begin, begin + width))
                blocks = {second % BLOCKS for second in range(begin, begin + width)}
                one = record(f"{after}..{through}", " ".join(map(str, blocks)))
                log.add(replace(one, tier=tier))
        return log


class _CountedLog:
    """A log of which is counted how many records' bitmaps are read (VolumeLogSource, LogView)."""

    def __init__(self, pyramid: _Pyramid) -> None:
        self.log = pyramid.log()
        self.complete_through = pyramid.seconds * pyramid.writes - 1
        self.records_read = 0

    def read(self, volume: Volume, needed: int, patience_s: float) -> LogView:
        del volume, needed, patience_s
        return self

    def parts(self, of_record: Sequence[LogRecord]) -> Sequence[LogRecord]:
        self.records_read += 1
        return of_record

    def delays(self) -> Sequence[PublicationDelays]:
        return []

    def close(self) -> None:
        pass


def records_read(pyramid: _Pyramid, first_s: int, end_s: int) -> int:
    """Return how many records' bitmaps the question for these seconds reads.

    The commands topic is empty: a question that replays a command fails.
    """
    described = volume("v", 1 << 30)
    log, counted = Log([described]), _CountedLog(pyramid)
    end = pyramid.seconds * pyramid.writes
    log.broker.partition(log.topics.commands, 0).first = end
    log.broker.partition(log.topics.commands, 0).end = end
    ports = replace(log.ports(), logs=counted)
    since, until = (AtPosition(second * pyramid.writes - 1) for second in (first_s, end_s))
    answer = changed_blocks("v", since, until, ports, 0)
    assert set(answer.changed) == {second % BLOCKS for second in range(first_s, end_s)}
    return counted.records_read


def bound(pyramid: _Pyramid, first_s: int, end_s: int) -> int:
    """Return tiers × fan-out: at each edge less than a record's worth of each lower tier."""
    edges = 2 * (TIERS - 1) * (pyramid.fan_out - 1)
    return edges + (end_s - first_s) // int(pyramid.fan_out ** (TIERS - 1))


@given(st.integers(2, 5), st.integers(1, 3), st.data())
def test_a_question_reads_at_most_tiers_times_fan_out_records_however_many_writes_there_were(
    fan_out: int, highest: int, data: st.DataObject
) -> None:
    few = _Pyramid(fan_out, highest, 1)
    first_s = data.draw(st.integers(0, few.seconds - 1))
    end_s = data.draw(st.integers(first_s + 1, few.seconds))
    read = records_read(few, first_s, end_s)
    assert read <= bound(few, first_s, end_s)
    assert records_read(replace(few, writes=10), first_s, end_s) == read


def test_the_bound_is_nearly_reached_and_a_longer_range_adds_a_tier_not_a_multiple() -> None:
    pyramid = _Pyramid(4, 4, 1)
    # Each from the second behind an edge of all tiers to the second before another.
    read = [records_read(pyramid, 1, length - 1) for length in (4, 16, 64, 256)]
    assert read == [2, 8, 14, 20]
    assert records_read(pyramid, 1, 255) == bound(pyramid, 1, 255) - 1
