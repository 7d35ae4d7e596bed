"""The commit record of a consistency group: which sealed journals count, all of them at once.

A journal that names a group counts only if the group's commit record names it. The record is
replaced in one step (JournalStore.write_commit), when all journals of the cycle are sealed. So
after a crash a site applies all of them, or none (docs/decisions/consistency-groups.md).

Format, version 1: a line of mirrorlog/adapters/sealed_json.py, with the fields of GroupCommit,
`format` and `version`. `journals` is an object: by volume, the id of the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final
from uuid import UUID

from mirrorlog.adapters.sealed_json import sealed_line
from mirrorlog.consumers.journal.journal_format import SealedJournal
from mirrorlog.consumers.journal.journal_store import JournalStore
from mirrorlog.domain.volumes import check_group_name, check_volume_name
from mirrorlog.errors import BadUse
from mirrorlog.json_text import parse_json

FORMAT: Final = "mirrorlog.group_commit"


@dataclass(frozen=True, slots=True)
class GroupCommit:
    """The journals of one cycle of a group. commit_id: a UUID, which their headers name.

    journals: by volume, the journal's id (a canonical UUID). Raise ValueError or BadUse for values
    that no record has.
    """

    group: str
    commit_id: str
    journals: Mapping[str, str]

    def __post_init__(self) -> None:
        check_group_name(self.group)
        for volume in self.journals:
            check_volume_name(volume)
        for text in (self.commit_id, *self.journals.values()):
            if str(UUID(text)) != text:
                raise ValueError(f"'{text}' isn't a UUID in canonical form")


def encode_commit(commit: GroupCommit) -> bytes:
    """Return the bytes of a commit record."""
    return sealed_line({**asdict(commit), "format": FORMAT, "version": 1})


def decode_commit(content: bytes) -> GroupCommit | None:
    """Return the commit record that these bytes hold; None unless each byte is as it was made."""
    try:
        fields = parse_json(content)
        commit = GroupCommit(fields["group"], fields["commit_id"], fields["journals"])
        return commit if encode_commit(commit) == content else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadUse):
        return None


def is_committed(journal: SealedJournal, store: JournalStore) -> bool:
    """Return whether a sealed journal counts: it is of no group, or its group has committed it.

    Raise DeviceFailed if the commit record can't be read.
    """
    header = journal.header
    if header.group is None:
        return True
    content = store.read_commit(header.group)
    commit = None if content is None else decode_commit(content)
    return (
        commit is not None
        and (commit.group, commit.commit_id) == (header.group, header.commit_id)
        and commit.journals.get(header.volume) == str(journal.journal_id)
    )
