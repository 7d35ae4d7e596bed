"""What an audit answers and refuses, on a broker in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from logs import Log
from notation import OTHER_GENERATION, command, recorded, volume

from mirrorlog.changed.points import parse_point
from mirrorlog.codec.events import encode
from mirrorlog.consumers.audit.ask import AuditAnswer, answer_question
from mirrorlog.consumers.audit.question import AskedBytes, AuditQuestion
from mirrorlog.consumers.audit.tally import AuditTally
from mirrorlog.domain.commands import (
    AcceptedBatch,
    CommandKind,
    CommandStatus,
    StatusCode,
    TrackingCommand,
)
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention, UnknownVolume
from mirrorlog.history.definition import RowKind

OF = volume()


def written(
    commands: Sequence[TrackingCommand | bytes],
    appended_s: Sequence[float] | None = None,
    of: Volume = OF,
) -> Log:
    """Return a log of these commands. appended_s: the broker's time of each."""
    log = Log([of])
    log.publish(commands, appended_s or list(range(len(commands))))
    return log


def ask(log: Log, since: str = "origin", until: str = "now", **more: object) -> AuditAnswer:
    points = {"since": parse_point(since, 0), "until": parse_point(until, 0)}
    question = AuditQuestion(volume="v", **(points | more))  # type: ignore[arg-type]
    return answer_question(question, log.ports(), 0.0)


def rows(answer: AuditAnswer) -> list[dict[str, object]]:
    return [row for batch in answer.batches() for row in batch.to_dicts()]


def positions(answer: AuditAnswer) -> list[object]:
    return [row["position"] for row in rows(answer)]


def time_of(seconds: int) -> str:
    return f"1970-01-01T00:00:{seconds:02}Z"


# since | until | positions; command N is appended at second N
RANGES = """
origin   | now      | 0 1 2 3 4 5
@1       | @3       | 2 3
@-1      | @0       | 0
barrier:b | now     | 3 4 5
t2       | t4       | 2 3 4
t9       | now      |
t2       | t2       | 2
origin   | t0       | 0
@5       | now      |
"""


@pytest.mark.parametrize("case", RANGES.strip().splitlines())
def test_points_mean_positions(case: str) -> None:
    since, until, expected = (part.strip() for part in case.split("|"))
    sent = [command(f"{number}+1", sequence=number) for number in range(6)]
    sent[2] = command(kind=CommandKind.BARRIER, note="b", sequence=2)
    points = [time_of(int(text[1:])) if text[0] == "t" else text for text in (since, until)]
    answer = ask(written(sent), *points)
    assert [str(position) for position in positions(answer)] == expected.split()


@pytest.mark.parametrize(
    "points", [("@3", "@2"), ("origin", "@6"), (time_of(3), time_of(2)), ("barrier:x", "now")]
)
def test_a_range_that_cant_be_is_refused(points: tuple[str, str]) -> None:
    with pytest.raises(BadUse):
        ask(written([command("0+1")] * 6), *points)


def test_an_unknown_volume_is_refused() -> None:
    with pytest.raises(UnknownVolume):
        answer_question(AuditQuestion(volume="w"), written([]).ports(), 0.0)


def test_a_time_before_the_volume_began_is_answered_from_there() -> None:
    of = volume(created_at_us=3_000_000, origin_position=1)
    answer = ask(written([command("0+1")] * 4, [1, 2, 3, 4], of), time_of(2))
    assert (answer.span.volume_began_us, positions(answer)) == (3_000_000, [2, 3])


def test_what_retention_took_is_missing_and_said() -> None:
    log = written([command(f"{number}+1") for number in range(6)])
    log.broker.trim(log.topics.commands, 0, 2)
    with pytest.raises(OutOfRetention, match="positions 0 to 1") as caught:
        ask(log)
    assert "--since @1" in caught.value.next
    assert positions(ask(log, "@1")) == [2, 3, 4, 5]
    answer = ask(log, partial=True)
    assert positions(answer) == [2, 3, 4, 5]
    assert [(gap.after, gap.through) for gap in answer.span.missing] == [(-1, 1)]
    assert answer.span.missing_positions == 2


@pytest.mark.parametrize(
    ("flushes", "counted"),
    [("1 1 2 2", (2, 2)), ("1 5", (1, 6)), ("6", (0, 6))],
)
def test_the_log_counts_what_retention_took(flushes: str, counted: tuple[int, int]) -> None:
    log = written([command(f"{number}+1", sequence=number) for number in range(6)])
    for count in flushes.split():
        log.flush(int(count))
    log.broker.trim(log.topics.commands, 0, 2)
    lost = ask(log, partial=True).writes_not_kept()
    assert lost is not None
    assert (lost.at_least, lost.at_most) == counted
    log.lose_records([0])
    assert ask(log, partial=True).writes_not_kept() is None


def test_nothing_is_kept_any_more() -> None:
    log = written([command("0+1")] * 3)
    log.broker.trim(log.topics.commands, 0, 3)
    with pytest.raises(OutOfRetention):
        ask(log)
    answer = ask(log, partial=True)
    assert (positions(answer), answer.span.missing_positions) == ([], 3)


def test_a_renewed_volume_keeps_its_rows_of_before() -> None:
    renewed = volume(
        generation=OTHER_GENERATION, origin_position=1, first_created_at_us=1, created_at_us=2
    )
    sent = [
        command("0+1"),
        command(kind=CommandKind.NEW_GENERATION, new_generation=OTHER_GENERATION),
        command("0+1", generation=OTHER_GENERATION),
    ]
    log = written(sent, of=renewed)
    assert positions(ask(log)) == [2]
    assert [(row["position"], row["generation"]) for row in rows(ask(log, "@-1"))] == [
        (0, OF.generation),
        (1, OF.generation),
        (2, OTHER_GENERATION),
    ]


# options | positions of the rows
CHOICES: list[tuple[dict[str, object], list[int]]] = [
    ({}, [0, 0, 1, 1, 3]),
    ({"blocks": "1"}, [0, 1]),
    ({"blocks": "0-0"}, [0]),
    ({"offset": 4095, "length": 1}, [0]),
    ({"offset": 4095, "length": 2}, [0, 0, 1]),
    ({"offset": 12288}, []),
    ({"byte_ranges": ()}, []),
    ({"byte_ranges": (AskedBytes(offset=4096, length=1),)}, [0, 1]),
    ({"byte_ranges": (AskedBytes(offset=0, length=1), AskedBytes(offset=9000, length=9))}, [0, 1]),
    ({"byte_ranges": (AskedBytes(offset=12288, length=9),)}, []),
    ({"hosts": frozenset(["i", "x"])}, [1, 1]),
    ({"kinds": frozenset([RowKind.HEARTBEAT])}, [2]),
    ({"kinds": frozenset([RowKind.ZERO, RowKind.SESSION_OPEN])}, [0, 3]),
]


@pytest.mark.parametrize(("options", "expected"), CHOICES)
def test_rows_are_chosen(options: dict[str, object], expected: list[int]) -> None:
    log = written(
        [
            command("0+4096 z4096+1"),
            command("4096+8192 0+0", host="i"),
            command(kind=CommandKind.HEARTBEAT),
            command(kind=CommandKind.SESSION_OPEN, session="t"),
        ]
    )
    assert positions(ask(log, **options)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": "256"},
        {"blocks": "2-1"},
        {"blocks": "a"},
        {"blocks": "1", "offset": 0},
        {"blocks": "1", "byte_ranges": ()},
        {"offset": 1 << 20},
        {"length": 0},
    ],
)
def test_bytes_that_the_volume_lacks_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadUse):
        ask(written([command("0+1")]), **options)


def status(position: int, code: StatusCode, at_us: int = 1) -> CommandStatus:
    return CommandStatus(
        partition=0, position=position, code=code, reason=None, text="", at_us=at_us, volume="v"
    )


def accepted(*answered: int, name: str = "v", at_us: int = 1) -> AcceptedBatch:
    numbers = np.array(answered, np.int64)
    return AcceptedBatch(
        partition=0,
        at_us=at_us,
        volume=name,
        host="h",
        session="s",
        positions=numbers,
        sequences=numbers,
    )


def test_rows_have_the_statuses_that_are_kept() -> None:
    log = written([command("0+1 1+1", sequence=number) for number in range(7)])
    answers = [
        accepted(3, 4, name="w"),
        accepted(2, 5),
        status(1, StatusCode.STALE_SESSION),
        status(4, StatusCode.REJECTED, at_us=2),
        status(4, StatusCode.ACCEPTED, at_us=2),
    ]
    for event in answers:
        log.broker.append(log.topics.status, 0, b"v", encode(event))
    log.broker.append(log.topics.status, 0, b"v", b"of a newer node")
    read = {row["position"]: row["status"] for row in rows(ask(log))}
    assert read == {
        0: None,
        1: "STALE_SESSION",
        2: "ACCEPTED",
        3: None,
        4: "REJECTED",
        5: "ACCEPTED",
        6: None,
    }


def test_a_recording_is_asked_for_by_its_own_times() -> None:
    of = replace(OF, recorded_since_us=3_000_000, created_at_us=50_000_000)
    sent = [
        recorded("9000000@0+1 3000000@1+1 5000000@2+1"),
        command("8+1", first_at_us=52_000_000, last_at_us=53_000_000),
        recorded("4000000@0+1", host="a name that says nothing"),
    ]
    log = written(sent, [51, 55, 56], of)
    answer = ask(log, time_of(3), time_of(5))
    assert [(row["offset"], row["first_at_us"], row["clock"]) for row in rows(answer)] == [
        (2, 5_000_000, "recording"),
        (0, 4_000_000, "recording"),
    ]
    assert answer.span.has_own_times
    assert positions(ask(log, time_of(53), time_of(54))) == [1]
    assert positions(ask(log, time_of(56))) == []
    assert positions(ask(log, time_of(1), time_of(3))) == [0]
    assert ask(log, time_of(1)).span.volume_began_us == 3_000_000


def test_the_tally_counts_what_changed() -> None:
    huge = (1 << 62) + 1
    log = written([command(f"0+{huge} {huge}+1 0+{huge}")], of=volume(size_bytes=(1 << 63) - 1))
    tally = AuditTally()
    for batch in ask(log).batches():
        tally.add(batch)
    assert (tally.rows, tally.changes, tally.change_bytes) == (3, 3, 2 * huge + 1)
    assert (tally.without_status, tally.first_position, tally.last_position) == (3, 0, 0)
    assert tally.first_appended_us == tally.last_appended_us == 0
