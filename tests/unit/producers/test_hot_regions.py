"""Which regions may leave the activity log, and what must be done before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.producers.batches.hot_regions import (
    DrainFirst,
    FlushFirst,
    HotRegion,
    HotRegions,
    Leave,
    VolumeRegions,
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


def _regions(kept_by: str) -> list[HotRegion]:
    """Return a region of another volume for each letter of ROOM, with seven durable writes."""
    return [
        HotRegion(
            str(n),
            0,
            in_flight=int(c == "w"),
            unacknowledged=int(c == "a"),
            last_write=7 + (c == "f"),
        )
        for n, c in enumerate(kept_by)
    ]


@pytest.mark.parametrize("case", ROOM.strip("\n").splitlines())
def test_a_region_leaves_once_it_is_acknowledged_and_durable(case: str) -> None:
    kept_by, surplus, expected = (part.strip() for part in case.split("|"))
    match plan_room(_regions(kept_by), dict.fromkeys("0123", 7), int(surplus)):
        case Leave(leaving, soon):
            assert not soon
            plan = " ".join(["leave", *(region.volume for region in leaving)])
        case FlushFirst(volumes):
            plan = " ".join(["flush", *sorted(volumes)])
        case DrainFirst():
            plan = "drain"
    assert plan == expected


# As above | how many must leave, and how many more may | volumes whose flush is due soon, if it is
# worth it for two of them
SOON = """
==ff  | 1 0 | 2 3
==ff  | 0 2 | 2 3
==f   | 0 2 |
==af  | 0 2 |
==aff | 0 2 | 3 4
=wff  | 0 1 | 2 3
==fff | 0 0 | 2 3 4
==ff  | 0 0 |
"""


@pytest.mark.parametrize("case", SOON.strip("\n").splitlines())
def test_a_flush_is_due_before_a_write_waits_for_it(case: str) -> None:
    kept_by, numbers, expected = (part.strip() for part in case.split("|"))
    surplus, ahead = map(int, numbers.split())
    plan = plan_room(_regions(kept_by), dict.fromkeys("01234", 7), surplus, ahead, (), 2)
    assert isinstance(plan, Leave)
    assert " ".join(sorted(plan.flush_soon)) == expected


def test_more_regions_leave_than_must_only_if_they_can_leave_at_once() -> None:
    free = [HotRegion("a", number) for number in range(3)]
    kept = HotRegion("a", 3, unacknowledged=1)
    assert plan_room([free[0], kept, *free[1:]], {"a": 0}, 1, 1) == Leave(free[:2])
    assert plan_room([free[0], kept], {"a": 0}, 1, 5) == Leave(free[:1])
    assert plan_room([free[0], kept], {"a": 0}, 2, 5) == DrainFirst()


def test_room_is_counted_again_only_when_it_is_used_up() -> None:
    regions, hot = VolumeRegions("a"), HotRegions(limit=64)
    hot.volumes["a"] = regions
    assert not hot.has_room(1)  # nothing was counted yet
    assert hot.plan({}, 1, {}) == Leave(())
    begun = hot.begin(regions, range(63))
    assert (hot.has_room(1), hot.has_room(2)) == (True, False)
    hot.begin(regions, [0, 63])
    assert not hot.has_room(1)
    regions.durable = 1
    for region in begun:
        region.in_flight, region.last_write = 0, 1
    plan = hot.plan({"a": [1]}, 1, {"a": [2]})
    assert isinstance(plan, Leave)
    assert [region.number for region in plan.regions] == [3, 4, 5, 6, 7]  # one, and 64 // 16 ahead
    hot.leave(plan.regions)
    assert hot.has_room(5)
    hot.put_back(plan.regions[:1])
    assert not hot.has_room(5)
    regions.is_stuck = True  # its regions don't count, and leave no room
    hot.leave(plan.regions[:1])
    assert not hot.has_room(5)


def test_room_for_regions_that_are_wanted_is_made_only_at_once() -> None:
    regions, hot = VolumeRegions("a"), HotRegions(limit=32)
    hot.volumes["a"] = regions
    for region in hot.begin(regions, range(30)):
        region.in_flight, region.unacknowledged = 0, int(region.number > 9)
        region.last_write = regions.durable = 1
    plan = hot.plan({}, 1, {}, wanted=1)
    assert plan == Leave(())  # there is room for two
    plan = hot.plan({}, 1, {}, wanted=8)
    assert isinstance(plan, Leave)
    assert [region.number for region in plan.regions] == [*range(7)]
    plan = hot.plan({}, 1, {}, wanted=20)  # others would have to be acknowledged first
    assert isinstance(plan, Leave)
    assert [region.number for region in plan.regions] == [*range(10)]
    assert hot.plan({}, 13, {}, wanted=20) == DrainFirst()


def test_a_region_that_a_writer_is_on_its_way_to_leaves_last() -> None:
    regions, hot = VolumeRegions("a", durable=1), HotRegions(limit=32)
    hot.volumes["a"] = regions
    hot.add(regions, range(4))
    for region in hot.add(regions, range(4, 32)):
        region.unacknowledged = 1
    assert hot.plan({}, 0, {}, wanted=8) == Leave([])
    plan = hot.plan({}, 2, {})
    assert isinstance(plan, Leave)
    assert [region.number for region in plan.regions] == [0, 1]
    for number in (6, 7):
        regions.hot[number].unacknowledged, regions.hot[number].last_write = 0, 1
    plan = hot.plan({}, 3, {}, wanted=8)
    assert isinstance(plan, Leave)
    assert [region.number for region in plan.regions] == [6, 7, 0]
    hot.next_uses(8)  # it has not come
    plan = hot.plan({}, 3, {})
    assert isinstance(plan, Leave)
    assert [region.number for region in plan.regions] == [0, 1, 2, 3, 6]


ACTIONS = st.lists(
    st.tuples(st.sampled_from(("begin", "use", "leave", "put back", "stuck")), st.integers(0, 19)),
    max_size=60,
)


@given(ACTIONS)
def test_the_region_used_longest_ago_is_always_the_first_to_leave(
    actions: list[tuple[str, int]],
) -> None:
    volumes, hot = (VolumeRegions("a"), VolumeRegions("b")), HotRegions(limit=0)
    hot.volumes.update({volume.name: volume for volume in volumes})
    left: list[HotRegion] = []
    for action, number in actions:
        volume = volumes[number % 2]
        match action:
            case "begin":
                hot.add(volume, [number])
            case "use" if number in volume.hot:
                volume.hot[number].last_use = hot.next_use()
            case "leave" if number in volume.hot:
                left.append(volume.hot[number])
                hot.leave([volume.hot[number]])
            case "put back" if left and left[-1].number not in hot.volumes[left[-1].volume].hot:
                hot.put_back([left.pop()])
            case "stuck":
                volume.is_stuck = number > 17
        others = [region for one in volumes if not one.is_stuck for region in one.hot.values()]
        expected = sorted(others, key=lambda region: region.last_use)
        assert hot.plan({}, 1, {}) == Leave(expected)
