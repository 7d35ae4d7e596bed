"""A head that leaves sessions out never says more than one that names them all (invariant 8)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from notation import GENERATION, command, message, volume

from mirrorlog.domain.commands import LEFT_OUT_SESSIONS, CommandKind
from mirrorlog.streams.fold import named_sessions as module
from mirrorlog.streams.fold.named_sessions import named_sessions
from mirrorlog.streams.fold.response import check_command
from mirrorlog.streams.fold.volume_fold import update_session
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead

NAMES = st.sampled_from("abcdefg")
KINDS = st.sampled_from(
    [CommandKind.SESSION_OPEN, CommandKind.WRITES, CommandKind.WRITES, CommandKind.SESSION_CLOSE]
)
KNOWN = st.integers(0, 30)  # a command knows a position so far below its own as acknowledged
BEATS = st.dictionaries(NAMES, st.integers(0, 40))
STEPS = st.lists(st.tuples(NAMES, KINDS, KNOWN, st.booleans()), max_size=25)


@pytest.fixture(autouse=True, scope="module")
def few() -> Iterator[None]:
    """Let two sessions be too many for a third."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_OPEN_SESSIONS", 2)
        patch.setattr(module, "FEW_SESSIONS", 1)
        yield


def head_of(sessions: dict[str, SessionHead]) -> VolumeHead:
    return VolumeHead("v", GENERATION, through=-1, sessions=tuple(sessions.values()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, BEATS, st.integers(0, 30))
def test_what_a_short_head_calls_settled_is_settled(
    steps: list[tuple[str, CommandKind, int, bool]], beats: dict[str, int], end: int
) -> None:
    full: dict[str, SessionHead] = {}
    short: dict[str, SessionHead] = {}
    read = VolumeLog()
    sequences: dict[str, int] = {}
    for position, (name, kind, below, ends_flush) in enumerate(steps):
        sequences[name] = sequences.get(name, -1) + 1
        given_command = command(
            kind=kind,
            session=name,
            host=name,
            sequence=sequences[name],
            acknowledged_position=max(position - 1 - below, 0) if position else None,
        )
        response = check_command(message(position, b""), given_command, volume())
        update_session(full, response)
        order = update_session(short, response)
        assert order.missing == 0
        if ends_flush:
            named = named_sessions(short, through=position, beats=beats).named
            short = {head.session: head for head in named}
            assert sum(head.is_open for head in named) <= 3
            read.add_head(head_of(short))
            assert read.head is not None
            if head_of(short).settled_after(end, {}) or read.head.settled_after(end, {}):
                assert head_of(full).settled_after(end, {})
            earliest = min(
                (head.opened_position for head in full.values() if head.is_open), default=position
            )
            assert earliest >= min(
                (head.opened_position for head in named if head.is_open), default=position
            )


def test_closing_the_sessions_that_were_left_out_settles_what_they_held_up() -> None:
    sessions = {
        name: SessionHead(name, name, opened_position=number, last_position=number)
        for number, name in enumerate("abc")
    }
    named, gone = named_sessions(sessions, through=9, beats={})
    assert [head.session for head in gone] == ["a"]
    short = {head.session: head for head in named}
    assert list(short) == ["b", "c", LEFT_OUT_SESSIONS]
    assert (short[LEFT_OUT_SESSIONS].opened_position, short[LEFT_OUT_SESSIONS].is_open) == (0, True)
    for position, name in enumerate([LEFT_OUT_SESSIONS, "b", "c"], start=10):
        assert not head_of(short).settled_after(5, {"b": 9, "c": 9, LEFT_OUT_SESSIONS: 99}) or (
            position > 10
        )
        close = command(kind=CommandKind.SESSION_CLOSE, session=name, sequence=-1)
        update_session(short, check_command(message(position, b""), close, volume()))
    assert head_of(short).settled_after(99, {})
    again, _ = named_sessions(
        short | {n: SessionHead(n, n, last_position=20) for n in "xyz"}, through=21, beats={}
    )
    assert VolumeHead("v", GENERATION, through=-1, sessions=again).has_left_out


def test_those_stay_that_were_heard_of_last() -> None:
    sessions = {
        name: SessionHead(name, name, opened_position=number, last_position=number)
        for number, name in enumerate("abcd")
    }
    named, _ = named_sessions(sessions, through=9, beats={"a": 8, "b": 2})
    assert [head.session for head in named] == ["a", "b", LEFT_OUT_SESSIONS]
