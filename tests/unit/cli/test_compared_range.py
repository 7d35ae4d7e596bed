"""With which commands the log of a partition was compared: FIRST THROUGH END."""

from __future__ import annotations

import pytest

from mirrorlog.cli.support.changelog import ComparedRange


@pytest.mark.parametrize(
    ("positions", "is_empty", "text"),
    [
        ("0 -1 0", False, "nothing can be compared"),  # an unused partition
        ("0 9 10", False, "positions 0 to 9 were compared"),
        ("0 9 12", False, "positions 0 to 9 were compared; 2 later positions aren't in the log"),
        ("0 -1 12", True, "nothing can be compared; 12 later positions aren't in the log yet"),
        ("7 9 10", False, "positions 7 to 9 were compared"),
        ("10 9 10", True, "nothing can be compared"),  # no command is kept any more
        ("10 7 12", True, "nothing can be compared; 2 later positions aren't in the log yet"),
    ],
)
def test_what_was_compared(positions: str, is_empty: bool, text: str) -> None:
    first, through, end = map(int, positions.split())
    compared = ComparedRange(0, first, through, end)
    assert compared.is_empty is is_empty
    assert str(compared).startswith(f"partition 0: {text}")
