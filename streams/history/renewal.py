"""renew_history: how the next history of a partition begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.histories import History
from mirrorlog.domain.volumes import Volume, in_history, in_new_log
from mirrorlog.reading.catalog import Catalog
from mirrorlog.streams.table.local_store import Row
from mirrorlog.streams.table.log_table import LogTable, SendMessages
from mirrorlog.streams.table.outgoing import Outgoing
from mirrorlog.topics import Topics
from mirrorlog.tracking_log.heads import SessionHead, VolumeHead, Watermark
from mirrorlog.tracking_log.keys import (
    KEY_PREFIX,
    above_prefix,
    head_key,
    key_kind,
    watermark_key,
)

_KEYS_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True)
class RenewalPorts:
    """What a renewal writes to. send: as LogTable takes it."""

    table: LogTable
    send: SendMessages
    catalog: Catalog
    topics: Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHistory:
    """A history that begins at position `start`.

    anchor: the digest of the command before `start`, None if none is known there.
    at_us: now, microseconds since 1970.
    """

    partition: int
    history: History
    start: int
    anchor: bytes | None
    at_us: int


async def renew_history(ports: RenewalPorts, new: NewHistory) -> None:
    """Let `new` be the history of its partition. The order keeps the data safe:

    1. Each volume of the partition is described with a new generation, whose log begins at the
       start, and with the new history. All descriptions are acknowledged before step 2. From here
       on no watermark of the old history counts for them (counts_for), so no site calls a secondary
       consistent.
    2. Each volume gets a head in the new history. A session that was open stays open, but none of
       its positions is kept (SessionHead.carried_over). Acknowledged before step 3, because only
       the old heads name the open sessions.
    3. All other rows of the partition are removed: records, what sites have missed, heartbeats,
       position times. They mean nothing any more.
    4. The watermark says that the new history is complete up to its start. Readers forget the old
       history when they meet it.

    A crash between two steps leaves descriptions of a later history than the log: the next
    assignment finds that (ended_reason) and renews again, one epoch further. Nobody has claimed
    anything in the epoch between, because it has no watermark.

    Raise ChangelogRefused if a message isn't acknowledged.
    """
    partition, table = new.partition, ports.table
    volumes = [volume for volume in ports.catalog.values() if volume.partition == partition]
    described = [renewed(volume, new) for volume in volumes]
    await ports.send(
        [
            Outgoing(ports.topics.volumes, 0, volume.volume.encode(), encode(volume))
            for volume in described
        ]
    )  # 1
    for volume in described:
        ports.catalog.take(volume)
    heads = _new_heads(ports, new, described)
    await table.append(partition, [(head_key(head.volume), encode(head)) for head in heads])  # 2
    kept = {head_key(head.volume) for head in heads} | {watermark_key(partition)}
    for tombstones in _tombstones(table, partition, kept):
        await table.append(partition, tombstones)  # 3
    watermark = Watermark(
        partition=partition,
        through=new.start - 1,
        at_us=new.at_us,
        history=new.history,
        anchor=new.anchor,
    )
    await table.append(partition, [(watermark_key(partition), encode(watermark))])  # 4
    table.take_flushed(partition)
    table.forget_discarded(partition)


def renewed(volume: Volume, new: NewHistory) -> Volume:
    """Return the description of a volume in the new history, with a generation of its own.

    Its size stays. What it was at positions of the old history is forgotten.
    """
    begun = in_new_log(volume, generation=str(uuid4()), origin_position=new.start - 1)
    return replace(in_history(begun, new.history), created_at_us=new.at_us, earlier_sizes=())


def _new_heads(ports: RenewalPorts, new: NewHistory, volumes: Iterable[Volume]) -> list[VolumeHead]:
    """Return the heads of the volumes in the new history, with the sessions that are open."""
    discarded = ports.table.discarded(new.partition)
    return [
        VolumeHead(
            volume.volume,
            volume.generation_of_log,
            through=volume.origin_position,
            sessions=tuple(_open_sessions(ports.table, new.partition, volume, discarded)),
            described_position=volume.described_position,
            epoch=volume.epoch,
        )
        for volume in volumes
    ]


def _open_sessions(
    table: LogTable, partition: int, volume: Volume, discarded: Mapping[bytes, bytes]
) -> Iterator[SessionHead]:
    """Yield the volume's sessions that are open by the log, or by a table that was discarded.

    Positions of the two can't be compared, so a session that one of them calls open is open.
    """
    key = head_key(volume.volume)
    seen: set[str] = set()
    for value in (table.get(partition, key), discarded.get(key)):
        for session in decode(value, VolumeHead).sessions if value is not None else ():
            if session.is_open and session.session not in seen:
                seen.add(session.session)
                yield session.carried_over()


def _tombstones(table: LogTable, partition: int, kept: set[bytes]) -> Iterator[Sequence[Row]]:
    """Yield tombstones for all rows of the partition except those in `kept`, some at a time.

    Rows of a kind that this release doesn't know stay: a newer node wrote them.
    """
    start, end = KEY_PREFIX, above_prefix(KEY_PREFIX)
    while keys := table.keys(partition, start, end, _KEYS_AT_ONCE):
        start = keys[-1] + b"\0"
        yield [(key, None) for key in keys if key not in kept and key_kind(key) is not None]
