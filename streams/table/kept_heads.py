"""The heads of volumes as a table keeps them while it follows the changelog.

A worker that lost the partition may append older heads behind those of the one that has it. A head
that is too old lets the volume's next record begin where that head ends: the record would claim
commands that it doesn't hold, and a site that takes it would miss their blocks (invariant 5).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from mirrorlog.codec.events import decode, decode_record_header, encode
from mirrorlog.errors import BadInput
from mirrorlog.streams.table.local_store import Row, RowStore
from mirrorlog.tracking_log.heads import VolumeHead
from mirrorlog.tracking_log.keys import (
    HEAD_PREFIX,
    RECORD_PREFIX,
    above_prefix,
    head_key,
    read_record_key,
)


def later_head(known: bytes | None, key: bytes, value: bytes | None) -> bytes | None:
    """Return what a table keeps under `key`, whose value is `known`, when `value` follows it.

    It is `value`, unless both are heads of one generation in one history: then it is what both say
    together, as a reader of the log takes them (VolumeHead.joined).
    """
    if known is None or value is None or known == value or not key.startswith(HEAD_PREFIX):
        return value
    try:
        before, after = decode(known, VolumeHead), decode(value, VolumeHead)
    except BadInput:  # whoever folds the volume says what is wrong with it
        return value
    if (before.epoch, before.generation) != (after.epoch, after.generation):
        return value
    joined = before.joined(after)
    return value if joined == after else known if joined == before else encode(joined)


def heads_behind_records(store: RowStore, partition: int) -> Iterator[Row]:
    """Yield, for each head that ends before a record of its generation, the head that ends there.

    Compaction may have removed the later head, so that only its records tell of it.
    """
    ends: dict[str, tuple[int, bytes]] = defaultdict(lambda: (-1, b""))
    for key in store.keys(partition, RECORD_PREFIX, above_prefix(RECORD_PREFIX)):
        record = read_record_key(key)
        ends[record.volume] = max(ends[record.volume], (record.through, key))
    for volume, (through, record_key) in ends.items():
        value = store.get(partition, head_key(volume))
        head = None if value is None else decode(value, VolumeHead)
        if head is None or head.through >= through:
            continue
        record_value = store.get(partition, record_key)
        assert record_value is not None
        if decode_record_header(record_value).generation == head.generation:
            yield head_key(volume), encode(replace(head, through=through))
