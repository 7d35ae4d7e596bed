"""BatchFolder: no command is passed over between two batches, or inside one (invariant 7)."""

from __future__ import annotations

import asyncio

import pytest

from mirrorlog.errors import OutOfRetention
from mirrorlog.streams.fold.commit_gate import CommitGate
from mirrorlog.streams.fold.fold_batch import BatchFolder

# committed | positions of a batch | asked about, as first..end | what is answered
FOLLOW = """
5 | 5 6 7     |      |
5 | 3 4 5     |      |
5 | 7 8       | 5..7 |
5 | 7 8       | 5..7 | were deleted
5 | 5 6 9     | 7..9 | were passed over
"""


@pytest.mark.parametrize("case", FOLLOW.strip().splitlines())
def test_a_jump_is_asked_about_before_anything_is_folded(case: str) -> None:
    committed, positions, asked, answer = (part.strip() for part in case.split("|"))
    questions = []

    def missed(partition: int, first: int, end: int) -> str | None:
        questions.append(f"{first}..{end}")
        return answer or None

    gate = CommitGate("t")
    gate.assign(0, int(committed))
    node = BatchFolder(None, gate, None, None, missed, None, 0, None)  # type: ignore[arg-type]
    check = node._check_follow(0, [int(each) for each in positions.split()])
    if answer:
        with pytest.raises(OutOfRetention, match=answer):
            asyncio.run(check)
    else:
        asyncio.run(check)
    assert questions == ([asked] if asked else [])
