"""Coverage: what a set of records proves, and what it doesn't (invariant 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import GENERATION, record

from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.tracking_log.coverage import Hole, VolumeLog
from mirrorlog.tracking_log.heads import PositionTime, SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import (
    head_key,
    key_kind,
    position_time_key,
    record_key,
    watermark_key,
)
from mirrorlog.tracking_log.records import LogRecord

# records | after..through asked | hole, or none
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
def test_a_hole_is_never_passed_over(case: str) -> None:
    records, asked, expected = (part.strip() for part in case.split("|"))
    log = VolumeLog()
    for text in records.split():
        log.add(record(text, "1"))
    after, through = (int(each) for each in asked.split(".."))
    hole = log.hole(after, through)
    assert hole == (
        None if expected == "none" else Hole(*(int(each) for each in expected.split("..")))
    )


def test_a_last_record_that_is_missing_is_a_hole_too() -> None:
    log = VolumeLog()
    log.add(record("-1..4", "1"))
    log.add_head(VolumeHead("v", GENERATION, 9))
    assert log.hole(-1, 12) == Hole(4, 9)
    assert log.hole(-1, 8) is None
    log.add(record("4..9", "2"))
    assert log.hole(-1, 12) is None
    log.forget_through(9)
    assert log.hole(9, 12) is None


def test_changed_unites_whole_records_that_overlap() -> None:
    log = VolumeLog()
    for span, blocks in (("-1..4", "1 2"), ("4..9", "2 3"), ("9..12", "7")):
        log.add(record(span, blocks))
    assert log.changed(-1, 12) == BitMap64([1, 2, 3, 7])
    assert log.changed(2, 9) == BitMap64([1, 2, 3])
    assert log.changed(4, 9) == BitMap64([2, 3])
    assert log.changed(12, 20) == BitMap64()


# records (m: of a minute, h: of an hour) | after..through asked | blocks
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
def test_what_a_reader_needs_comes_from_the_lowest_tier_that_he_holds(case: str) -> None:
    records, asked, expected = (part.strip() for part in case.split("|"))
    log = VolumeLog()
    for text in records.split():
        log.add(tiered(text))
    after, through = (int(each) for each in asked.split(".."))
    assert list(log.changed(after, through)) == [int(each) for each in expected.split()]


# records | positions apart | spans that are left
FORGOTTEN = """
-1..4=1 4..9=2 m-1..9=1,2   | -1    | -1..9
-1..4=1 4..9=2 m-1..9=1,2   | 9     | -1..9
-1..4=1 4..9=2 m-1..9=1,2   | 4     | -1..4 4..9 -1..9
-1..4=1 4..9=2 m-1..9=1     | -1    | 4..9 -1..9
-1..4=1 m-1..9/0of2=1       | -1    | -1..4 -1..9
"""


@pytest.mark.parametrize("case", FORGOTTEN.strip().splitlines())
def test_a_reader_drops_parts_only_where_he_wouldnt_take_more_for_it(case: str) -> None:
    records, apart, expected = (part.strip().split() for part in case.split("|"))
    log = VolumeLog()
    for text in records:
        log.add(tiered(text))
    log.forget_parts([int(each) for each in apart])
    assert [f"{key.after}..{key.through}" for key in sorted(log._groups)] == expected


def test_duplicates_and_order_change_nothing() -> None:
    one, two = VolumeLog(), VolumeLog()
    records = [record("-1..4", "1"), record("4..9/0of2", "2"), record("4..9/1of2", "9")]
    for each in records:
        one.add(each)
    for each in [*reversed(records), *records]:
        two.add(each)
    assert one.changed(-1, 9) == two.changed(-1, 9)
    assert one.hole(-1, 9) is two.hole(-1, 9) is None


def test_forgetting_keeps_what_says_more() -> None:
    log = VolumeLog()
    log.add(record("-1..4", "1"))
    log.add(record("3..9", "2"))
    log.forget_through(4)
    assert log.changed(-1, 9) == BitMap64([2])


def test_keys_sort_by_volume_tier_and_position_and_tell_their_kind() -> None:
    keys = [record_key(record(span)) for span in ("-1..4", "4..9", "255..256", "256..70000")]
    assert keys == sorted(keys)
    assert len({*keys, record_key(record("-1..9")), record_key(record("-1..4/1of2"))}) == 6
    assert key_kind(keys[0]) is LogRecord
    assert key_kind(head_key("v")) is VolumeHead
    assert key_kind(watermark_key(3)) is Watermark
    assert key_kind(position_time_key(3, 5_000_000)) is PositionTime
    assert key_kind(b"\x02r") is key_kind(b"\x01?") is None


# sessions as last/closed/acknowledged, a heartbeat for all volumes as B<acknowledged> | end of the topic | settled
SETTLED = """
                 | 5 | yes
9/-1/5           | 5 | yes
9/-1/4           | 5 | no
9/-1/-1          | 5 | no
9/10/-1          | 5 | yes
9/8/-1           | 5 | no
9/8/8            | 9 | no
9/8/3            | 9 | yes
9/10/-1 12/-1/4  | 5 | no
9/10/-1 12/-1/7  | 5 | yes
9/-1/4 B5        | 5 | yes
9/-1/4 B4        | 5 | no
9/-1/4 9/-1/4 B5 | 5 | no
"""


@pytest.mark.parametrize("case", SETTLED.strip("\n").splitlines())
def test_settled_needs_every_open_session_to_have_closed_a_batch_after_the_end(case: str) -> None:
    sessions, end, expected = (part.strip() for part in case.split("|"))
    heads, beats = [], {}
    for number, text in enumerate(sessions.split()):
        if text.startswith("B"):
            beats["0"] = int(text[1:])
            continue
        last, closed, acknowledged = (int(each) for each in text.split("/"))
        heads.append(SessionHead(str(number), "h", 0, last, closed, acknowledged))
    assert VolumeHead("v", GENERATION, 0, tuple(heads)).settled_after(int(end), beats) is (
        expected == "yes"
    )


def test_merging_heads_is_a_union_that_forgets_nothing() -> None:
    early = VolumeHead(
        "v", GENERATION, 4, (SessionHead("a", "h", 3, 3, -1, 2), SessionHead("b", "h", 1, 1))
    )
    late = VolumeHead("v", GENERATION, 9, (SessionHead("a", "h", 8, 8, 9, 7),))
    for merged in (early.merged(late), late.merged(early), early.merged(late).merged(early)):
        assert merged.through == 9
        assert {each.session: each for each in merged.sessions} == {
            "a": SessionHead("a", "h", 3, 8, 9, 7),
            "b": SessionHead("b", "h", 1, 1),
        }
