"""The states of a volume: the effect of every kind of command in every state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, OTHER_GENERATION, command, promotion, volume

from mirrorlog.domain.commands import CommandKind, RejectReason, TrackingCommand
from mirrorlog.domain.primary_marks import new_mark
from mirrorlog.domain.volume_states import TABLE, apply, grown_extents, transition
from mirrorlog.domain.volumes import EarlierSize, Volume, VolumeState

MIB = 1 << 20

# command | state behind it in ACTIVE | in RETIRED | in UNKNOWN; ! refused, ? flagged, * described
EVENTS = """
WRITES         | ACTIVE   | RETIRED? | UNKNOWN
MARK_DIRTY     | ACTIVE   | RETIRED? | UNKNOWN
RAW            | ACTIVE   | RETIRED? | UNKNOWN
SESSION_OPEN   | ACTIVE   | RETIRED? | UNKNOWN
SESSION_CLOSE  | ACTIVE   | RETIRED  | UNKNOWN
HEARTBEAT      | ACTIVE   | RETIRED  | UNKNOWN
BARRIER        | ACTIVE   | RETIRED  | UNKNOWN
RESIZE         | ACTIVE*  | RETIRED! | UNKNOWN!
RETIRE         | RETIRED* | RETIRED  | UNKNOWN!
NEW_GENERATION | ACTIVE*  | RETIRED! | UNKNOWN!
PROMOTE        | ACTIVE*  | RETIRED! | UNKNOWN!
UNKNOWN        | ACTIVE!  | RETIRED! | UNKNOWN!
"""
ROWS = [[word.strip() for word in line.split("|")] for line in EVENTS.strip().splitlines()]
CASES = [
    (state, row[0], expected)
    for row in ROWS
    for state, expected in zip(("ACTIVE", "RETIRED", "UNKNOWN"), row[1:], strict=True)
]


def command_of(kind: CommandKind, **more: object) -> TrackingCommand:
    if kind is CommandKind.PROMOTE:
        return promotion(**more)
    content: dict[str, object] = {"size_bytes": 2 * MIB} if kind is CommandKind.RESIZE else {}
    content |= {"new_generation": OTHER_GENERATION} if kind is CommandKind.NEW_GENERATION else {}
    return command("", kind=kind, **(content | more))


def test_the_cases_are_complete() -> None:
    pairs = {(state.value, kind.value) for state in VolumeState for kind in CommandKind}
    assert {(state, kind) for state, kind, _ in CASES} == pairs
    assert {(state.value, kind.value) for state, row in TABLE.items() for kind in row} == pairs


@pytest.mark.parametrize(("state", "kind", "expected"), CASES)
def test_every_kind_in_every_state(state: str, kind: str, expected: str) -> None:
    before = volume(state=VolumeState(state), described_position=3)
    result = transition(before, command_of(CommandKind(kind)), 7)
    assert result.volume.state.value == expected.rstrip("!?*")
    assert (result.refusal is not None) is expected.endswith("!")
    assert bool(result.remark) is expected.endswith("?")
    assert result.volume == (before if not expected.endswith("*") else result.volume)
    assert result.volume.described_position == (7 if expected.endswith("*") else 3)


def test_a_resize_grows_and_keeps_the_earlier_size() -> None:
    before = volume(size_bytes=MIB)
    grown = apply(before, command_of(CommandKind.RESIZE), 7)
    assert grown == replace(
        before,
        size_bytes=2 * MIB,
        described_position=7,
        earlier_sizes=(EarlierSize(before_position=7, size_bytes=MIB),),
    )
    again = apply(grown, command_of(CommandKind.RESIZE, size_bytes=3 * MIB), 9)
    assert [again.size_at(position) for position in (6, 7, 8, 9, 99)] == [
        MIB,
        2 * MIB,
        2 * MIB,
        3 * MIB,
        3 * MIB,
    ]
    assert [again.as_of(position).size_bytes for position in (6, 8, 9)] == [MIB, 2 * MIB, 3 * MIB]


# commands as position:change, which are then replayed from each of them on
HISTORIES = ["7:2", "7:2 9:3", "7:2 9:g", "7:g 9:G", "7:2 9:r", "7:g 9:3 11:r"]


@pytest.mark.parametrize("history", HISTORIES)
def test_a_replay_changes_nothing_and_gives_the_same_answers(history: str) -> None:
    events = [_event(word) for word in history.split()]
    described, first = volume(size_bytes=MIB), []
    for position, event in events:
        result = transition(described, event, position)
        first.append((result.remark, result.refusal, grown_extents(result.volume, event, position)))
        described = result.volume
    for start in range(len(events)):
        for number, (position, event) in list(enumerate(events))[start:]:
            result = transition(described, event, position)
            assert result.volume == described, f"{position} undid a change"
            assert (
                result.remark,
                result.refusal,
                grown_extents(described, event, position),
            ) == first[number]


def _event(word: str) -> tuple[int, TrackingCommand]:
    position, change = word.split(":")
    generations = {"g": OTHER_GENERATION, "G": OTHER_GENERATION.replace("2", "3")}
    if change in generations:
        return int(position), command_of(
            CommandKind.NEW_GENERATION, new_generation=generations[change]
        )
    if change == "r":
        return int(position), command_of(CommandKind.RETIRE)
    return int(position), command_of(CommandKind.RESIZE, size_bytes=int(change) * MIB)


def test_a_volume_whose_generation_is_renewed_stays_the_same_volume() -> None:
    """Marks of primaries tell volumes of one name apart by the time of their creation."""
    before = volume(created_at_us=5)
    mark = new_mark(before, None, GENERATION)
    once = apply(before, command_of(CommandKind.NEW_GENERATION, last_at_us=99), 7)
    command = command_of(
        CommandKind.NEW_GENERATION,
        new_generation=OTHER_GENERATION.replace("2", "3"),
        last_at_us=199,
    )
    twice = apply(once, command, 9)
    assert (once.created_at_us, twice.created_at_us) == (99, 199)
    assert mark.is_of(once) and mark.is_of(twice)
    assert not mark.is_of(volume(created_at_us=99))


def test_a_new_generation_begins_behind_its_command() -> None:
    before = volume(size_bytes=MIB)
    renewed = apply(before, command_of(CommandKind.NEW_GENERATION, last_at_us=99), 7)
    assert (renewed.generation, renewed.origin_position, renewed.initially_zeroed) == (
        OTHER_GENERATION,
        7,
        False,
    )
    assert (renewed.created_at_us, renewed.size_bytes, renewed.state) == (
        99,
        MIB,
        VolumeState.ACTIVE,
    )
    assert apply(renewed, command_of(CommandKind.NEW_GENERATION), 9) == renewed


# requested size, the grown region as the sender knew it | result for a volume of 1 MiB
SIZES = """
2097152 1048576+1048576 | 2097152
2097152                 | 2097152
1048576                 | 1048576 already
524288                  | SHRINKING
524288  0+4096          | SHRINKING
524288  262144+262144   | 1048576 already
0                       | MALFORMED_COMMAND
-4096                   | MALFORMED_COMMAND
1125899906842624        | 1125899906842624
1125899906842625        | MALFORMED_COMMAND
9223372036854775807     | MALFORMED_COMMAND
"""


@pytest.mark.parametrize("case", SIZES.strip().splitlines())
def test_sizes(case: str) -> None:
    (size, *extents), expected = (part.split() for part in case.split("|"))
    event = command(" ".join(extents), kind=CommandKind.RESIZE, size_bytes=int(size))
    result = transition(volume(size_bytes=MIB), event, 7)
    if result.refusal is not None:
        assert [result.refusal.reason.value] == expected
        assert result.refusal.text.rstrip().endswith(".")
        assert result.volume.size_bytes == MIB
        return
    assert [str(result.volume.size_bytes), *(["already"] if result.remark else [])] == expected


@pytest.mark.parametrize("generation", [None, "", "x", OTHER_GENERATION.upper().replace("2", "A")])
def test_a_generation_that_is_no_uuid_is_refused(generation: str | None) -> None:
    result = transition(
        volume(), command_of(CommandKind.NEW_GENERATION, new_generation=generation), 7
    )
    assert result.refusal is not None
    assert result.refusal.reason is RejectReason.MALFORMED_COMMAND
    assert result.volume.generation == GENERATION


def test_a_retired_volume_was_active_for_earlier_commands() -> None:
    retired: Volume = apply(volume(), command_of(CommandKind.RETIRE), 7)
    assert transition(retired, command_of(CommandKind.WRITES), 6).remark == ""
    assert "position 7" in transition(retired, command_of(CommandKind.WRITES), 8).remark
