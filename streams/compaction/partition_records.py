"""PartitionRecords: the records of one partition as the jobs read them from the table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.errors import BadInput
from mirrorlog.streams.compaction.rollups import (
    RangeBlocks,
    RollUpSource,
    StoredRecord,
    stored_records,
    unite,
)
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import (
    RecordKey,
    above_prefix,
    first_key_after,
    read_record_key,
    record_key,
    tier_prefix,
)
from mirrorlog.tracking_log.records import LogRecord

log = logging.getLogger("mirrorlog.node")

_KEPT_WITH_BLOCKS_BYTES: Final = 64 << 10
"""The blocks of a record up to this size stay in memory from the first look at it to the union."""


class DamagedRecord(Exception):
    """A record of the table can't be decoded. It stays in the table, and no roll-up spans it."""

    def __init__(self, key: RecordKey) -> None:
        self.volume = key.volume
        self.record = StoredRecord(tier=key.tier, after=key.after, through=key.through)


class PartitionRecords:
    """Reads the records of one partition.

    volume: the name of a log, that of a volume or of `missed_log`.
    """

    def __init__(self, table: LogTable, partition: int) -> None:
        self.table, self.partition = table, partition

    def watermark(self) -> Watermark | None:
        """Return the partition's watermark, None if the log has none."""
        return self.table.watermark(self.partition)

    def complete_through(self) -> int:
        """Return the position through which the partition's log is complete."""
        return self.table.complete_through(self.partition)

    def beginning_in(
        self, volume: str, *, tier: int, after: int, before: int | None = None
    ) -> list[StoredRecord]:
        """Return the tier's records whose `after` is in [after, before), in the order of keys.

        before: None for no upper limit.
        """
        end = (
            above_prefix(tier_prefix(volume, tier))
            if before is None
            else first_key_after(volume, tier=tier, position=before)
        )
        start = first_key_after(volume, tier=tier, position=after)
        keys = self.table.keys(self.partition, start, end)
        return stored_records(read_record_key(key) for key in keys)

    def end_of_first(self, volume: str, *, tier: int, after: int) -> int | None:
        """Return the `through` of the tier's first record whose own `after` is `after` or above.

        Return None if there is no such record.
        """
        start = first_key_after(volume, tier=tier, position=after)
        end = above_prefix(tier_prefix(volume, tier))
        keys = self.table.keys(self.partition, start, end, 1)
        return read_record_key(keys[0]).through if keys else None

    def load(self, key: RecordKey) -> LogRecord:
        """Return the record or part under a key. DamagedRecord if it can't be read."""
        try:
            return decode(self.table.get(self.partition, record_key(key)) or b"", LogRecord)
        except BadInput as error:
            log.error("%s is damaged in the table and stays as it is: %s", key, error)
            raise DamagedRecord(key) from error

    def source(self, volume: str, record: StoredRecord) -> RollUpSource:
        """Return a record with its first part. DamagedRecord if that can't be read."""
        key = record.keys(volume)[0]
        size_bytes = len(self.table.get(self.partition, record_key(key)) or b"")
        first = self.load(key)
        if first.parts > 1 or size_bytes > _KEPT_WITH_BLOCKS_BYTES:
            first = replace(first, changed=BlockSet(), zeroed=BlockSet())
        return RollUpSource(record, first, size_bytes)

    def united(self, volume: str, sources: Sequence[RollUpSource]) -> Iterator[RangeBlocks | None]:
        """Yield the sources' union, as `unite` does. DamagedRecord if a part can't be read."""
        return unite([self._parts(volume, source) for source in sources])

    def _parts(self, volume: str, source: RollUpSource) -> Iterator[LogRecord]:
        if source.first.changed:
            return iter([source.first])
        return (self.load(key) for key in source.record.keys(volume))


def tombstones(volume: str, record: StoredRecord) -> Iterator[Row]:
    """Yield the rows that remove every part of a record."""
    for key in record.keys(volume):
        yield record_key(key), None
