"""Where a partition's commands are read from, if its history goes on (test_history_evidence)."""

from __future__ import annotations

import pytest

from mirrorlog.streams.partitions.start_positions import (
    PartitionBounds,
    plan_first_commits,
    plan_start_position,
)

# kept from..end | committed | the log is complete through | start
START_POSITIONS = """
first start
0..0 | - | -1 | 0
5..9 | - |  4 | 5
after a stop
0..9 | 5 |  4 | 5
5..9 | 9 |  8 | 9
0..9 | 5 |  8 | 5
the log has lost records
0..9 | 5 |  2 | 3
2..9 | 5 |  1 | 2
3..9 | 5 |  1 | 3
3..9 | 3 | -1 | 3
the group's position was deleted
0..9 | - |  4 | 5
5..9 | - |  8 | 9
moved ahead, also beyond the end
0..9 | 9 |  4 | 5
0..9 | 20 | 4 | 5
moved back, also below what is kept
0..9 | 0 |  8 | 0
5..9 | 0 |  8 | 5
5..9 | 0 |  4 | 5
"""


@pytest.mark.parametrize(
    "case", [line for line in START_POSITIONS.strip().splitlines() if "|" in line]
)
def test_no_position_of_the_group_makes_the_node_pass_over_commands_above_the_log(
    case: str,
) -> None:
    kept, committed, through, expected = (part.strip() for part in case.split("|"))
    first, end = (int(number) for number in kept.split(".."))
    bounds = PartitionBounds(first, end, None if committed == "-" else int(committed))
    assert plan_start_position(bounds, int(through)) == int(expected)


def test_only_a_partition_whose_log_nobody_has_begun_gets_a_first_commit() -> None:
    bounds = {
        0: PartitionBounds(3, 9, None),
        1: PartitionBounds(0, 9, 5),
        2: PartitionBounds(0, 9, None),
    }
    assert plan_first_commits(bounds, {0: 0, 1: 0, 2: 7}) == {0: 3}
