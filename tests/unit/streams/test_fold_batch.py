"""BatchFolder: no command is passed over between two batches, or inside one (invariant 7)."""

from __future__ import annotations

import asyncio

import pytest
from sources import FixedSource, NoHistories

from mirrorlog.errors import OutOfRetention
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder

# committed | positions of a batch | gap asked about, as first..end | the reason it has
GAPS = """
5 | 5 6 7     |      |
5 | 3 4 5     |      |
5 | 7 8       | 5..7 |
5 | 7 8       | 5..7 | were deleted
5 | 5 6 9     | 7..9 | were passed over
"""


@pytest.mark.parametrize("case", GAPS.strip().splitlines())
def test_a_gap_is_asked_about_before_anything_is_folded(case: str) -> None:
    committed, positions, asked, answer = (part.strip() for part in case.split("|"))
    source = FixedSource(answer or None)
    gate = CommitGate("t")
    gate.assign(0, position=int(committed))
    folder = BatchFolder(
        None,  # type: ignore[arg-type]
        gate,
        None,  # type: ignore[arg-type]
        source,
        clock=None,  # type: ignore[arg-type]
        record_max_bytes=0,
        compactor=None,  # type: ignore[arg-type]
        histories=NoHistories(),
    )
    check = folder._check_continues(0, [int(position) for position in positions.split()])
    if answer:
        with pytest.raises(OutOfRetention, match=answer):
            asyncio.run(check)
    else:
        asyncio.run(check)
    assert source.questions == ([asked] if asked else [])
