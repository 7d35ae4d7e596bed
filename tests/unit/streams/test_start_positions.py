"""Where a partition's commands are read from. The node stops if some are gone (invariant 7)."""

from __future__ import annotations

import pytest
from notation import volume

from mirrorlog.errors import OutOfRetention
from mirrorlog.streams.faust_worker.start_positions import (
    PartitionBounds,
    plan_first_commits,
    plan_start_position,
)

# oldest kept, end, committed | what is committed before the first start, or why the node stops
FIRST_COMMITS = """
0  0  - | 0
5  9  - | 5
0  9  0 | nothing
5  9  5 | nothing
5  9  9 | nothing
5  9  4 | deleted before the node recorded them
0  3  4 | it was created again
"""


@pytest.mark.parametrize("case", FIRST_COMMITS.strip().splitlines())
def test_first_commits(case: str) -> None:
    given, expected = (part.strip() for part in case.split("|"))
    first, end, committed = given.split()
    bounds = PartitionBounds(int(first), int(end), None if committed == "-" else int(committed))
    if expected == "nothing" or expected.isdigit():
        assert plan_first_commits("t", {0: bounds}) == (
            {} if expected == "nothing" else {0: int(expected)}
        )
        return
    with pytest.raises(OutOfRetention, match=expected):
        plan_first_commits("t", {0: bounds})


# oldest kept, committed, log complete through | the volume's origin | the start position
START_POSITIONS = """
0  0 -1 | -1 | 0
0  5  4 | -1 | 5
0  5  8 | -1 | 5
0  5  2 | -1 | 3
2  5  1 | -1 | 2
3  5  1 | -1 | lost
3  5  1 |  2 | 3
3  3 -1 |  2 | 3
3  3 -1 |  1 | lost
"""


@pytest.mark.parametrize("case", START_POSITIONS.strip().splitlines())
def test_a_partition_starts_where_the_log_ends_if_that_is_below_the_committed_position(
    case: str,
) -> None:
    given, origin, expected = (part.strip() for part in case.split("|"))
    first, committed, through = (int(number) for number in given.split())
    volumes = [
        volume(origin_position=int(origin)),
        volume("other", origin_position=-1, partition=1),
    ]
    bounds = PartitionBounds(first, 9, committed)
    if expected == "lost":
        with pytest.raises(OutOfRetention, match="lost for the volumes v"):
            plan_start_position("t", 0, bounds, through, volumes)
    else:
        assert plan_start_position("t", 0, bounds, through, volumes) == int(expected)
