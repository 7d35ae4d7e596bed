"""Replies as they travel: one command's, or those of many alike in one event.

A status topic with an event for each of 60,000 commands a second would cost more than the log itself. So the commands of one
session for one volume that a flush accepted without a remark are answered by one event that holds their positions and
sequences (docs/decisions/status-batches.md). A reader gets one status a command all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import AcceptedBatch, CommandStatus, StatusCode


def read_statuses(value: bytes) -> Iterator[CommandStatus]:
    """Every status in one event of the status topic, in the order of positions. BadInput where it is none."""
    event = decode(value, object)
    if isinstance(event, AcceptedBatch):
        yield from expand(event)
    else:
        yield decode(value, CommandStatus)


def expand(batch: AcceptedBatch) -> Iterator[CommandStatus]:
    """One status for each command of the batch."""
    for position, sequence in zip(batch.positions.tolist(), batch.sequences.tolist(), strict=True):
        yield CommandStatus(
            partition=batch.partition,
            position=position,
            code=StatusCode.ACCEPTED,
            reason=None,
            text="",
            at_us=batch.at_us,
            volume=batch.volume,
            host=batch.host,
            session=batch.session,
            sequence=sequence,
        )
