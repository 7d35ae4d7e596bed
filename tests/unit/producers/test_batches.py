"""The host's decisions: which regions may leave the activity log, what is due, which bytes a region is."""

from __future__ import annotations

import pytest

from mirrorlog.domain.extents import ExtentKind
from mirrorlog.producers.batches.batch import Batch, InFlightWrite, region_batches
from mirrorlog.producers.batches.hot_regions import (
    DrainFirst,
    FlushFirst,
    HotRegion,
    Leave,
    plan_room,
    release,
)
from mirrorlog.producers.writes.timers import DueWork, Timers, due_work

# Regions, the oldest first, by what keeps them: = nothing, w a write in flight, a an unacknowledged batch, f a flush
# | how many must leave | the plan: which leave, or what comes first
ROOM = """
=    | 1 | leave 0
===  | 2 | leave 0 1
a=   | 1 | leave 1
w=   | 1 | leave 1
f=   | 1 | leave 1
a    | 1 | drain
f    | 1 | flush 0
af   | 1 | flush 1
ff=  | 2 | flush 0 1
w    | 1 | leave
wa   | 1 | drain
ww=  | 2 | leave 2
"""


@pytest.mark.parametrize("case", ROOM.strip("\n").splitlines())
def test_a_region_leaves_once_it_is_acknowledged_and_durable(case: str) -> None:
    kept_by, surplus, expected = (part.strip() for part in case.split("|"))
    regions = [
        HotRegion(
            str(n),
            0,
            in_flight=int(c == "w"),
            unacknowledged=int(c == "a"),
            last_write=7 + (c == "f"),
        )
        for n, c in enumerate(kept_by)
    ]
    match plan_room(regions, dict.fromkeys("0123", 7), int(surplus)):
        case Leave(leaving):
            plan = " ".join(["leave", *(region.volume for region in leaving)])
        case FlushFirst(volumes):
            plan = " ".join(["flush", *sorted(volumes)])
        case DrainFirst():
            plan = "drain"
    assert plan == expected


def test_a_region_waits_for_every_batch_that_holds_it() -> None:
    region = HotRegion("a", 0)
    first, second = Batch(), Batch()
    for batch in (first, first, second):
        batch.add(InFlightWrite(ExtentKind.WRITE, 0, 1, 0, [region]))
    assert region.unacknowledged == 2
    release(first.regions)
    assert region.unacknowledged == 1
    release(second.regions)
    assert region.unacknowledged == 0


# batches by when they were opened | heartbeats by when the last left | now | due; linger 1, heartbeat 10
DUE = """
a@0 b@5     | 0@0     | 0.9  |
a@0 b@5     | 0@0     | 1    | a
a@0 b@5     | 0@0     | 6    | a b
            | 0@0 1@4 | 10   | 0
a@9.5       | 0@0 1@4 | 14   | a 0 1
"""


@pytest.mark.parametrize("case", DUE.strip("\n").splitlines())
def test_what_is_due(case: str) -> None:
    batches, beats, now_s, expected = (part.strip() for part in case.split("|"))
    timers = Timers(
        {name: float(at) for name, at in (each.split("@") for each in batches.split())},
        {
            int(partition): float(at)
            for partition, at in (each.split("@") for each in beats.split())
        },
    )
    due = due_work(timers, float(now_s), linger_s=1, heartbeat_s=10)
    assert due == DueWork(
        [each for each in expected.split() if each.isalpha()],
        [int(each) for each in expected.split() if each.isdigit()],
    )


# regions | region size | volume's size | extents a command | commands: offset+length
REGIONS = """
           | 10 | 100 | 9 |
0          | 10 | 100 | 9 | 0+10
0 1 3      | 10 | 100 | 9 | 0+20 30+10
9          | 10 |  95 | 9 | 90+5
9 10 11    | 10 |  95 | 9 | 90+5
0 2 4      | 10 | 100 | 2 | 0+10 20+10 / 40+10
"""


@pytest.mark.parametrize("case", REGIONS.strip("\n").splitlines())
def test_regions_are_published_clipped_and_joined(case: str) -> None:
    numbers, region_bytes, size_bytes, most, expected = (part.strip() for part in case.split("|"))
    batches = region_batches(
        {int(n) for n in numbers.split()},
        region_bytes=int(region_bytes),
        size_bytes=int(size_bytes),
        max_extents=int(most),
    )
    assert (
        " / ".join(" ".join(f"{e.offset}+{e.length}" for e in batch.extents) for batch in batches)
        == expected
    )
