"""Commands decoded together equal commands decoded one by one; others are marked, not decoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notation import GENERATION

from mirrorlog.codec.command_columns import CommandColumns, decode_columns
from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.commands import (
    CommandKind,
    ForkOutcomes,
    RawCommand,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.extents import Extent, ExtentColumns, ExtentKind
from mirrorlog.errors import BadInput

LONG = st.integers(-(2**63), 2**63 - 1)
NAME = st.one_of(st.sampled_from(["", "v", "wé"]), st.text(max_size=80))
EXTENT = st.builds(
    Extent, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from(ExtentKind)
)
PLAIN = st.builds(
    TrackingCommand,
    volume=NAME,
    generation=st.just(GENERATION),
    host=NAME,
    session=NAME,
    sequence=LONG,
    kind=st.just(CommandKind.WRITES),
    extents=st.lists(EXTENT, max_size=5).map(ExtentColumns.of),
    first_at_us=LONG,
    last_at_us=LONG,
    acknowledged_position=st.none() | st.integers(0, 2**63 - 1),
)
ODD = st.tuples(
    PLAIN,
    st.sampled_from(
        [{"kind": k} for k in CommandKind if k not in ("WRITES", "PROMOTE")]
        + [
            {"forks": (ForkOutcomes("a"),)},
            {"note": ""},
            {"note": "x"},
            {"raw": (RawCommand(WireProtocol.NBD, b"12"),)},
            {"new_generation": "g"},
        ]
    ),
).map(lambda pair: replace(pair[0], **pair[1]))


QUIET = (CommandKind.SESSION_OPEN, CommandKind.HEARTBEAT)


def same(columns: CommandColumns, row: int, command: TrackingCommand) -> bool:
    extents = columns.extents_of(np.array([row]))
    sender = columns.senders[int(columns.sender[row])]
    return (
        (sender.volume, sender.generation, sender.host, sender.session)
        == (command.volume, command.generation, command.host, command.session)
        and list(extents) == list(command.extents)
        and all(
            int(column[row])
            == (getattr(command, name) if getattr(command, name) is not None else -1)
            for name, column in columns.numbers.items()
            if name != "kind"
        )
    )


@given(st.lists(PLAIN | ODD, max_size=12), st.data())
def test_a_plain_command_decodes_as_events_decode_does(
    commands: list[TrackingCommand], data: st.DataObject
) -> None:
    large = data.draw(st.sampled_from([0, 0, 400, 2000]))  # these are read in windows
    commands = [
        *commands,
        *(
            replace(event, extents=many(large, seed))
            for seed, event in enumerate(commands)
            if large
        ),
    ]
    values: list[bytes | None] = [encode(event) for event in commands]
    for _ in range(data.draw(st.integers(0, 3))):
        values.insert(data.draw(st.integers(0, len(values))), data.draw(damaged(values)))
    columns = decode_columns(values, rows_at_once=data.draw(st.sampled_from([8192, 1, 3])))
    for row in np.flatnonzero(columns.plain).tolist():
        try:
            expected = decode(values[row] or b"", TrackingCommand)
        except BadInput as error:
            assert "extent kind" in error.what  # only whoever asks for the extents looks at it
            with pytest.raises(ValueError, match="kind"):
                columns.extents_of(np.array([row]))
            continue
        assert same(columns, row, expected)
        assert (expected.note, expected.raw, expected.new_generation, expected.forks) == (
            None,
            (),
            None,
            (),
        )
        assert expected.kind is CommandKind.WRITES or (
            expected.kind in QUIET and not len(expected.extents)
        )


def many(count: int, seed: int) -> ExtentColumns:
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, count).astype(np.uint8) if seed % 2 else None
    return ExtentColumns(
        random.integers(0, 2**63, count, np.uint64), np.full(count, 7, np.uint64), kinds
    )


def damaged(values: list[bytes | None]) -> st.SearchStrategy[bytes | None]:
    whole = [value for value in values if value]
    junk = st.none() | st.binary(max_size=40)
    if not whole:
        return junk
    cut = st.tuples(st.sampled_from(whole), st.integers(0, 400) | st.integers(0, 40_000)).map(
        lambda pair: pair[0][: pair[1]]
    )
    longer = st.tuples(st.sampled_from(whole), st.binary(min_size=1, max_size=3)).map(
        lambda pair: pair[0] + pair[1]
    )
    flipped = st.tuples(
        st.sampled_from(whole), st.integers(0, 400) | st.integers(0, 40_000), st.integers(1, 255)
    ).map(flip)
    return junk | cut | longer | flipped


def flip(given: tuple[bytes, int, int]) -> bytes:
    value, at, bits = bytearray(given[0]), given[1] % len(given[0]), given[2]
    value[at] ^= bits
    return bytes(value)


@given(st.lists(PLAIN, min_size=1, max_size=12), st.sampled_from([8192, 1, 3]))
def test_every_usual_command_is_plain(commands: list[TrackingCommand], rows_at_once: int) -> None:
    columns = decode_columns([encode(event) for event in commands], rows_at_once)
    assert (
        columns.plain.all()
        or any(event.sequence in (-(2**63), 2**63 - 1) for event in commands)
        or is_huge(commands)
    )
    together = [extent for event in commands for extent in event.extents]
    if columns.plain.all():
        assert list(columns.extents_of(np.arange(len(commands)))) == together


def is_huge(commands: list[TrackingCommand]) -> bool:
    """Return whether a command has a varint of ten bytes, which is left to the codec."""
    fields = ("sequence", "first_at_us", "last_at_us", "acknowledged_position")
    return any(
        not -(2**62) <= (getattr(event, f) or 0) < 2**62 for event in commands for f in fields
    )


def test_an_unknown_extent_kind_is_refused_by_both() -> None:
    value = encode(
        TrackingCommand(
            volume="v",
            generation=GENERATION,
            host="h",
            session="s",
            sequence=0,
            kind=CommandKind.WRITES,
            extents=ExtentColumns.of([Extent(7, 7, ExtentKind.DISCARD)]),
            first_at_us=1,
            last_at_us=2,
        )
    )
    wrong = value.replace(b"\x02\x02\x02\x04\x00", b"\x02\x09\x02\x04\x00")
    assert wrong != value
    columns = decode_columns([wrong])
    for read in (lambda: columns.extents_of(np.array([0])), lambda: decode(wrong, TrackingCommand)):
        try:
            read()
        except (ValueError, BadInput):
            continue
        raise AssertionError("taken")
