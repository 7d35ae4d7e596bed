"""What an audit asks for, and which rows answer it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.changed.points import AtEnd, AtOrigin, Point
from mirrorlog.domain.commands import is_imported_host
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.definition import RowClock, RowKind

_MS: Final = 1000
"""The broker's times are milliseconds, rounded down."""
_ORIGIN: Final = AtOrigin()
_END: Final = AtEnd()
SHOWN_KINDS: Final = tuple(
    kind for kind in RowKind if kind not in (RowKind.HEARTBEAT, RowKind.EMPTY)
)
"""The kinds of row that an audit shows unless it is asked for others: all that tell something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedBytes:
    """The bytes [offset, offset + length) of a volume. length > 0."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuestion:
    """A question to the history of one volume.

    since, until: points; the rows lie after the one, and through the other.
    blocks: only rows whose extent has a byte of these blocks, as `7` or `7-9`.
    offset, length: the same of bytes; without a length up to the volume's end.
    byte_ranges: the same of any of several ranges, ascending and apart.
    hosts: only rows of these hosts. Empty: of all.
    kinds: only rows of these kinds.
    partial: answer with what is kept if a part of the range isn't.
    """

    volume: str
    since: Point = _ORIGIN
    until: Point = _END
    blocks: str | None = None
    offset: int | None = None
    length: int | None = None
    byte_ranges: tuple[AskedBytes, ...] | None = None
    hosts: frozenset[str] = frozenset()
    kinds: frozenset[RowKind] = frozenset(SHOWN_KINDS)
    partial: bool = False

    def row_filter(self, volume: Volume) -> RowFilter:
        """Return which rows answer the question, by the description of its volume, at all times.

        Raise BadUse if it names no bytes of the volume, or names them in two ways.
        """
        asked_bytes = self.byte_ranges
        if asked_bytes is not None:
            if (self.blocks, self.offset, self.length) != (None, None, None):
                raise BadUse("a path and bytes name bytes in two ways", next="Use one.")
        elif self.blocks is not None:
            if self.offset is not None or self.length is not None:
                raise BadUse("--blocks and --offset name bytes in two ways", next="Use one.")
            asked_bytes = (bytes_of_blocks(self.blocks, volume),)
        elif self.offset is not None or self.length is not None:
            asked_bytes = (bytes_from(self.offset or 0, self.length, volume),)
        return RowFilter(asked_bytes, self.hosts, self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTimeWindow:
    """The times `(after_us, through_us]`, in microseconds since 1970; None is no limit.

    In a volume with an imported recording, a row lies in them as `changed` says (changed/
    own_times.py): a recorded write by its own time, other rows of an import by their first and last
    time, and a row of a host also by the time at which the broker took it.
    """

    after_us: int | None
    through_us: int | None

    def rows_of(self, batch: HistoryBatch) -> npt.NDArray[np.bool_]:
        """Return which rows lie in the window. A row without a time does."""
        first, last = batch.numbers("first_at_us"), batch.numbers("last_at_us")
        appended = batch.numbers("appended_at_us")
        is_host = batch.texts("clock").where(lambda clock: clock == RowClock.HOST)
        is_host &= ~batch.texts("host").where(is_imported_host)
        first_us = np.where(is_host, np.minimum(first.values, appended.values), first.values)
        last_us = np.where(
            is_host, np.maximum(last.values, appended.values + (_MS - 1)), last.values
        )
        lies = np.ones(batch.rows, np.bool_)
        if self.after_us is not None:
            lies &= last_us > self.after_us
        if self.through_us is not None:
            lies &= first_us <= self.through_us
        for known in (first.known, None if appended.known is None else appended.known | ~is_host):
            if known is not None:
                lies |= ~known
        return lies


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows answer a question.

    asked_bytes: ranges, ascending and apart. None: rows of all bytes, and without an extent.
    window: None: of all times.
    """

    asked_bytes: tuple[AskedBytes, ...] | None
    hosts: frozenset[str]
    kinds: frozenset[RowKind]
    window: OwnTimeWindow | None = None

    def chosen(self, batch: HistoryBatch) -> HistoryBatch:
        """Return the rows of the batch that answer the question."""
        mask = batch.texts("kind").where(self.kinds.__contains__)
        if self.hosts:
            mask &= batch.texts("host").where(self.hosts.__contains__)
        if self.asked_bytes is not None:
            mask &= _touches(batch, self.asked_bytes)
        if self.window is not None:
            mask &= self.window.rows_of(batch)
        return batch if mask.all() else batch.take(mask)


def _touches(batch: HistoryBatch, asked: Sequence[AskedBytes]) -> npt.NDArray[np.bool_]:
    """Return which rows have an extent with one of the bytes, of ranges ascending and apart."""
    if not asked:
        return np.zeros(batch.rows, np.bool_)
    offset, length = batch.numbers("offset"), batch.numbers("length")
    firsts = np.array([part.offset for part in asked], np.uint64)
    ends = np.array([part.offset + part.length for part in asked], np.uint64)
    # The first range that ends behind the extent's first byte. Nothing overflows: where the extent
    # begins before that range, the difference is positive.
    place = np.searchsorted(ends, offset.values, "right")
    first = firsts[np.minimum(place, len(firsts) - 1)]
    reaches = (offset.values >= first) | (length.values > first - np.minimum(offset.values, first))
    touches: npt.NDArray[np.bool_] = (place < len(firsts)) & reaches & (length.values > 0)
    return touches if offset.known is None else np.logical_and(touches, offset.known)


def bytes_of_blocks(text: str, volume: Volume) -> AskedBytes:
    """Return the bytes of the blocks `A-B`, both of them included, or of the block `A`.

    Raise BadUse if the text names no blocks of the volume.
    """
    first_text, dash, last_text = text.partition("-")
    if not (first_text.isdecimal() and (last_text.isdecimal() if dash else True)):
        raise BadUse(f"'{text[:60]}' names no blocks", next="Write 7, or 7-9 for three blocks.")
    first, last = int(first_text), int(last_text or first_text)
    where = f"volume {volume.volume}, blocks of {volume.block_size} bytes"
    if last < first:
        raise BadUse(f"'{text}' ends before it begins", where=where)
    if first >= volume.blocks:
        raise BadUse(
            f"block {first} lies outside the volume", where=where, next=f"It has {volume.blocks}."
        )
    count = min(last, volume.blocks - 1) - first + 1
    offset, length = volume.byte_range(first=first, count=count)
    return AskedBytes(offset=offset, length=length)


def bytes_from(offset: int, length: int | None, volume: Volume) -> AskedBytes:
    """Return the bytes from `offset` on; length None: up to the volume's end.

    Raise BadUse if the volume has none of them.
    """
    where = f"volume {volume.volume} of {volume.size_bytes} bytes"
    if not 0 <= offset < volume.size_bytes:
        raise BadUse(f"offset {offset} lies outside the volume", where=where)
    if length is not None and length <= 0:
        raise BadUse(f"{length} bytes are none", where=where, next="Name a --length above 0.")
    rest = volume.size_bytes - offset
    return AskedBytes(offset=offset, length=rest if length is None else min(length, rest))
