"""The rebuild check: every record that differs from the commands is found and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from notation import command, message, record, volume

from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.ports.streams import Message
from mirrorlog.streams.table.rebuild_check import Difference, check_records
from mirrorlog.streams.table.record_digests import RecordDigests
from mirrorlog.tracking_log.records import LogRecord

# commands as position=extents | records as range=blocks | difference as range missing/surplus
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
    """Parse a record: `m-1..4=1,2` is a minute's record."""
    span, blocks = text.lstrip("m").split("=")
    return replace(record(span, blocks.replace(",", " ")), tier=int(text.startswith("m")))


def differences(
    messages: Sequence[Message], records: Sequence[LogRecord], where: str
) -> list[Difference]:
    digests = RecordDigests(records)
    return list(
        check_records(messages, {"v": volume()}, digests, where=where, reread=lambda: records)
    )


def blocks(of: BlockSet) -> str:
    return ",".join(map(str, of))


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_records_that_differ_from_the_commands_are_found(case: str) -> None:
    given, log, expected = (part.strip() for part in case.split("|"))
    messages = [
        message(int(position), command(extents, sequence=-1))
        for position, extents in (word.split("=") for word in given.split())
    ]
    shown = [
        f"{difference.after}..{difference.through} "
        f"{blocks(difference.missing)}/{blocks(difference.surplus)}"
        for difference in differences(
            messages, [record_of(text) for text in log.split()], "changelog"
        )
    ]
    assert shown == ([expected] if expected else [])


def test_commands_before_a_renewed_history_need_no_record() -> None:
    messages = [message(n, command(f"{n * 4096}+1", sequence=-1)) for n in range(4)]
    records = [record("1..2", "2")]
    renewed = volume(origin_position=1, epoch=2)

    def uncovered(epoch: int) -> list[int]:
        volumes = {"v": replace(renewed, epoch=epoch)}
        digests = RecordDigests(records)
        report = check_records(messages, volumes, digests, where="table", reread=lambda: records)
        return [difference.through for difference in report]

    assert uncovered(epoch=2) == [3]
    assert uncovered(epoch=1) == [0, 1, 3]


def test_parts_count_together_and_zeroed_blocks_too() -> None:
    messages = [message(0, command("0+4096 z4096+4096", sequence=-1))]
    parts = [record("-1..0/0of2", "0"), replace(record("-1..0/1of2", "1"), zeroed=BlockSet([1]))]
    assert differences(messages, parts, "table") == []
    alone = [replace(parts[0], parts=1, changed=BlockSet([0, 1]))]
    (difference,) = differences(messages, alone, "table")
    assert "volume v, table, second record (-1, 0]: 'zeroed' differs; missing blocks 1 (1)" in str(
        difference
    )
