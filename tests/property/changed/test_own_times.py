"""Times of a volume with recordings and writes of hosts, in any batches, equal brute force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from logs import Log
from notation import command, recorded, volume

from mirrorlog.changed.points import AtPosition, AtTime, Point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.consumers.audit.ask import answer_question
from mirrorlog.consumers.audit.question import AuditQuestion
from mirrorlog.domain.commands import TrackingCommand

MS = 1000
SECOND = st.integers(0, 12)
WRITES = st.lists(st.tuples(SECOND, st.integers(0, 15)), min_size=1, max_size=4)
RECORDINGS = st.tuples(st.just("recording"), WRITES, SECOND)
HOSTS = st.tuples(st.just("host"), WRITES, SECOND)
NAMED = st.tuples(st.just("named"), WRITES, SECOND)
EVENTS = st.lists(st.one_of(RECORDINGS, RECORDINGS, HOSTS, NAMED), min_size=1, max_size=10)
FLUSHES = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 0, 0, 1, 3])), max_size=8)
"""For each flush: how many commands it takes, and how many the node repeats after a crash."""


class Written(NamedTuple):
    """A block, its position, and the least and the greatest time at which it was written."""

    position: int
    block: int
    first_us: int
    last_us: int


def events_of(drawn: list[tuple[str, list[tuple[int, int]], int]]) -> Iterator[TrackingCommand]:
    """Yield commands of recordings, of recordings with another host's name, and of hosts."""
    for kind, writes, _ in drawn:
        if kind == "host":
            seconds = [second for second, _ in writes]
            text = " ".join(f"{block * 4096}+4096" for _, block in writes)
            first_us, last_us = min(seconds) * MS, max(seconds) * MS
            yield command(text, first_at_us=first_us, last_at_us=last_us, sequence=-1)
        else:
            text = " ".join(f"{second * MS}@{block * 4096}+4096" for second, block in writes)
            host = "import:msr:1" if kind == "recording" else "h"
            yield recorded(text, host=host, sequence=-1)


def written_of(
    drawn: list[tuple[str, list[tuple[int, int]], int]], appended_us: list[int]
) -> Iterator[Written]:
    for position, (kind, writes, _) in enumerate(drawn):
        for second, block in writes:
            if kind == "host":
                seconds = [second for second, _ in writes]
                first_us = min(*seconds, 99) * MS
                last_us = max(seconds) * MS
                at_us = appended_us[position]
                yield Written(position, block, min(first_us, at_us), max(last_us, at_us))
            else:
                yield Written(position, block, second * MS, second * MS)


@settings(max_examples=300, deadline=None)
@given(EVENTS, FLUSHES, st.data())
def test_times_are_exact_in_any_batches(
    drawn: list[tuple[str, list[tuple[int, int]], int]],
    flushes: list[tuple[int, int]],
    data: st.DataObject,
) -> None:
    appended, now = [], 0
    for _, _, wait in drawn:
        now += wait
        appended.append(now)
    log = Log([volume(recorded_since_us=0, created_at_us=1)])
    log.publish(list(events_of(drawn)), [second / 1000 for second in appended])
    for count, back in [*flushes, (len(drawn), 0)]:
        log.flush(count, record_max_bytes=70)
        log.rewind(max(log.next - back, 0))
    log.flush(len(drawn), record_max_bytes=70)
    first, last = sorted(data.draw(st.tuples(SECOND, SECOND), "since, until"))
    after, through = -1, len(drawn) - 1
    since: Point = AtTime(first * MS)
    until: Point = AtTime(last * MS)
    match data.draw(st.sampled_from(["times", "times", "since", "until"]), "points"):
        case "since":
            after = data.draw(st.integers(-1, through), "after")
            since, first = AtPosition(after), -1
        case "until":
            through = data.draw(st.integers(-1, through), "through")
            until, last = AtPosition(through), 1000
    answer = changed_blocks("v", since, until, log.ports(), 0)
    exact, most = set(), set()
    for write in written_of(drawn, [second * MS for second in appended]):
        inside = after < write.position <= through
        if inside and write.last_us > first * MS and write.first_us <= last * MS:
            exact.add(write.block)
        # The broker's milliseconds are rounded down, so a write of a host may be later by one.
        is_host = drawn[write.position][0] == "host"
        last_us = write.last_us + is_host * (MS - 1)
        if inside and last_us > first * MS and write.first_us <= last * MS:
            most.add(write.block)
    assert exact <= set(answer.changed) <= most
    if len(drawn) % 3:
        return  # an audit costs as much as the question
    question = AuditQuestion(volume="v", since=since, until=until)
    rows = answer_question(question, log.ports(), 0.0).batches(with_status=False)
    audited = {row["offset"] // 4096 for batch in rows for row in batch.to_dicts()}
    assert audited == set(answer.changed)
