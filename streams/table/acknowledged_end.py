"""What a table keeps at once of what the changelog acknowledged, beside its rows. Pure.

The rows of a table go to its files some time later, and a worker that is killed loses the newest
ones. It reads them again from the changelog. What it keeps here survives the kill: where its rows
ended in the changelog, and copies of its heads and of its watermark. They show that the broker went
back in time (docs/decisions/table-log.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from mirrorlog.codec.events import decode
from mirrorlog.errors import BadInput
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import HEAD_PREFIX, watermark_key

_Row: TypeAlias = tuple[bytes, bytes | None]
"""As in the port to the rows (local_store.py), which imports this module."""
_FORM: Final = re.compile(rb"1 (\d+) (\d+|-)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcknowledgedEnd:
    """Where the rows that a table took ended in the changelog. They are all acknowledged there.

    position: the highest position of such a row.
    watermark_position: that of the newest watermark among them; None if it isn't known.
    """

    position: int
    watermark_position: int | None

    def to_bytes(self) -> bytes:
        """Return the form that is stored: the version 1 and both positions, in ASCII."""
        watermark = "-" if self.watermark_position is None else self.watermark_position
        return f"1 {self.position} {watermark}".encode()

    @classmethod
    def from_bytes(cls, stored: bytes) -> AcknowledgedEnd:
        """Read what to_bytes() returned. BadInput for anything else."""
        if (match := _FORM.fullmatch(stored)) is None:
            raise BadInput(
                f"the table's acknowledged end isn't of version 1: {stored[:50].hex()}",
                next="Start the release of the node that wrote the table.",
            )
        position, watermark = match.groups()
        return cls(
            position=int(position),
            watermark_position=None if watermark == b"-" else int(watermark),
        )


def newly_acknowledged(
    known: AcknowledgedEnd | None, partition: int, rows: Sequence[_Row], positions: Sequence[int]
) -> tuple[AcknowledgedEnd, list[_Row]] | None:
    """Return what is kept at once of rows that a table takes: the new end, and the rows to copy.

    known: the end so far. rows, positions: as RowStore.write takes them.

    Return None while the table reads again what it lost. What is known is newer then, and may be
    all that is left of it.
    """
    if not positions or (known is not None and max(positions) < known.position):
        return None
    key = watermark_key(partition)
    copied = [row for row in rows if row[0] == key or row[0].startswith(HEAD_PREFIX)]
    watermark = None if known is None else known.watermark_position
    for (row_key, _), position in zip(rows, positions, strict=True):
        if row_key == key:
            # A position that is known already isn't that of the row (LogTable._write).
            watermark = None if known is not None and position <= known.position else position
    return AcknowledgedEnd(position=max(positions), watermark_position=watermark), copied


def rows_to_keep(partition: int, *older_to_newer: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what a reset keeps: of several collections of heads and watermarks the newest ones.

    Of watermarks the latest one by its order stays, because the broker may have gone back in time.
    """
    kept: dict[bytes, bytes] = {}
    for rows in older_to_newer:
        kept |= rows
    key = watermark_key(partition)
    if watermarks := [rows[key] for rows in older_to_newer if key in rows]:
        kept[key] = max(watermarks, key=lambda value: decode(value, Watermark).order)
    return kept
