"""docs/statuses.md lists every code and every reason, and no others."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from mirrorlog.domain.commands import RejectReason, StatusCode

PAGE = (Path(__file__).parents[3] / "docs" / "statuses.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("heading", "values"), [("Codes", StatusCode), ("Reasons of a `REJECTED`", RejectReason)]
)
def test_the_page_lists_all_values(heading: str, values: type[StrEnum]) -> None:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(value.value for value in values)
