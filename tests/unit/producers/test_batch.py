"""How long a batch keeps its regions hot, and which bytes a batch of regions names."""

from __future__ import annotations

import pytest

from mirrorlog.domain.commands import ForkOutcome, ForkOutcomes
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.producers.batches.batch import (
    Batch,
    InFlightWrite,
    fork_columns,
    region_batches,
)
from mirrorlog.producers.batches.hot_regions import HotRegion, release


def test_a_region_waits_for_every_batch_with_a_write_in_it() -> None:
    region = HotRegion("a", 0)
    first, second = Batch(), Batch()
    for batch in (first, first, second):
        batch.add(InFlightWrite(ExtentKind.WRITE, 0, 1, 0, (region,)))
    assert region.unacknowledged == 2
    release(first.regions)
    assert region.unacknowledged == 1
    release(second.regions)
    assert region.unacknowledged == 0


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
    numbers, region_bytes, size_bytes, max_extents, expected = (
        part.strip() for part in case.split("|")
    )
    batches = region_batches(
        {int(n) for n in numbers.split()},
        region_bytes=int(region_bytes),
        size_bytes=int(size_bytes),
        max_extents=int(max_extents),
    )
    assert (
        " / ".join(" ".join(f"{e.offset}+{e.length}" for e in batch.extents) for batch in batches)
        == expected
    )


def test_equal_outcomes_need_not_be_one_object() -> None:
    one, same, other = {"x": ForkOutcome.HAS}, {"x": ForkOutcome.HAS}, {"y": ForkOutcome.OPEN}
    assert fork_columns([one, same, other, one]) == (
        ForkOutcomes("x", bytes([1, 1, 0, 1])),
        ForkOutcomes("y", bytes([0, 0, 2, 0])),
    )
    assert fork_columns([one, same]) == (ForkOutcomes("x"),)
    assert not fork_columns([])
