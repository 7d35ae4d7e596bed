"""A journal of a group counts if the group's commit record names it, and else it doesn't."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest

from mirrorlog.consumers.journal.group_commit import (
    GroupCommit,
    decode_commit,
    encode_commit,
    is_committed,
)
from mirrorlog.consumers.journal.journal_format import JournalHeader, SealedJournal
from mirrorlog.simulation.memory_journals import MemoryJournals

COMMIT, JOURNAL, OTHER = (f"00000000-0000-4000-8000-00000000000{digit}" for digit in "123")
RECORD = GroupCommit("db", COMMIT, {"data": JOURNAL, "wal": OTHER})
HEADER = JournalHeader(
    site="berlin",
    volume="data",
    generation=OTHER,
    history_id=None,
    secondary_id=OTHER,
    epoch=7,
    after=41,
    description=b"",
    group="db",
    commit_id=COMMIT,
)
SEALED = SealedJournal(UUID(JOURNAL), HEADER, 99, b"state", ())
GOLDEN = (
    b'{"commit_id":"00000000-0000-4000-8000-000000000001","crc32":209967935,'
    b'"format":"mirrorlog.group_commit","group":"db","journals":{'
    b'"data":"00000000-0000-4000-8000-000000000002",'
    b'"wal":"00000000-0000-4000-8000-000000000003"},"version":1}\n'
)


def test_the_bytes_of_a_record_are_read_and_written() -> None:
    assert encode_commit(RECORD) == GOLDEN
    assert decode_commit(GOLDEN) == RECORD


def damages(content: bytes) -> Iterator[bytes]:
    yield from (b"", b"null", b"[" * 60_000, content[:-1], content + b"\n", content[1:])
    for at in range(len(content)):
        yield content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_damaged_record_commits_nothing() -> None:
    for content in damages(GOLDEN):
        assert decode_commit(content) is None


@pytest.mark.parametrize(
    ("journal", "record", "expected"),
    [
        (SEALED, RECORD, True),
        (SEALED, None, False),
        (SEALED, replace(RECORD, commit_id=OTHER), False),
        (SEALED, replace(RECORD, journals={"wal": JOURNAL}), False),
        (SEALED, replace(RECORD, journals={"data": OTHER}), False),
        (replace(SEALED, journal_id=UUID(OTHER)), RECORD, False),
        (replace(SEALED, header=replace(HEADER, commit_id=OTHER)), RECORD, False),
        (replace(SEALED, header=replace(HEADER, group="other")), RECORD, False),
        (replace(SEALED, header=replace(HEADER, group=None, commit_id=None)), None, True),
    ],
)
def test_which_journals_count(
    journal: SealedJournal, record: GroupCommit | None, expected: bool
) -> None:
    store = MemoryJournals()
    if record is not None:
        store.write_commit("db", encode_commit(record))
    assert is_committed(journal, store) is expected


def test_a_record_of_another_group_under_this_name_commits_nothing() -> None:
    store = MemoryJournals()
    store.write_commit("db", encode_commit(replace(RECORD, group="other")))
    assert not is_committed(SEALED, store)
