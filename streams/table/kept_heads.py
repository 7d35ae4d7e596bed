"""The heads of volumes as a table keeps them while it follows the changelog.

A worker that lost the partition may append older heads behind those of the one that has it. A head
that is too old lets the volume's next record begin where that head ends: the record would claim
commands that it doesn't hold, and a site that takes it would miss their blocks (invariant 5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mirrorlog.codec.events import decode, decode_record_header, encode
from mirrorlog.errors import BadInput
from mirrorlog.streams.table.local_store import Row, RowStore
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import HEAD_PREFIX, above_prefix, read_record_key, record_prefix


def later_head(known: bytes | None, key: bytes, value: bytes | None) -> bytes | None:
    """Return what a table keeps under `key`, whose value is `known`, when `value` follows it.

    It is `value`, unless both are heads of one generation in one history: then it is what both say
    together, as a reader of the log takes them (VolumeHead.joined).
    """
    if known is None or value is None or known == value or not key.startswith(HEAD_PREFIX):
        return value
    before, after = _head(known), _head(value)
    if before is None or after is None:
        return value
    if (before.epoch, before.generation) != (after.epoch, after.generation):
        return value
    joined = before.joined(after)
    return value if joined == after else known if joined == before else encode(joined)


def heads_behind_records(store: RowStore, partition: int) -> Iterator[Row]:
    """Yield, for each head that ends before a record of its generation, the head that ends there.

    Compaction may have removed the later head, so that only its records tell of it. The keys of one
    volume's records are in memory at a time.
    """
    for key in store.keys(partition, HEAD_PREFIX, above_prefix(HEAD_PREFIX)):
        if (head := _head(_value(store, partition, key))) is None:
            continue
        of_volume = record_prefix(head.volume)
        through, last = max(
            (
                (read_record_key(record).through, record)
                for record in store.keys(partition, of_volume, above_prefix(of_volume))
            ),
            default=(head.through, b""),
        )
        if through > head.through:
            record = decode_record_header(_value(store, partition, last))
            if record.generation == head.generation:
                yield key, encode(replace(head, through=through))


def _head(value: bytes) -> VolumeHead | None:
    """Return the head; None if it is damaged, which whoever folds the volume says."""
    try:
        return decode(value, VolumeHead)
    except BadInput:
        return None


def _value(store: RowStore, partition: int, key: bytes) -> bytes:
    """Return the value of a row that the table has."""
    value = store.get(partition, key)
    assert value is not None
    return value
