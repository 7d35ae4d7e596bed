"""Which regions may leave the activity log, and what must be done before."""

from __future__ import annotations

import pytest

from mirrorlog.producers.batches.hot_regions import (
    DrainFirst,
    FlushFirst,
    HotRegion,
    Leave,
    plan_room,
)

# Regions, the one used longest ago first, each by what keeps it hot: = nothing, w a write in
# flight, a an unacknowledged batch, f a missing flush | how many must leave | the plan: the regions
# that leave, or what comes first
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
