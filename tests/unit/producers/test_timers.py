"""When batches and heartbeats are due."""

from __future__ import annotations

import pytest

from mirrorlog.producers.writes.timers import DueWork, Timers, due_work

# volume@when its open batch started | partition@when its last heartbeat left | now | what is due
# with a linger time of 1 s and a heartbeat every 10 s
DUE = """
a@0 b@5     | 0@0     | 0.9  |
a@0 b@5     | 0@0     | 1    | a
a@0 b@5     | 0@0     | 6    | a b
            | 0@0 1@4 | 10   | 0
a@9.5       | 0@0 1@4 | 14   | a 0 1
"""


@pytest.mark.parametrize("case", DUE.strip("\n").splitlines())
def test_lingering_batches_and_old_heartbeats_are_due(case: str) -> None:
    batches, beats, now_s, expected = (part.strip() for part in case.split("|"))
    timers = Timers(
        {name: float(at) for name, at in (batch.split("@") for batch in batches.split())},
        {
            int(partition): float(at)
            for partition, at in (beat.split("@") for beat in beats.split())
        },
    )
    work = due_work(timers, float(now_s), linger_s=1, heartbeat_s=10)
    assert work == DueWork(
        [due for due in expected.split() if due.isalpha()],
        [int(due) for due in expected.split() if due.isdigit()],
    )
