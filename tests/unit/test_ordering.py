"""The order of the tests (tests/ordering.py)."""

from __future__ import annotations

import pytest
from ordering import long_first


@pytest.mark.parametrize(
    ("count", "workers", "expected"),
    [
        (6, 1, "0 5 1 2 3 4"),
        (6, 2, "0 1 2 5 3 4"),
        (7, 3, "0 1 5 2 3 4 6"),
        (4, 6, "0 1 2 3"),
        (0, 2, ""),
    ],
)
def test_each_part_begins_with_its_share_of_the_long_tests(
    count: int, workers: int, expected: str
) -> None:
    ordered = long_first(range(count), lambda item: item % 5 == 0, workers)
    assert sorted(ordered) == list(range(count))
    assert ordered == [int(number) for number in expected.split()]
