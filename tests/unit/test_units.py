"""Sizes and durations as people write them, and what is neither."""

from __future__ import annotations

import pytest

from mirrorlog.cli.commands.audit_prove import _number_of
from mirrorlog.errors import BadUse
from mirrorlog.units import parse_duration_s, parse_size

# text | bytes
SIZES = """
4096                  | 4096
4KiB                  | 4096
4kB                   | 4000
1.5GiB                | 1610612736
 64 M                 | 67108864
9223372036854775807   | 9223372036854775807
"""

HUGE = "9" * 5_000


@pytest.mark.parametrize("case", SIZES.strip("\n").splitlines())
def test_sizes(case: str) -> None:
    text, wanted = case.rsplit("|", 1)
    assert parse_size(text) == int(wanted)


@pytest.mark.parametrize("text", [HUGE, f"{HUGE}.5", f"{HUGE}GiB", "-1", "4 parsecs", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadUse):
        parse_size(text)


@pytest.mark.parametrize("text", ["-1", "4 parsecs", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadUse):
        parse_duration_s(text)


@pytest.mark.parametrize("text", [f"@{HUGE}", HUGE, "@-1", "now", "@\u0663"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadUse):
        _number_of(text)
