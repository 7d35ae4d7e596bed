"""VolumeLog: what a set of records proves, and what it doesn't (invariant 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, OTHER_GENERATION, record

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead
from mirrorlog.tracking_log.records import LogRecord

# records | after..through | hole, or none
COVERAGE = """
                              | -1..9 | none
-1..9                         | -1..9 | none
-1..4 4..9                    | -1..9 | none
4..9 -1..4                    | -1..9 | none
-1..4 2..9                    | -1..9 | none
-1..4 5..9                    | -1..9 | 4..5
3..9                          | -1..9 | -1..3
3..9                          |  3..9 | none
3..9                          |  5..9 | none
-1..4                         | -1..9 | none
-1..9/0of2                    | -1..9 | -1..9
-1..9/0of2 -1..9/1of2         | -1..9 | none
-1..4 4..9/1of2               | -1..9 | 4..9
-1..9/0of2 -1..4 4..9         | -1..9 | none
-1..4 6..7 7..9               |  4..5 | none
"""


@pytest.mark.parametrize("case", COVERAGE.strip("\n").splitlines())
def test_a_hole_is_reported(case: str) -> None:
    records, positions, expected = (part.strip() for part in case.split("|"))
    log = VolumeLog()
    for text in records.split():
        log.add(record(text, "1"))
    after, through = (int(position) for position in positions.split(".."))
    hole = log.hole(after=after, through=through)
    assert hole == (
        None if expected == "none" else Hole(*(int(position) for position in expected.split("..")))
    )


def test_a_missing_last_record_is_a_hole() -> None:
    log = VolumeLog()
    log.add(record("-1..4", "1"))
    log.add_head(VolumeHead("v", GENERATION, through=9))
    assert log.hole(after=-1, through=12) == Hole(4, 9)
    assert log.hole(after=-1, through=8) is None
    log.add(record("4..9", "2"))
    assert log.hole(after=-1, through=12) is None
    log.forget_through(9)
    assert log.hole(after=9, through=12) is None


def test_changed_is_the_union_of_the_overlapping_records() -> None:
    log = VolumeLog()
    for span, blocks in (("-1..4", "1 2"), ("4..9", "2 3"), ("9..12", "7")):
        log.add(record(span, blocks))
    assert log.changed(after=-1, through=12) == BlockSet([1, 2, 3, 7])
    assert log.changed(after=2, through=9) == BlockSet([1, 2, 3])
    assert log.changed(after=4, through=9) == BlockSet([2, 3])
    assert log.changed(after=12, through=20) == BlockSet()


# records (m: tier minute, h: tier hour) | after..through | blocks
TIERED = """
-1..4=1 4..9=2 m-1..9=1,2            | 4..9   | 2
-1..4=1 4..9=2 m-1..9=1,2            | -1..9  | 1 2
4..9=2 m-1..9=1,2                    | 4..12  | 2
4..9=2 m-1..9=1,2                    | 2..12  | 1 2
m-1..9=1,2 m9..20=3 h-1..20=1,2,3    | 9..20  | 3
9..12=3 m-1..9=1 m9..20=3,4          | 9..20  | 3 4
9..12/0of2=3 m9..20=3,4              | 9..12  | 3 4
3..8=1 5..7=9 m-1..9=1,2,9           | 4..8   | 1 9
"""


def tiered(text: str) -> LogRecord:
    span, blocks = text.lstrip("mh").split("=")
    return replace(
        record(span, blocks.replace(",", " ")), tier=" mh".index(text[0]) if text[0] in "mh" else 0
    )


@pytest.mark.parametrize("case", TIERED.strip().splitlines())
def test_changed_prefers_the_lowest_tier(case: str) -> None:
    records, positions, expected = (part.strip() for part in case.split("|"))
    log = VolumeLog()
    for text in records.split():
        log.add(tiered(text))
    after, through = (int(position) for position in positions.split(".."))
    assert list(log.changed(after=after, through=through)) == [
        int(block) for block in expected.split()
    ]


# records | split positions | ranges that stay
FORGOTTEN = """
-1..4=1 4..9=2 m-1..9=1,2   | -1    | -1..9
-1..4=1 4..9=2 m-1..9=1,2   | 9     | -1..9
-1..4=1 4..9=2 m-1..9=1,2   | 4     | -1..4 4..9 -1..9
-1..4=1 4..9=2 m-1..9=1     | -1    | 4..9 -1..9
-1..4=1 m-1..9/0of2=1       | -1    | -1..4 -1..9
"""


@pytest.mark.parametrize("case", FORGOTTEN.strip().splitlines())
def test_rolled_up_records_are_forgotten_unless_a_split_position_needs_them(case: str) -> None:
    records, split_positions, expected = (part.strip().split() for part in case.split("|"))
    log = VolumeLog()
    for text in records:
        log.add(tiered(text))
    log.forget_rolled_up([int(position) for position in split_positions])
    assert [f"{key.after}..{key.through}" for key in sorted(log._parts_by_id)] == expected


def test_duplicates_and_order_change_nothing() -> None:
    one, two = VolumeLog(), VolumeLog()
    records = [record("-1..4", "1"), record("4..9/0of2", "2"), record("4..9/1of2", "9")]
    for part in records:
        one.add(part)
    for part in [*reversed(records), *records]:
        two.add(part)
    assert one.changed(after=-1, through=9) == two.changed(after=-1, through=9)
    assert one.hole(after=-1, through=9) is two.hole(after=-1, through=9) is None


def test_forget_through_keeps_records_that_reach_further() -> None:
    log = VolumeLog()
    log.add(record("-1..4", "1"))
    log.add(record("3..9", "2"))
    log.forget_through(4)
    assert log.changed(after=-1, through=9) == BlockSet([2])


def test_only_records_of_one_generation_count() -> None:
    log = VolumeLog()
    log.add(record("-1..4", "1"))
    log.add(replace(record("4..9", "2"), generation=OTHER_GENERATION))
    log.add_head(VolumeHead("v", OTHER_GENERATION, through=9))
    assert [parts[0].through for parts in log.complete_records()] == [9]
    assert log.changed(after=-1, through=9) == BlockSet([2])
    assert log.hole(after=-1, through=9) == Hole(-1, 4)
    assert log.hole(after=4, through=9) is None
    assert log.changed(after=-1, through=9, generation=GENERATION) == BlockSet([1])
    missed = VolumeLog()
    missed.add(record("-1..9", "1"))
    assert missed.hole(after=-1, through=9, chain_end=9) is None
    assert missed.hole(after=-1, through=9, chain_end=9, generation=OTHER_GENERATION) == Hole(-1, 9)


# what a reader knows | a question's end and the watermark | whether the log is settled
SETTLED = """
no head    | 5 4 | True
no head    | 5 3 | False
replaced   | 5 9 | False
ahead      | 5 9 | False
behind     | 5 9 | False
caught up  | 5 9 | True
beat       | 5 9 | True
closed     | 5 9 | True
"""


@pytest.mark.parametrize("case", SETTLED.strip("\n").splitlines())
def test_a_log_is_settled_once_every_open_session_is_known_to_be(case: str) -> None:
    known, numbers, expected = (part.strip() for part in case.split("|"))
    end, watermark = map(int, numbers.split())
    session = SessionHead(
        "s",
        "h",
        last_position=3,
        acknowledged_position={"caught up": 5, "closed": -1}.get(known, 2),
        closed_position=7 if known == "closed" else -1,
    )
    log = VolumeLog()
    if known in ("behind", "caught up", "beat", "closed"):
        log.add_head(VolumeHead("v", GENERATION, through=9, sessions=(session,)))
    log.is_ahead, log.is_replaced = known == "ahead", known == "replaced"
    beats = {"s": 5} if known == "beat" else {}
    assert log.is_settled(end, watermark=watermark, beats=beats) is (expected == "True")
