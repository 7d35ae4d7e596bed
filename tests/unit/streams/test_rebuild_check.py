"""The log held against the commands: what differs is found and named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import command, message, record, volume

from mirrorlog.domain.bitmaps import BitMap64
from mirrorlog.streams.table.rebuild_check import RecordDigests, check_records
from mirrorlog.tracking_log.records import LogRecord

# commands as position=extents | records as span=blocks | differences as after..through missing/surplus
CASES = """
0=0+1 1=4096+1         | -1..1=0,1             |
0=0+1 1=4096+1         | -1..0=0 0..1=1        |
0=0+1 1=4096+1         | -1..0=0 -1..1=0,1     |
0=0+1 1=4096+1         | -1..1=0               | -1..1 1/
0=0+1 1=4096+1         | -1..1=0,1,9           | -1..1 /9
0=0+1 1=4096+1         | -1..0=0               | 0..1 1/
0=0+1 1=4096+1         | -1..0=0,1 0..1=1      | -1..0 /1
0=0+1 5=4096+1         | -1..0=0 0..7=1        |
5=0+1 6=4096+1         | -1..5=0,7 5..6=1      |
5=0+1 6=4096+1         | 5..6=1                | 4..5 0/
5=0+1 6=4096+1         | 4..6=0,1              |
0=0+1                  | -1..0=0 0..9=3        | 0..9 /3
0=0+1 1=4096+1         | -1..0=0 0..1=1 m-1..1=0,1 |
0=0+1 1=4096+1         | -1..0=0 0..1=1 m-1..1=0 | -1..1 1/
0=0+1 1=4096+1         | -1..1=0,1 m-1..1=0      | -1..1 1/
0=0+1 1=4096+1         | m-1..1=0,1              |
0=0+1 1=4096+1         | m-1..1/0of2=0 m-1..1/1of2=1,7 | -1..1 /7
0=0+1 1=4096+1         | m-1..1/0of2=0 -1..1=0,1 |
"""


def record_of(text: str) -> LogRecord:
    """`m-1..4=1,2` is a minute's."""
    span, blocks = text.lstrip("m").split("=")
    return replace(record(span, blocks.replace(",", " ")), tier=int(text.startswith("m")))


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_compare(case: str) -> None:
    given, log, expected = (part.strip() for part in case.split("|"))
    messages = [
        message(int(each.split("=")[0]), command(each.split("=")[1], sequence=-1))
        for each in given.split()
    ]
    records = [record_of(each) for each in log.split()]
    found = [
        f"{each.after}..{each.through} {','.join(map(str, each.missing))}/{','.join(map(str, each.surplus))}"
        for each in check_records(
            messages, {"v": volume()}, RecordDigests(records), "changelog", lambda: records
        )
    ]
    assert found == ([expected] if expected else [])


def test_parts_count_together_and_zeroed_blocks_too() -> None:
    messages = [message(0, command("0+4096 z4096+4096", sequence=-1))]
    parts = [record("-1..0/0of2", "0"), replace(record("-1..0/1of2", "1"), zeroed=BitMap64([1]))]
    assert (
        list(check_records(messages, {"v": volume()}, RecordDigests(parts), "table", lambda: parts))
        == []
    )
    alone = [replace(parts[0], parts=1, changed=BitMap64([0, 1]))]
    (difference,) = check_records(
        messages, {"v": volume()}, RecordDigests(alone), "table", lambda: alone
    )
    assert "volume v, table, second record (-1, 0]: 'zeroed' differs; missing blocks 1 (1)" in str(
        difference
    )
