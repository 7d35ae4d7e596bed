"""How a command continues its session, one line a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from notation import command, message, volume

from mirrorlog.domain.commands import CommandKind, StatusCode
from mirrorlog.streams.fold.flush_plan import FlushPlan, FlushRange, plan_flush
from mirrorlog.streams.fold.response import CommandResponse, check_command, read_command
from mirrorlog.streams.fold.session_order import session_order
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead

# sessions, as name:opened/last/closed/last_sequence | position session sequence kind | code missing
CASES = """
                              |  9 s  0 WRITES        | ACCEPTED 0
                              |  9 s  2 WRITES        | SEQUENCE_GAP 2
                              |  9 s -1 MARK_DIRTY    | ACCEPTED 0
s:1/5/-1/3                    |  9 s  4 WRITES        | ACCEPTED 0
s:1/5/-1/3                    |  9 s  3 WRITES        | DUPLICATE 0
s:1/5/-1/3                    |  9 s  0 WRITES        | DUPLICATE 0
s:1/5/-1/3                    |  9 s  6 WRITES        | SEQUENCE_GAP 2
s:1/5/-1/3                    |  5 s  3 WRITES        | ACCEPTED 0
s:1/5/-1/3                    |  4 s  9 WRITES        | ACCEPTED 0
s:1/5/7/3                     |  9 s  4 WRITES        | STALE_SESSION 0
s:1/5/7/3                     |  7 s  4 WRITES        | ACCEPTED 0
s:1/5/-1/3                    |  9 s -1 SESSION_CLOSE | ACCEPTED 0
s:1/5/-1/3                    |  9 s  4 SESSION_CLOSE | ACCEPTED 0
s:1/5/-1/3                    |  9 s  5 SESSION_CLOSE | SEQUENCE_GAP 1
s:1/5/-1/3 t:6/6/-1/0         |  9 s  4 WRITES        | STALE_SESSION 0
s:1/5/-1/3 t:6/6/-1/0         |  9 t  1 WRITES        | ACCEPTED 0
s:1/5/-1/3 t:6/6/-1/0         |  9 u  0 SESSION_OPEN  | ACCEPTED 0
"""


@pytest.mark.parametrize("case", CASES.strip("\n").splitlines())
def test_session_order(case: str) -> None:
    before, given, expected = (part.strip() for part in case.split("|"))
    sessions = {}
    for word in before.split():
        name, _, numbers = word.partition(":")
        opened, last, closed, sequence = (int(number) for number in numbers.split("/"))
        sessions[name] = SessionHead(
            name,
            "h",
            opened_position=opened,
            last_position=last,
            closed_position=closed,
            acknowledged_position=-1,
            last_sequence=sequence,
        )
    position, session, number, kind = given.split()
    order = session_order(
        sessions,
        command("", session=session, sequence=int(number), kind=CommandKind(kind)),
        int(position),
    )
    assert [order.code.value, str(order.missing)] == expected.split()
    assert bool(order.text) is (order.code is not StatusCode.ACCEPTED)


def flush(
    first: int, responses: Sequence[CommandResponse], heads: Mapping[str, VolumeHead] | None = None
) -> FlushPlan:
    flush_range = FlushRange(partition=0, first=first, last=first + len(responses) - 1)
    return plan_flush(flush_range, responses, (), heads or {}, now_us=99, record_max_bytes=900_000)


def test_a_gap_makes_the_whole_volume_dirty_through_a_command_of_its_own() -> None:
    responses = []
    for position, sequence in enumerate((0, 3)):
        event = message(position, command("0+1", sequence=sequence))
        responses.append(check_command(event, read_command(event), volume()))
    plan = flush(0, responses)
    assert [status.code.value for status in plan.statuses] == ["ACCEPTED", "SEQUENCE_GAP"]
    (mark,) = plan.mark_dirty
    assert (mark.kind, mark.sequence, next(iter(mark.extents)).length) == (
        CommandKind.MARK_DIRTY,
        -1,
        volume().size_bytes,
    )
    event = message(2, mark)
    responses = [check_command(event, read_command(event), volume())]
    follow = flush(2, responses, {plan.heads[0].volume: plan.heads[0]})
    assert len(follow.records[0].changed) == volume().blocks
    assert follow.mark_dirty == ()
    assert follow.heads[0].sessions == plan.heads[0].sessions


# A later session, as host:opened-last/closed, of a volume of which session s of host h was closed
# at position 7 and knew it | the code. The volume is shared where the case says so.
TAKEN_OVER = """
x:8-9/-1             | STALE_SESSION
x:8-9/10             | STALE_SESSION
x:8-8/10             | ACCEPTED        # x was refused the volume
x:1-9/-1             | ACCEPTED        # x was there first
x:8-9/-1 shared      | ACCEPTED
import:fio:8-9/-1    | ACCEPTED
"""


@pytest.mark.parametrize("case", TAKEN_OVER.strip().splitlines())
def test_a_host_from_which_the_volume_was_taken_over_is_flagged_for_ever(case: str) -> None:
    other, code = (word.strip() for word in case.split("#", maxsplit=1)[0].split("|"))
    other, _, shared = other.partition(" ")
    host, _, numbers = other.rpartition(":")
    span, _, closed = numbers.partition("/")
    opened, last = (int(number) for number in span.split("-"))
    own = SessionHead(
        "s", "h", opened_position=1, last_position=5, closed_position=7, last_sequence=3
    )
    later = SessionHead(
        "t", host, opened_position=opened, last_position=last, closed_position=int(closed)
    )
    event = command("", sequence=4, acknowledged_position=9)
    order = session_order({"s": own, "t": later}, event, 12, shared=bool(shared))
    assert order.code.value == code
    assert ("host 'x' has had the volume since position 8" in order.text) is (code != "ACCEPTED")


@pytest.mark.parametrize(
    ("knew", "expected"), [(None, "STALE_SESSION"), (6, "STALE_SESSION"), (7, "ACCEPTED")]
)
def test_a_session_that_knew_of_its_close_has_opened_the_volume_again(
    knew: int | None, expected: str
) -> None:
    sessions = {
        "s": SessionHead(
            "s",
            "h",
            opened_position=1,
            last_position=5,
            closed_position=7,
            acknowledged_position=5,
            last_sequence=3,
        )
    }
    event = command("", sequence=4, kind=CommandKind.SESSION_OPEN, acknowledged_position=knew)
    assert session_order(sessions, event, 9).code.value == expected
