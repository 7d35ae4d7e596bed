"""Where a partition's commands are read from. The node stops if some are gone (invariant 7)."""

from __future__ import annotations

import pytest
from notation import volume

from mirrorlog.errors import OutOfRetention
from mirrorlog.streams.faust_worker.start_positions import (
    PartitionBounds,
    plan_start_position,
)

# kept from..end | committed | the log is complete through | the volume's origin | start, or why not
START_POSITIONS = """
first start
0..0 | - | -1 | -1 | 0
5..9 | - | -1 |  4 | 5
5..9 | - | -1 |  3 | lost for the volumes v
after a stop
0..9 | 5 |  4 | -1 | 5
5..9 | 9 |  8 | -1 | 9
0..9 | 5 |  8 | -1 | 5
the log has lost records
0..9 | 5 |  2 | -1 | 3
2..9 | 5 |  1 | -1 | 2
3..9 | 5 |  1 | -1 | lost for the volumes v
3..9 | 5 |  1 |  2 | 3
3..9 | 3 | -1 |  2 | 3
3..9 | 3 | -1 |  1 | lost for the volumes v
the group's position was deleted
0..9 | - |  4 | -1 | 5
5..9 | - |  8 | -1 | 9
5..9 | - |  2 | -1 | lost for the volumes v
moved ahead, also beyond the end
0..9 | 9 |  4 | -1 | 5
0..9 | 20 | 4 | -1 | 5
6..9 | 9 |  4 | -1 | lost for the volumes v
moved back, also below what is kept
0..9 | 0 |  8 | -1 | 0
5..9 | 0 |  8 | -1 | 5
5..9 | 0 |  4 | -1 | 5
the topic was created again
0..3 | 4 |  3 | -1 | the topic ends at position 3
0..3 | 1 |  8 | -1 | the topic ends at position 3
0..3 | - |  8 | -1 | the topic ends at position 3
"""


@pytest.mark.parametrize(
    "case", [line for line in START_POSITIONS.strip().splitlines() if "|" in line]
)
def test_no_position_of_the_group_makes_the_node_pass_over_commands_above_the_log(
    case: str,
) -> None:
    kept, committed, through, origin, expected = (part.strip() for part in case.split("|"))
    first, end = (int(number) for number in kept.split(".."))
    bounds = PartitionBounds(first, end, None if committed == "-" else int(committed))
    volumes = [
        volume(origin_position=int(origin)),
        volume("other", origin_position=-1, partition=1),
    ]
    if expected.isdigit():
        assert plan_start_position("t", 0, bounds, int(through), volumes) == int(expected)
        return
    with pytest.raises(OutOfRetention, match=expected):
        plan_start_position("t", 0, bounds, int(through), volumes)
