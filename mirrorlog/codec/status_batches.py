"""The statuses in one event of the status topic: of one command, or of many accepted ones.

An event for each of 60,000 commands a second would cost more than the log itself. So one event,
with their positions and sequences, answers the commands of one session for one volume that a flush
accepted without remark (docs/decisions/status-batches.md). A reader still gets one status a
command.
"""

from __future__ import annotations

from collections.abc import Iterator

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import AcceptedBatch, CommandStatus, StatusCode


def read_statuses(value: bytes) -> Iterator[CommandStatus]:
    """Yield the statuses in one event of the status topic, by position.

    Raise BadInput for another event.
    """
    event = decode(value, object)
    if isinstance(event, AcceptedBatch):
        yield from expand(event)
    else:
        yield decode(value, CommandStatus)


def expand(batch: AcceptedBatch) -> Iterator[CommandStatus]:
    """Yield one status for each command of the batch."""
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
