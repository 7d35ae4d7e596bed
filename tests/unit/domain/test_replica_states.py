"""What people see of a secondary follows from what its site published."""

from __future__ import annotations

import pytest
from notation import site_progress

from mirrorlog.domain.replica_states import (
    FIRST_COPY,
    NOTHING_KNOWN,
    ReplicaState,
    replica_state,
    state_of_report,
)
from mirrorlog.domain.site_progress import Rung, SiteState

# published | rung | applied | behind | reason | what people see
CASES = f"""
WAITING    | -         | - | - | no watermark yet          | INITIAL
WAITING    | changed   | 7 | - | another history           | SETTLING
SYNCING    | allocated | - | - | {NOTHING_KNOWN}           | INITIAL
SYNCING    | full      | - | - | {FIRST_COPY}, and goes on | INITIAL
SYNCING    | allocated | - | - | the log has a hole        | GAP
SYNCING    | full      | - | - | the mark is gone          | GAP
SYNCING    | changed   | 7 | 3 | -                         | RESYNCING
SYNCING    | allocated | 7 | - | -                         | RESYNCING
SETTLING   | allocated | 7 | 0 | the log has a hole        | SETTLING
CONSISTENT | changed   | 7 | 0 | -                         | CONSISTENT
CONSISTENT | changed   | 7 | 3 | -                         | BEHIND
CONSISTENT | -         | 7 | - | -                         | CONSISTENT
STOPPED    | changed   | 7 | - | an operator has paused it | STOPPED
DIVERGED   | changed   | 7 | - | a former primary          | DIVERGED
DETACHED   | changed   | 7 | - | it is the primary         | DETACHED
RETIRED    | changed   | 7 | - | the volume is retired     | DETACHED
UNKNOWN    | -         | - | - | -                         | UNKNOWN
"""
ROWS = [[word.strip() for word in line.split("|")] for line in CASES.strip().splitlines()]


def number(text: str) -> int | None:
    return None if text == "-" else int(text)


@pytest.mark.parametrize(("state", "rung", "applied", "behind", "reason", "seen"), ROWS)
def test_what_people_see(
    state: str, rung: str, applied: str, behind: str, reason: str, seen: str
) -> None:
    facts = {
        "applied_position": number(applied),
        "rung": None if rung == "-" else Rung(rung),
        "reason": None if reason == "-" else reason,
        "behind_blocks": number(behind),
    }
    assert replica_state(SiteState(state), **facts) is ReplicaState(seen)  # type: ignore[arg-type]
    report = site_progress(state=SiteState(state), **facts)
    assert state_of_report(report) is ReplicaState(seen)


def test_every_state_is_seen_and_every_published_one_is_a_case() -> None:
    assert {row[0] for row in ROWS} == {state.value for state in SiteState}
    assert {row[-1] for row in ROWS} == {state.value for state in ReplicaState}
