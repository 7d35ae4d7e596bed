"""With which commands the log of a partition was compared, and this machine's table of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from notation import GENERATION
from rocksdict import Options, Rdict

from mirrorlog.cli.support.changelog import ComparedRange, NewestWatermark, table_range
from mirrorlog.codec.events import encode
from mirrorlog.domain.histories import History
from mirrorlog.errors import BadUse
from mirrorlog.streams.table.table_files import table_watermark
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key


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
    first, through, end = map(int, positions.split())  # of the commands, the log, the commands
    compared = ComparedRange(0, first, through, end)
    assert compared.is_empty is is_empty
    assert str(compared).startswith(f"partition 0: {text}")


def watermark(text: str) -> Watermark:
    """Return the watermark `EPOCH:THROUGH`."""
    epoch, through = text.split(":")
    history = History(cluster=None, topic=None, epoch=int(epoch), id=GENERATION)
    return Watermark(partition=1, through=int(through), at_us=1, history=history)


@pytest.mark.parametrize(
    ("held", "newest", "through", "note"),
    [
        ("1:9", "1:9", 9, ""),
        ("1:9", "1:7", 7, ""),  # the table may be ahead of the changelog
        ("1:4", "1:9", 4, "ends at 4, and was compared up to there"),
        ("1:-1", "1:9", -1, "ends at -1"),
        (None, "1:9", None, "no complete table"),
        ("1:4", "2:9", None, "of an earlier history"),
    ],
)
def test_a_table_is_compared_as_far_as_it_is_complete(
    held: str | None, newest: str, through: int | None, note: str
) -> None:
    of_changelog = NewestWatermark()
    of_changelog.take(watermark(newest))
    compared = table_range(None if held is None else watermark(held), of_changelog)
    assert compared.through == through
    assert (note in compared.note) if note else not compared.note


def test_a_table_says_through_where_it_is_complete(tmp_path: Path) -> None:
    for folder, rows in (("of 1", {watermark_key(1): encode(watermark("1:4"))}), ("empty", {})):
        table = Rdict(str(tmp_path / folder), options=Options(raw_mode=True))
        for key, value in rows.items():
            table[key] = value
        table.close()
    assert table_watermark(tmp_path / "of 1", 1) == watermark("1:4")
    assert table_watermark(tmp_path / "empty", 1) is None
    with pytest.raises(BadUse, match="can't be read"):
        table_watermark(tmp_path / "nothing", 1)
