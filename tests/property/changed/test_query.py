"""`changed` over a log from the real planner, in any batches, equals brute force."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

from deadlines import DEADLINE_S
from http_world import Worker, listening
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import Log
from notation import volume

from mirrorlog.adapters.http.error_responses import status_of
from mirrorlog.changed.formats import JSON_FORMATS, render
from mirrorlog.changed.points import AtPosition, AtTime, parse_point
from mirrorlog.changed.query import changed_blocks
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.histories import History
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError, OutOfRetention
from mirrorlog.tracking_log.publication_delays import PublicationDelays

BLOCK, SIZE = 512, 20 * 512 + 100
"""A small volume with a partial last block. Extents may reach past its end."""
EXTENTS = st.lists(
    st.builds(
        Extent,
        st.one_of(
            st.integers(0, SIZE + 600),
            st.integers(SIZE - 9, SIZE + 9),
            st.integers(0, 21).map(lambda block: block * BLOCK),
        ),
        st.one_of(st.integers(1, 1500), st.sampled_from([BLOCK, 2 * BLOCK, 2 * BLOCK + 100])),
        st.sampled_from(list(ExtentKind)),
    ),
    max_size=3,
)
KINDS = st.sampled_from(
    [CommandKind.WRITES] * 4 + [CommandKind.MARK_DIRTY, CommandKind.HEARTBEAT, CommandKind.UNKNOWN]
)


def command_of(
    name: str, kind: CommandKind, rows: list[Extent], first_us: int, span_us: int
) -> TrackingCommand:
    if kind is not CommandKind.WRITES:
        rows = (
            []
            if kind is CommandKind.HEARTBEAT
            else [Extent(row.offset, row.length) for row in rows]
        )
    columns = ExtentColumns.of(rows)
    host, last_us = f"h{first_us % 3}", first_us + span_us
    return TrackingCommand(
        volume=name,
        generation=volume().generation,
        host=host,
        session="s",
        sequence=-1,
        kind=kind,
        extents=columns,
        first_at_us=first_us,
        last_at_us=last_us,
    )


NAMES = st.sampled_from(["v", "v", "v", "w", "nobody"])
COMMANDS = st.builds(command_of, NAMES, KINDS, EXTENTS, st.integers(0, 30), st.integers(0, 3))
EVENTS = st.lists(
    st.one_of(COMMANDS, COMMANDS, COMMANDS, st.just(b"junk")), min_size=1, max_size=14
)
FLUSHES = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 0, 0, 1, 3])), max_size=8)
"""For each flush: how many events it takes, and how many the node then repeats after a crash."""


def bytes_of(command: TrackingCommand, kinds: set[ExtentKind]) -> set[int]:
    return {
        byte
        for extent in command.extents
        if extent.kind in kinds
        for byte in range(extent.offset, min(extent.end, SIZE))
    }


def blocks_of(offsets: set[int]) -> set[int]:
    return {byte // BLOCK for byte in offsets}


def folded(
    events: list[TrackingCommand | bytes],
    flushes: list[tuple[int, int]],
    origin: int,
    appended_s: list[float] | None = None,
    history: History | None = None,
) -> Log:
    mine = [
        volume(
            name,
            SIZE,
            block_size=BLOCK,
            origin_position=origin,
            history_id=history.id if history else None,
        )
        for name in ("v", "w")
    ]
    log = Log(mine, history)
    log.publish(events, appended_s)
    for count, back in [*flushes, (len(events), 0)]:
        log.flush(count, record_max_bytes=70)
        log.rewind(max(log.next - back, 0))
    log.flush(len(events), record_max_bytes=70)
    return log


def of_volume(events: list[TrackingCommand | bytes]) -> list[tuple[int, TrackingCommand]]:
    """Return the volume's commands that change a block, with their positions."""
    mine = [
        (p, e) for p, e in enumerate(events) if isinstance(e, TrackingCommand) and e.volume == "v"
    ]
    return [(p, e) for p, e in mine if bytes_of(e, set(ExtentKind))]


@settings(max_examples=300, deadline=None)
@given(EVENTS, FLUSHES, st.data())
def test_positions_are_exact_at_both_edges(
    events: list[TrackingCommand | bytes], flushes: list[tuple[int, int]], data: st.DataObject
) -> None:
    since, until = sorted(
        data.draw(st.tuples(*[st.integers(-1, len(events) - 1)] * 2), "since, until")
    )
    origin = data.draw(st.integers(-1, since), "origin")
    log = folded(events, flushes, origin)
    answer = changed_blocks("v", AtPosition(since), AtPosition(until), log.ports(), 0)
    inside = [command for position, command in of_volume(events) if since < position <= until]
    everything = set[int]().union(*(bytes_of(command, set(ExtentKind)) for command in inside))
    assert set(answer.changed) == blocks_of(everything)
    assert set(answer.hosts) == {command.host for command in inside}
    assert answer.first_write_at_us == min(
        (command.first_at_us for command in inside), default=None
    )
    assert answer.last_write_at_us == max((command.last_at_us for command in inside), default=None)
    # Zero is never claimed of a byte that may have been written, whatever the order.
    written = set[int]().union(*(bytes_of(command, {ExtentKind.WRITE}) for command in inside))
    assert set(answer.zeroed) <= set(answer.changed) - blocks_of(written)
    zeros = everything - written
    assert all(set(range(b * BLOCK, min((b + 1) * BLOCK, SIZE))) <= zeros for b in answer.zeroed)


def in_ms(events: list[TrackingCommand | bytes]) -> list[TrackingCommand | bytes]:
    """Return the events with their hosts' times taken for milliseconds."""
    return [
        replace(e, first_at_us=e.first_at_us * 1000, last_at_us=e.last_at_us * 1000)
        if isinstance(e, TrackingCommand)
        else e
        for e in events
    ]


@settings(max_examples=300, deadline=None)
@given(
    EVENTS.map(in_ms),
    FLUSHES,
    st.lists(st.integers(0, 34), min_size=14, max_size=14).map(sorted),
    st.lists(st.integers(0, 34), min_size=2, max_size=2).map(sorted),
    st.integers(0, 14),
)
def test_times_end_where_their_definition_says_whatever_the_hosts_clocks_show(
    events: list[TrackingCommand | bytes],
    flushes: list[tuple[int, int]],
    appended_ms: list[int],
    times_ms: list[int],
    gone: int,
) -> None:
    """appended_ms: by the broker. What was written after a time was appended after it, too.

    gone: the commands below that position are deleted. Without them more is named, never less.
    """
    log = folded(events, flushes, -1, [at_ms / 1000 for at_ms in appended_ms])
    since, until = (AtTime(at_ms * 1000) for at_ms in times_ms)
    mine = of_volume(events)
    first = min(
        (
            position
            for position, command in mine
            if appended_ms[position] >= times_ms[0] or command.last_at_us > since.at_us
        ),
        default=len(events),
    )
    last = max(
        (
            position
            for position, command in mine
            if appended_ms[position] <= times_ms[1] or command.first_at_us <= until.at_us
        ),
        default=-1,
    )
    inside = [command for position, command in mine if first <= position <= last]
    named = blocks_of(set[int]().union(*(bytes_of(command, set(ExtentKind)) for command in inside)))
    assert set(changed_blocks("v", since, until, log.ports(), 0).changed) == named
    log.broker.trim(log.topics.commands, 0, min(gone, len(events)))
    with suppress(OutOfRetention):
        assert set(changed_blocks("v", since, until, log.ports(), 0).changed) >= named


POINTS = st.one_of(
    st.integers(-1, 15).map(lambda position: f"@{position}"),
    st.integers(0, 34).map(lambda at_us: f"1970-01-01T00:00:00.{at_us:06}Z"),
    st.sampled_from(["origin", "now"]),
)
GONE = st.lists(st.integers(0, 7), max_size=2)
"""Flushes whose records are removed, as by retention or damage."""


@settings(max_examples=100, deadline=None)
@given(
    EVENTS,
    FLUSHES,
    POINTS,
    POINTS,
    st.integers(0, 15),
    GONE,
    st.integers(1, 5),
    st.sampled_from(JSON_FORMATS),
)
def test_http_answers_from_the_table_what_the_command_line_answers_from_the_topic(
    events: list[TrackingCommand | bytes],
    flushes: list[tuple[int, int]],
    since: str,
    until: str,
    trimmed: int,
    gone: list[int],
    limit: int,
    name: str,
) -> None:
    log = folded(events, flushes, -1)
    log.lose_records([flush for flush in gone if flush < log.flushes])
    log.broker.trim(log.topics.commands, 0, min(trimmed, len(events)))
    expected: Any
    try:
        answer = changed_blocks("v", parse_point(since, 99), parse_point(until, 99), log.ports(), 0)
        printed = json.loads("".join(render(answer, name)))
        expected = (
            answer.since,
            answer.until,
            printed["ChangedBlocks"] if name == "ebs" else printed,
        )
    except MirrorlogError as error:
        expected = (status_of(error), error.as_message())

    async def over_http() -> Any:
        has, hasnt = Worker(log, wait_s=0), Worker(log, active=[])
        async with listening(has, hasnt), asyncio.timeout(DEADLINE_S):
            path = f"/v1/volumes/v/changed?since={since}&until={until}&format={name}&wait=0"
            async with hasnt.client.get(path) as first:
                if first.status != 200:
                    return first.status, await first.json()
            pages = await hasnt.pages(f"{path}&limit={limit}")
            lists = [
                page["listing"]["ChangedBlocks"] if name == "ebs" else page["listing"]
                for page in pages
            ]
            (pinned,) = {(page["since"], page["until"]) for page in pages}
            return *pinned, [entry for part in lists for entry in part]

    assert asyncio.run(over_http()) == expected


def test_the_log_itself_has_edges_to_be_exact_at() -> None:
    """One record holds everything: only the commands can make the answer exact."""
    mine: Volume = volume("v", SIZE, block_size=BLOCK)
    log = Log([mine])
    writes = [
        TrackingCommand(
            volume="v",
            generation=mine.generation,
            host="h",
            session="s",
            sequence=n,
            kind=CommandKind.WRITES,
            extents=ExtentColumns.of([Extent(n * BLOCK, 1)]),
            first_at_us=0,
            last_at_us=0,
        )
        for n in range(10)
    ]
    log.publish(writes)
    log.flush(10)
    assert list(changed_blocks("v", AtPosition(2), AtPosition(6), log.ports(), 0).changed) == [
        3,
        4,
        5,
        6,
    ]


HISTORY = History(cluster=None, topic=None, epoch=1, id=volume().generation)
PUBLISHED = st.lists(
    st.tuples(
        st.sampled_from(["v", "v", "v", "w"]),
        st.sampled_from([True, True, True, False]),
        st.sampled_from([0, 1, 1, 2, 3, -4]),
        st.sampled_from([0, 1, 2, 5, 9, -3, -7]),
        st.integers(0, 3),
    ),
    min_size=2,
    max_size=14,
)
"""Commands: the volume, whether it writes a block, and milliseconds: since the one before was
appended, from its first write to its appending, and from its first write to its last. Times go back
where two brokers' clocks differ."""


@settings(max_examples=600, deadline=None)
@given(
    PUBLISHED,
    st.lists(st.integers(1, 14), max_size=3),
    st.lists(st.integers(0, 40), min_size=2, max_size=2).map(sorted),
    st.randoms(use_true_random=False),
)
def test_publication_delays_never_change_an_answer(
    published: list[tuple[str, bool, int, int, int]],
    flushes: list[int],
    times_ms: list[int],
    random: Random,
) -> None:
    """The delays are of ranges that begin and end anywhere, not only where records do."""
    now_ms, appended_ms, events = 10, list[int](), list[TrackingCommand | bytes]()
    for number, (name, writes, step_ms, delay_ms, span_ms) in enumerate(published):
        now_ms += step_ms
        appended_ms.append(max(now_ms, 0))
        first_us = (appended_ms[-1] - delay_ms) * 1000
        extents = [Extent(number * BLOCK, 1)] if writes else []
        kind = CommandKind.WRITES if writes else CommandKind.HEARTBEAT
        events.append(command_of(name, kind, extents, first_us, span_ms * 1000))
    turns = [(count, 0) for count in flushes]
    log = folded(events, turns, -1, [at_ms / 1000 for at_ms in appended_ms], HISTORY)
    since, until = (AtTime(at_ms * 1000) for at_ms in times_ms)

    def answer() -> Any:
        blocks = changed_blocks("v", since, until, log.ports(), 0)
        return blocks.since, blocks.until, set(blocks.changed), set(blocks.hosts)

    known = answer()
    cuts = [0, *(cut for cut in range(1, len(events)) if random.random() < 0.5), len(events)]
    parts = list[PublicationDelays]()
    for first, end in pairwise(cuts):
        delays = log.delays_of(first, end)
        wider = parts[-1].joined(delays) if parts and delays and random.random() < 0.3 else None
        parts = [*parts[:-1], wider] if wider else [*parts, *([delays] if delays else [])]
    log.put_delays([part for part in parts if random.random() < 0.9])
    partly_known = answer()
    log.put_delays([])
    assert known == partly_known == answer()
