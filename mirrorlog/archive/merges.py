"""Merges: the rows of many ranges in few files, so that a question for a byte opens few. Pure.

A merge is made of the files of rows of consecutive manifests of one chain. It changes none of
them: they and their manifests stay, and whoever doesn't know of merges misses nothing. Its files
hold the rows of one volume in the order of row_order (offset, position, extent), one file behind
the other. Its manifest is a line as that of a range (manifests.py), created under a name that
follows from where the merge begins: so of two archivers one wins, as with ranges. The merges of a
history are a chain, too: each begins where the one before ended, the first where the history does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from mirrorlog.archive.manifests import ArchivedFile, FileKind, decode_fields, encode_fields
from mirrorlog.domain.histories import History
from mirrorlog.errors import StateDamaged

FORMAT: Final = "mirrorlog-archive-merge"
VERSION: Final = 1
_NO_LIMIT: Final = 1 << 65
"""Above all offsets and lengths of 64 bits together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedFile(ArchivedFile):
    """One file of a merge. `day` is None: its rows are of any days.

    first_offset, last_offset: the lowest and the highest offset of its extents, in bytes; None if
        no row has an extent.
    """

    first_offset: int | None
    last_offset: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMerge:
    """The rows of the positions `(after, through]` of one partition in one history, merged.

    last_manifest_sha256: of the bytes of the last manifest whose rows are merged. A manifest names
        the digest of the one before, so this says which manifests they are.
    files: by volume, and of each volume in the order of their rows.
    written_by: the release that wrote it.
    """

    partition: int
    history: History
    after: int
    through: int
    last_manifest_sha256: str
    files: tuple[MergedFile, ...] = ()
    written_by: str = ""


def encode_merge(merge: RowMerge) -> bytes:
    """Return the bytes of a merge's manifest."""
    return encode_fields(FORMAT, VERSION, asdict(merge))


def decode_merge(content: bytes, where: str) -> RowMerge:
    """Return the merge in `content`. where, errors: as for decode_manifest."""
    return decode_fields(content, FORMAT, VERSION, _merge, where)


def _merge(fields: dict[str, Any]) -> RowMerge:
    files = tuple(
        MergedFile(**{**file, "kind": FileKind(file["kind"])}) for file in fields.pop("files")
    )
    history = History(**fields.pop("history"))
    return RowMerge(**fields, history=history, files=files)


def check_merges(merges: Sequence[RowMerge], *, after: int) -> None:
    """Raise StateDamaged unless each merge begins where the one before ended.

    merges: of one history, in the order of positions. after: where the history's chain begins.
    """
    for merge in merges:
        if merge.after != after:
            raise StateDamaged(
                f"a merge of the archive begins behind position {merge.after}, and the one before "
                f"ends at {after}",
                where=f"partition {merge.partition}, epoch {merge.history.epoch}",
                next="Restore the objects below merges/ from a copy of the archive.",
            )
        after = merge.through


def bytes_named(file: ArchivedFile) -> tuple[int, int] | None:
    """Return the range of bytes [first, end) in which all extents of a file of rows lie.

    None: no row has an extent. Of a file that isn't merged only the lengths are known.
    """
    if file.longest_bytes is None:
        return None
    if isinstance(file, MergedFile) and None not in (file.first_offset, file.last_offset):
        assert file.first_offset is not None
        assert file.last_offset is not None
        return file.first_offset, file.last_offset + file.longest_bytes
    return 0, _NO_LIMIT
