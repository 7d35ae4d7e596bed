"""The rows of a history name what the node records of each command, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from notation import GENERATION, volume

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import (
    CommandKind,
    ForkOutcomes,
    RawCommand,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.volumes import EarlierSize, Volume
from mirrorlog.history.command_rows import command_rows
from mirrorlog.history.definition import CHANGES, RowKind
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.response import check_command

SIZES = [EarlierSize(before_position=9, size_bytes=1 << 15)]
OF = volume(size_bytes=1 << 16, earlier_sizes=tuple(SIZES), described_position=9)
NEAR = st.integers(0, 1 << 17) | st.sampled_from([(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
EXTENT = st.builds(Extent, NEAR, NEAR, st.sampled_from(ExtentKind))
PLAIN = st.builds(
    TrackingCommand,
    volume=st.sampled_from(["v", "v", "v", "other"]),
    generation=st.just(GENERATION),
    host=st.sampled_from(["h", "i"]),
    session=st.sampled_from(["s", "t"]),
    sequence=st.integers(-2, 5),
    kind=st.just(CommandKind.WRITES),
    extents=st.lists(EXTENT, max_size=4).map(ExtentColumns.of),
    first_at_us=st.integers(-5, 5),
    last_at_us=st.integers(0, 2**63 - 1),
)
READ_AND_WRITE = (bytes([0x28, *[0] * 9]), bytes([0x2A, 0, 0, 0, 0, 8, 0, 0, 1, 0]), b"\x2a\0")
MORE = st.sampled_from(
    [
        *({"kind": kind} for kind in CommandKind if kind is not CommandKind.PROMOTE),
        *({"raw": (RawCommand(WireProtocol.SCSI, raw),)} for raw in READ_AND_WRITE),
        {"note": "x"},
        {"forks": (ForkOutcomes("a"),)},
    ]
)
COMMANDS = st.lists(
    PLAIN | st.tuples(PLAIN, MORE).map(lambda pair: replace(pair[0], **pair[1])), max_size=12
)


def changes(rows: list[dict[str, object]], position: int) -> list[tuple[object, ...]]:
    """Return (offset, length, is known to be a write, zero or discard) of the command's changes."""
    return [
        (row["offset"], row["length"], row["kind"])
        for row in rows
        if row["position"] == position and row["kind"] in CHANGES
    ]


def recorded(message: Message, command: TrackingCommand, of: Volume) -> list[tuple[object, ...]]:
    """Return the extents that the node folds of the command, with their kinds."""
    names = [RowKind.WRITE, RowKind.ZERO, RowKind.DISCARD]
    is_known = command.kind in (CommandKind.WRITES, CommandKind.RAW)
    return [
        (extent.offset, extent.length, names[extent.kind] if is_known else RowKind.DIRTY)
        for extent in check_command(message, command, of).extents
    ]


@given(COMMANDS, st.lists(st.integers(1, 3), min_size=12, max_size=12))
def test_the_changes_are_what_the_node_folds(
    commands: list[TrackingCommand], gaps: list[int]
) -> None:
    messages = [
        Message("c", 0, sum(gaps[: number + 1]), b"v", encode(command), 1000, True)
        for number, command in enumerate(commands)
    ]
    rows = command_rows(messages, OF, through=99).to_dicts()
    mine = {m.position: c for m, c in zip(messages, commands, strict=True) if c.volume == "v"}
    assert sorted({row["position"] for row in rows}) == sorted(mine)
    assert [(r["position"], r["extent"]) for r in rows] == sorted(
        (r["position"], r["extent"]) for r in rows
    )
    for message in messages:
        if message.position in mine:
            command = mine[message.position]
            assert changes(rows, message.position) == recorded(message, command, OF)
    for row in rows:
        command = mine[row["position"]]
        assert (row["host"], row["session"], row["note"]) == (
            command.host,
            command.session,
            command.note,
        )
        assert row["sequence"] == (command.sequence if command.sequence >= 0 else None)
        assert (row["first_at_us"], row["last_at_us"], row["appended_at_us"]) == (
            command.first_at_us,
            command.last_at_us,
            1000,
        )
        assert (row["offset"] is None) == (row["length"] is None)
