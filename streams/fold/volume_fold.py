"""The record and the head of one volume: what a flush writes for the commands of it. Pure.

A record covers `(after, through]`. The records of a volume are chained: each one begins where the
one before ended, or earlier, so a reader can prove that none is missing (invariant 5).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from mirrorlog.domain.bitmaps import BlockSet, touched, union, zeroed
from mirrorlog.domain.block_arrays import blocks_of
from mirrorlog.domain.commands import StatusCode
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.streams.fold.authenticity import HAS_ALREADY, proves_zeros, repeat_reason
from mirrorlog.streams.fold.bulk_fold import BulkFold
from mirrorlog.streams.fold.known_positions import with_known_positions
from mirrorlog.streams.fold.response import CommandResponse
from mirrorlog.streams.fold.session_order import SessionOrder, session_order
from mirrorlog.tracking_log.heads import (
    ForkHead,
    SessionHead,
    VolumeHead,
    closed_sessions,
    former_primary_reason,
    is_promoted_at,
    session_head,
    updates_session,
)
from mirrorlog.tracking_log.record_parts import PackedRecord, pack_record, split_record
from mirrorlog.tracking_log.records import LogRecord, named_hosts

_ACCEPTED: Final = SessionOrder(StatusCode.ACCEPTED)


def chain_end(volume: Volume, head: VolumeHead | None) -> int:
    """Return the position at which the chain of the volume's records ends.

    It is the volume's origin if its log has no record yet.
    """
    continues = head is not None and head.generation == volume.generation_of_log
    return head.through if head is not None and continues else volume.origin_position


def record_start(volume: Volume, head: VolumeHead | None, *, first: int) -> int:
    """Return the `after` of the volume's record in a flush that begins at position `first`.

    The record continues the chain (invariant 5). Between its end and `first` lies no command of the
    volume: one that did was recorded before its offset was committed (invariant 2). On a replay the
    table is ahead of the batch. Then the record begins with the batch and overlaps older records,
    which is harmless (invariant 3).
    """
    return min(chain_end(volume, head), first - 1)


def newest_volume(responses: Sequence[CommandResponse]) -> Volume:
    """Return the volume as of the last of its responses."""
    volume = responses[-1].volume
    assert volume is not None
    return volume


def fold_changed(
    responses: Sequence[CommandResponse],
    extents: Sequence[ExtentColumns],
    *,
    after: int,
    through: int,
) -> LogRecord | None:
    """Return the record `(after, through]` of one volume with an empty set of zeroed blocks.

    responses: to the volume's commands. extents: for each of them, those to fold.
    Return None if they change no block: a heartbeat costs no record.
    """
    volume = newest_volume(responses)
    every_extent = concatenate(extents)
    changed = touched(every_extent, volume.block_size)
    if not changed:
        return None
    commands = [
        response.command
        for response, part in zip(responses, extents, strict=True)
        if response.command and len(part)
    ]
    return LogRecord(
        volume=volume.volume,
        generation=volume.generation_of_log,
        tier=0,
        after=after,
        through=through,
        block_size=volume.block_size,
        changed=changed,
        zeroed=BlockSet(),
        first_at_us=min(command.first_at_us for command in commands),
        last_at_us=max(command.last_at_us for command in commands),
        commands=len(commands),
        writes=len(every_extent),
        bytes_written=every_extent.total_bytes(longest=volume.size_bytes),
        **named_hosts(command.host for command in commands),
    )


def zeroed_blocks(responses: Sequence[CommandResponse], orders: Sequence[SessionOrder]) -> BlockSet:
    """Return the blocks that the volume's commands zeroed or discarded whole.

    orders: for each command, how it continues its session.

    The volume's size at each command decides whether its last block is covered whole: that block
    grows if a RESIZE lies between two commands.
    """
    by_size: dict[int, list[ExtentColumns]] = defaultdict(list)
    for response, order in zip(responses, orders, strict=True):
        assert response.volume is not None and response.command is not None
        if not response.volume.is_authenticated_at(response.message.position) or proves_zeros(
            response.command, response.volume, order
        ):
            by_size[response.volume.size_bytes].append(response.extents)
    block_size = newest_volume(responses).block_size
    return union(
        zeroed(concatenate(parts), block_size=block_size, size_bytes=size_bytes)
        for size_bytes, parts in by_size.items()
    )


def bulk_record(
    fold: BulkFold, *, after: int, through: int, max_bytes: int
) -> Sequence[PackedRecord | LogRecord]:
    """Return the parts of the record `(after, through]` of a volume that was folded in bulk.

    Each part has bitmaps of at most `max_bytes`. There is none if the commands hold no extent. The
    parts are LogRecords only if the extents touch too many blocks to list (`blocks_of`).
    """
    volume, extents = fold.volume, fold.extents
    blocks = blocks_of(extents, volume.block_size)
    no_blocks = BlockSet()
    header = LogRecord(
        volume=volume.volume,
        generation=volume.generation_of_log,
        tier=0,
        after=after,
        through=through,
        block_size=volume.block_size,
        changed=no_blocks,
        zeroed=no_blocks,
        first_at_us=fold.first_at_us,
        last_at_us=fold.last_at_us,
        commands=fold.commands,
        writes=len(extents),
        bytes_written=extents.total_bytes(longest=volume.size_bytes),
        **named_hosts(fold.hosts),
    )
    zeros = zeroed(extents, block_size=volume.block_size, size_bytes=volume.size_bytes)
    if blocks is None:
        changed = touched(extents, volume.block_size)
        return split_record(replace(header, changed=changed, zeroed=zeros), max_bytes)
    return pack_record(header, blocks, zeros, max_bytes) if len(blocks) else ()


def update_session(sessions: dict[str, SessionHead], response: CommandResponse) -> SessionOrder:
    """Return how the command continues its session, and enter the command into `sessions`.

    sessions: the heads of the volume's sessions before the command, by name.
    """
    command, position = response.command, response.message.position
    assert command is not None and response.volume is not None
    if not response.is_authentic:
        return _ACCEPTED
    if is_promoted_at(response.volume, position):
        sessions.update(closed_sessions(sessions, position))
        return _ACCEPTED
    if reason := former_primary_reason(response.volume, command, position):
        return SessionOrder(StatusCode.STALE_SESSION, f"recorded, though {reason}")
    command = with_known_positions(command, response.volume)
    order = session_order(sessions, command, position, shared=response.volume.shared)
    if response.volume.is_authenticated_at(position) and updates_session(command):
        reason = repeat_reason(sessions, command, position)
        if reason is not None:
            return _repeated(order, reason)
    if updates_session(command):
        update = session_head(command, position, response.forks.open_sites)
        known = sessions.get(command.session)
        if known is not None and order.code is StatusCode.DUPLICATE:
            # The command repeats an outcome OPEN that a later command may have named since.
            open_forks = tuple(sorted({*known.open_forks, *update.open_forks}))
            update = replace(update, open_forks=open_forks)
        sessions[command.session] = update if known is None else known.merged(update)
    return order


def _repeated(order: SessionOrder, reason: str) -> SessionOrder:
    """Return how a command continues its session if its bytes may have been sent before.

    The session stays as it is. A command that the node reads again keeps its code.
    """
    if reason == HAS_ALREADY:
        return replace(order, may_repeat=True)
    text = f"recorded, but it changes no session: {reason}"
    return SessionOrder(StatusCode.STALE_SESSION, text, may_repeat=True)


def head_after(
    volume: Volume,
    head: VolumeHead | None,
    *,
    record_through: int | None,
    sessions: Iterable[SessionHead],
    forks: Mapping[str, ForkHead],
    epoch: int,
) -> VolumeHead:
    """Return the volume's head after a flush.

    sessions: those to name (named_sessions).

    head: the one before. record_through: the end of the record that the flush writes, None if it
    writes none: `through` is the end of the chain, so it moves only with a record. epoch: of the
    partition's history.
    """
    end = chain_end(volume, head)
    return VolumeHead(
        volume.volume,
        volume.generation_of_log,
        through=end if record_through is None else max(end, record_through),
        sessions=tuple(sessions),
        described_position=volume.described_position,
        forks=forks,
        epoch=epoch,
    )


def concatenate(parts: Sequence[ExtentColumns]) -> ExtentColumns:
    """Return all extents in one set of columns."""
    kinds = None
    if any(part.kinds is not None for part in parts):
        kinds = np.concatenate(
            [np.zeros(len(part), np.uint8) if part.kinds is None else part.kinds for part in parts]
        )
    return ExtentColumns(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        kinds,
    )
