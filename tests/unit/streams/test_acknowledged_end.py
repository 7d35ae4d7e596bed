"""What a table keeps at once of what the changelog acknowledged."""

from __future__ import annotations

import pytest

from mirrorlog.codec.events import encode
from mirrorlog.errors import BadInput
from mirrorlog.streams.table.acknowledged_end import (
    AcknowledgedEnd,
    newly_acknowledged,
    rows_to_keep,
)
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import head_key, watermark_key

KEYS = {"h": head_key("v"), "i": head_key("w"), "W": watermark_key(0), "r": b"a record"}


def end(text: str) -> AcknowledgedEnd | None:
    """Read `POSITION/WATERMARK`; `-` is what isn't known."""
    if text == "-":
        return None
    position, watermark = text.split("/")
    return AcknowledgedEnd(
        position=int(position), watermark_position=None if watermark == "-" else int(watermark)
    )


# known | rows with their positions | the new end | the rows that are copied; nothing is kept: -
WRITES = """
-   | r5 h6 W7 | 7/7 | h W
-   | r5       | 5/- |
7/7 | r8       | 8/7 |
7/7 | r8 i9    | 9/7 | i
8/7 | h9 W10   | 10/10 | h W
9/7 | r8       | -   | -
9/7 | h9       | 9/7 | h
9/7 | h9 W9    | 9/- | h W
9/- | W10      | 10/10 | W
9/7 | h8 W10   | 10/10 | h W
"""


@pytest.mark.parametrize("case", WRITES.strip().splitlines())
def test_what_is_kept_of_rows(case: str) -> None:
    known, written, wanted_end, copied = (part.strip() for part in case.split("|"))
    rows = [(KEYS[word[0]], word.encode()) for word in written.split()]
    positions = [int(word[1:]) for word in written.split()]
    kept = newly_acknowledged(end(known), 0, rows, positions)
    if copied == "-":
        assert kept is None
        return
    assert kept is not None
    assert kept[0] == end(wanted_end)
    assert [key for key, _ in kept[1]] == [KEYS[name] for name in copied.split()]


@pytest.mark.parametrize("text", ["0/-", "7/5", "9000000000/9000000000"])
def test_the_stored_form_gives_the_same_back(text: str) -> None:
    wanted = end(text)
    assert wanted is not None
    assert AcknowledgedEnd.from_bytes(wanted.to_bytes()) == wanted


@pytest.mark.parametrize("stored", [b"", b"2 5 5", b"1 5", b"1 x 5", b"1 5 5 ", b"1 -5 5"])
def test_another_form_is_refused(stored: bytes) -> None:
    with pytest.raises(BadInput, match="version 1"):
        AcknowledgedEnd.from_bytes(stored)


def test_a_reset_keeps_newer_heads_and_the_latest_watermark() -> None:
    def mark(through: int) -> bytes:
        return encode(Watermark(partition=0, through=through, at_us=0))

    kept = rows_to_keep(
        0,
        {KEYS["h"]: b"1", KEYS["i"]: b"1", KEYS["W"]: mark(9)},
        {KEYS["h"]: b"2", KEYS["W"]: mark(4)},
        {KEYS["h"]: b"3"},
    )
    assert kept == {KEYS["h"]: b"3", KEYS["i"]: b"1", KEYS["W"]: mark(9)}
    assert rows_to_keep(0, {}, {}) == {}
