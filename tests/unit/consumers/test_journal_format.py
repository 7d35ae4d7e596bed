"""The bytes of a journal stay readable: those of version 1, as they were written once."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from mirrorlog.consumers.journal.journal_format import (
    EntriesPlace,
    JournalHeader,
    SealedJournal,
    StagedRange,
    encode_close,
    encode_entries,
    encode_header,
    entries_bytes,
    read_entries,
    read_journal,
)
from mirrorlog.errors import BadUse

ID = UUID("6f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10")
HEADER = JournalHeader(
    site="berlin",
    volume="vol1",
    generation="00000000-0000-0000-0000-000000000001",
    history_id=None,
    secondary_id="00000000-0000-0000-0000-000000000003",
    epoch=7,
    after=41,
    description=b"\x00\xff",
)
RANGES = [StagedRange(4096, 3, b"abc"), StagedRange(1 << 40, 512, None)]
GOLDEN = bytes.fromhex(
    "4d4c4a31010000006f1c1d363a0f4d5e9c550c5a7c8a9d100000000000000000f500000000000000"
    "9d24922e2a7d8b4c7b226166746572223a34312c226465736372697074696f6e223a224150383d22"
    "2c2265706f6368223a372c22666f726d6174223a226d6972726f726c6f672e736974655f6a6f7572"
    "6e616c222c2267656e65726174696f6e223a2230303030303030302d303030302d303030302d3030"
    "30302d303030303030303030303031222c22686973746f72795f6964223a6e756c6c2c227365636f"
    "6e646172795f6964223a2230303030303030302d303030302d303030302d303030302d3030303030"
    "30303030303033222c2273697465223a226265726c696e222c2276657273696f6e223a312c22766f"
    "6c756d65223a22766f6c31227d4d4c4a31020000006f1c1d363a0f4d5e9c550c5a7c8a9d10010000"
    "000000000033000000000000006116ee02ec49c4e601000000020000000010000000000000030000"
    "00000000000100000000000000000100000002000000000000000000006162634d4c4a3103000000"
    "6f1c1d363a0f4d5e9c550c5a7c8a9d1002000000000000000d00000000000000f4d5fcd97b31b36b"
    "63000000000000007374617465"
)


def journal() -> bytes:
    return (
        encode_header(ID, HEADER)
        + encode_entries(ID, RANGES, number=1, round_number=1)
        + encode_close(ID, number=2, through=99, state=b"state")
    )


def test_the_bytes_of_version_1_are_read_and_written() -> None:
    def read_at(offset: int, length: int) -> bytes:
        return GOLDEN[offset : offset + length]

    assert journal() == GOLDEN
    start = len(encode_header(ID, HEADER))
    place = EntriesPlace(start, entries_bytes(2, 3), 1, 1)
    assert read_journal(read_at) == SealedJournal(ID, HEADER, 99, b"state", (place,))
    assert read_entries(read_at, ID, place) == RANGES
    assert read_entries(read_at, UUID(int=1), place) is None
    assert read_entries(read_at, ID, place._replace(number=2)) is None
    assert read_entries(read_at, ID, place._replace(round_number=2)) is None


@pytest.mark.parametrize(
    "changes", [{"epoch": -1}, {"after": -2}, {"secondary_id": "7"}, {"history_id": "x"}]
)
def test_an_impossible_header_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(HEADER, **changes)  # type: ignore[arg-type]
    with pytest.raises(BadUse):
        replace(HEADER, volume="../x")


def test_a_journal_of_a_group_is_of_version_2_and_no_journal_of_an_older_release() -> None:
    header = replace(HEADER, group="db", commit_id=str(ID))
    content = encode_header(ID, header) + encode_close(ID, number=1, through=99, state=b"s")
    assert b'"version":2' in content
    assert read_journal(lambda offset, length: content[offset : offset + length]) == SealedJournal(
        ID, header, 99, b"s", ()
    )
    wrong = (
        {"group": "db"},
        {"commit_id": str(ID)},
        {"group": "db", "commit_id": "7"},
        {"group": "", "commit_id": str(ID)},
    )
    for changes in wrong:
        with pytest.raises((ValueError, BadUse)):
            replace(HEADER, **changes)  # type: ignore[arg-type]
