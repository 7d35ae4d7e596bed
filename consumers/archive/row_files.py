"""Files of rows: the columns of history by volume and day, for questions in SQL.

The rows of a file are sorted by offset and position, with those without an extent first. So a
question for a block reads the few row groups whose offsets can reach it: those from the block less
the longest extent of the file on, which the manifest says. The day is that of the broker's time
(invariant 15), in UTC; a row without such a time has the day 1970-01-01.

Beside the columns of history (mirrorlog/history/definition.py) a file has `day` (date) and
`history_epoch` (i32): a position counts only together with its history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np

from mirrorlog.archive.command_files import volumes_of
from mirrorlog.archive.manifests import ArchivedFile, FileKind, digest_of
from mirrorlog.archive.names import rows_name
from mirrorlog.archive.parquet import parquet_bytes
from mirrorlog.consumers.archive.archiver import NewFile
from mirrorlog.consumers.archive.merged_files import RowFacts
from mirrorlog.consumers.archive.plan import WriteCommands
from mirrorlog.domain.volumes import Volume
from mirrorlog.extras import require_module
from mirrorlog.history.arrow_tables import arrow_table, parquet_options
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.history.command_rows import command_rows
from mirrorlog.ports.streams import Message

ROW_GROUP_ROWS: Final = 65_536
_DAY_US: Final = 86_400_000_000


class RowFiles:
    """Makes the files of rows of a range (archiver.RowFileMaker).

    volumes: the descriptions, up to date. patterns: rows are made of volumes whose names match one
    of them; without any, of all. Commands of a volume that isn't described have no rows: without
    its size, nobody knows which of their extents are addresses. Their bytes are archived all the
    same.
    """

    def __init__(self, volumes: Mapping[str, Volume], patterns: Sequence[str] = ()) -> None:
        self._volumes, self._patterns = volumes, patterns

    def __call__(self, step: WriteCommands, messages: Sequence[Message]) -> Iterator[NewFile]:
        """Yield the files, by volume and day."""
        by_volume = messages_by_volume(messages)
        for name in sorted(by_volume):
            volume = self._volumes.get(name)
            if volume is None or not self._is_wanted(name):
                continue
            batch = command_rows(by_volume[name], volume, through=step.through)
            yield from row_files(step, volume, batch)

    def _is_wanted(self, name: str) -> bool:
        if not self._patterns:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)


def messages_by_volume(messages: Sequence[Message]) -> dict[str, list[Message]]:
    """Return the messages by the volume that they name, or that their key names."""
    by_volume: dict[str, list[Message]] = {}
    names = volumes_of([message.value for message in messages])
    for message, name in zip(messages, names, strict=True):
        volume = (message.key or b"").decode("utf-8", "replace") if name is None else name
        if volume:
            by_volume.setdefault(volume, []).append(message)
    return by_volume


def row_files(step: WriteCommands, volume: Volume, batch: HistoryBatch) -> Iterator[NewFile]:
    """Yield the files of a volume's rows, one a day."""
    for day, rows in _by_day(batch):
        yield _file_of(step, volume, day, rows)


def dated_tables(batch: HistoryBatch, epoch: int) -> Iterator[Any]:
    """Yield the rows of a batch as tables (pyarrow.Table) with the columns of the files.

    epoch: of the history in which their positions were taken.
    """
    for day, rows in _by_day(batch):
        yield _with_day(arrow_table(rows), day, epoch)


def _by_day(batch: HistoryBatch) -> Iterator[tuple[int, HistoryBatch]]:
    """Yield the rows of each day, with the number of the day since 1970."""
    if not batch.rows:
        return
    appended = batch.numbers("appended_at_us")
    times = appended.values if appended.known is None else appended.values * appended.known
    days = times // _DAY_US
    for day in np.unique(days).tolist():
        yield int(day), batch.take(np.flatnonzero(days == day))


def _file_of(step: WriteCommands, volume: Volume, day: int, batch: HistoryBatch) -> NewFile:
    batch = batch.take(_order(batch))
    table = _with_day(arrow_table(batch), day, step.history.epoch)
    options = parquet_options()
    content = parquet_bytes(
        table, dictionaries=options["use_dictionary"], row_group_rows=ROW_GROUP_ROWS
    )
    day_text = datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")
    facts = RowFacts()
    facts.add(table)
    name = rows_name(
        volume.volume,
        day_text,
        volume.partition,
        step.history,
        after=step.after,
        through=step.through,
        content=content,
    )
    entry = ArchivedFile(
        name=name,
        kind=FileKind.ROWS,
        size_bytes=len(content),
        sha256=digest_of(content),
        volume=volume.volume,
        day=day_text,
        **facts.fields(),
    )
    return NewFile(entry, content)


def _order(batch: HistoryBatch) -> Any:
    """Return the order of the rows: without an extent first, then by offset, position, extent."""
    offsets = batch.numbers("offset")
    has_offset = np.ones(batch.rows, np.bool_) if offsets.known is None else offsets.known
    return np.lexsort(
        (
            batch.numbers("extent").values,
            batch.numbers("position").values,
            offsets.values,
            has_offset,
        )
    )


def _with_day(table: Any, day: int, epoch: int) -> Any:
    pa = require_module("pyarrow", extra="archive", purpose="an archive")
    days = pa.array(np.full(table.num_rows, day, np.int32)).cast(pa.date32())
    epochs = pa.array(np.full(table.num_rows, epoch, np.int32))
    table = table.append_column(pa.field("day", pa.date32(), nullable=False), days)
    return table.append_column(pa.field("history_epoch", pa.int32(), nullable=False), epochs)
