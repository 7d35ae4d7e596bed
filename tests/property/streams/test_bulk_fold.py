"""Bulk fold and single checks plan the same: rows byte for byte, and a status for each command.

Where a record is split, its parts aren't compared byte for byte. A Roaring container may be a run
or an array if both have the same size, depending on how it was built. So a part may just fit or
just not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notation import GENERATION, OTHER_GENERATION, command, volume

from mirrorlog.codec.command_columns import decode_columns
from mirrorlog.codec.events import decode, encode
from mirrorlog.codec.status_batches import expand
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.commands import CommandKind, CommandStatus, TrackingCommand
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.bulk_fold import fold_in_bulk
from mirrorlog.streams.fold.flush_plan import FlushPlan, FlushRange, plan_flush
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.table.log_table import changelog_rows
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord

VOLUMES = {"v": volume("v"), "w": volume("w"), "elsewhere": volume("elsewhere", partition=1)}
NAMES = st.sampled_from(["v", "v", "w", "elsewhere", "nobody"])
TEXTS = st.sampled_from(
    [
        "0+4096",
        "5+4096 12288+1",
        "z0+8192 4096+1",
        "",
        "0+0",
        f"{volume().size_bytes - 1}+2",
        "4096+40960",
    ]
)
# Hosts mostly continue their sequence. Sometimes they skip or repeat one, or begin a new session.
TURNS = st.lists(
    st.tuples(
        NAMES,
        TEXTS,
        st.sampled_from([("h", "s"), ("h", "s"), ("h", "s2"), ("i", "t")]),
        st.sampled_from([1] * 12 + [0, 2, -5]),
        st.sampled_from(
            [CommandKind.WRITES] * 9
            + [
                CommandKind.BARRIER,
                CommandKind.SESSION_CLOSE,
                CommandKind.SESSION_OPEN,
                CommandKind.HEARTBEAT,
            ]
        ),
        st.sampled_from([GENERATION] * 12 + [OTHER_GENERATION]),
    ),
    min_size=1,
    max_size=14,
)


def events(turns: list[tuple[str, str, tuple[str, str], int, CommandKind, str]]) -> list[bytes]:
    sequences: dict[tuple[str, str], int] = {}
    values = []
    for name, text, (host, session), step, kind, generation in turns:
        sequence = sequences[name, session] = sequences.get((name, session), -1) + step
        event = command(
            text,
            name,
            host=host,
            session=session,
            sequence=sequence,
            kind=kind,
            generation=generation,
        )
        values.append(encode(event))
    return values


def plan(
    values: list[bytes], first: int, heads: Mapping[str, VolumeHead], in_bulk: bool, max_bytes: int
) -> FlushPlan:
    batch = EventBatch(
        "c", 0, list(range(first, first + len(values))), [b"k"] * len(values), values
    )
    columns = decode_columns(batch.values)
    single = {
        row: read_command(batch.message(row)) for row in np.flatnonzero(~columns.plain).tolist()
    }
    not_plain = {read.volume for read in single.values() if isinstance(read, TrackingCommand)}
    bulk_folds, taken = fold_in_bulk(
        columns, np.array(batch.positions), 0, VOLUMES, heads, not_plain
    )
    if not in_bulk:
        bulk_folds, taken = [], np.zeros(len(values), np.bool_)
    rows = [row for row in range(len(values)) if not taken[row]]
    responses = [respond(batch.message(row)) for row in rows]
    return plan_flush(
        FlushRange(partition=0, first=first, last=batch.positions[-1]),
        responses,
        bulk_folds,
        heads,
        now_us=99,
        record_max_bytes=max_bytes,
    )


def respond(message: Message):  # type: ignore[no-untyped-def]
    read = read_command(message)
    name = read.volume if isinstance(read, TrackingCommand) else ""
    return check_command(message, read, VOLUMES.get(name))


def statuses(plan: FlushPlan) -> list[CommandStatus]:
    every = [*plan.statuses, *(status for batch in plan.accepted for status in expand(batch))]
    return sorted(every, key=lambda status: status.position)


def rows(plan: FlushPlan) -> dict[bytes, object]:
    return dict(changelog_rows(plan))


def united(plan: FlushPlan) -> dict[object, object]:
    """Return each record with the blocks of all its parts, and all other rows as they are."""
    other_rows: dict[object, object] = {
        key: value for key, value in rows(plan).items() if key_kind(key) is not LogRecord
    }
    blocks: dict[object, tuple[BlockSet, BlockSet]] = {}
    for record in (
        decode(value or b"", LogRecord)
        for key, value in changelog_rows(plan)
        if key_kind(key) is LogRecord
    ):
        whole = encode(replace(record, part=0, parts=1, changed=BlockSet(), zeroed=BlockSet()))
        changed, zeroed = blocks.get(whole, (BlockSet(), BlockSet()))
        blocks[whole] = changed | record.changed, zeroed | record.zeroed
    return other_rows | {whole: tuple(map(list, sets)) for whole, sets in blocks.items()}


@given(TURNS, TURNS, st.sampled_from([900_000, 30]))
def test_bulk_folds_and_single_checks_plan_the_same(
    first: list, second: list, max_bytes: int
) -> None:  # type: ignore[type-arg]
    heads: dict[str, VolumeHead] = {}
    at = 0
    for turns in (first, second):
        values = events(turns)
        one, other = (plan(values, at, heads, in_bulk, max_bytes) for in_bulk in (True, False))
        assert united(one) == united(other)
        assert max_bytes == 30 or rows(one) == rows(other)
        assert statuses(one) == statuses(other)
        assert [encode(command) for command in one.mark_dirty] == [
            encode(command) for command in other.mark_dirty
        ]
        assert (one.quarantined, one.watermark) == (other.quarantined, other.watermark)
        heads |= {head.volume: head for head in one.heads}
        at += len(values)


def test_ordinary_commands_are_folded_in_bulk() -> None:
    values = [encode(command(f"{n * 8192}+4096", "v", sequence=n)) for n in range(20)]
    planned = plan(values, 0, {}, True, 900_000)
    assert (len(planned.packed), planned.records, planned.statuses) == (1, (), ())
    assert list(decode(encode(planned.packed[0]), LogRecord).changed) == [2 * n for n in range(20)]
    assert [status.sequence for status in statuses(planned)] == list(range(20))


@pytest.mark.parametrize(
    "sequences", ["0 1 3", "0 1 1", "0 2 3", "1 2 3", "0 -1 1", "2 1 0", "0 1 2"]
)
def test_a_sequence_that_does_not_simply_continue_is_checked(sequences: str) -> None:
    values = [
        encode(command(f"{n}+1", "v", sequence=int(number)))
        for n, number in enumerate(sequences.split())
    ]
    one, other = (plan(values, 0, {}, in_bulk, 900_000) for in_bulk in (True, False))
    assert statuses(one) == statuses(other)
    assert bool(one.packed) is (sequences == "0 1 2")


def test_very_many_commands_are_answered_by_events_that_a_topic_takes() -> None:
    values = [encode(command("0+1", "v", sequence=n)) for n in range(70_000)]
    planned = plan(values, 0, {}, True, 900_000)
    assert [status.sequence for status in statuses(planned)] == list(range(70_000))
    assert max(len(encode(batch)) for batch in planned.accepted) < 900_000
