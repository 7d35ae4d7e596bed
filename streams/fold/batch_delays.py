"""The publication delays of one batch: a few numpy steps over its commands. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import numpy as np

from mirrorlog.codec.command_columns import I64, CommandColumns
from mirrorlog.domain.histories import History
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.response import CommandResponse
from mirrorlog.tracking_log.publication_delays import PublicationDelays

_MS: Final = 1000
_FURTHEST_US: Final = 1 << 61
"""A host may name any time. A delay to one further away than that isn't told from this one."""


def batch_delays(
    batch: EventBatch,
    columns: CommandColumns,
    responses: Iterable[CommandResponse],
    history: History | None,
) -> PublicationDelays | None:
    """Return the delays of the commands of a batch that the log records.

    columns: the batch, decoded. responses: to the commands that were checked one at a time.
    history: of the partition. Return None if it isn't known, if the topic holds hosts' times, or if
    the broker's time went back within the batch.
    """
    if history is None or batch.appends_ms is None:
        return None
    appended_us = np.array(batch.appends_ms, np.int64) * _MS
    if (np.diff(appended_us) < 0).any():
        return None
    plain = np.flatnonzero(columns.plain & (columns.extents > 0))
    checked = [
        (bisect_left(batch.positions, response.message.position), response.command)
        for response in responses
        if response.command is not None and len(response.extents)
    ]
    rows = np.concatenate([plain, np.array([row for row, _ in checked], np.int64)])
    first_us, last_us = (
        _in_reach(np.concatenate([columns.numbers[name][plain], np.array(others, np.int64)]))
        for name, others in (
            ("first_at_us", [command.first_at_us for _, command in checked]),
            ("last_at_us", [command.last_at_us for _, command in checked]),
        )
    )
    return PublicationDelays(
        partition=batch.partition,
        history_id=history.id,
        after=batch.positions[0] - 1,
        through=batch.positions[-1],
        first_appended_us=int(appended_us[0]),
        last_appended_us=int(appended_us[-1]),
        longest_us=int((appended_us[rows] - first_us).max()) if len(rows) else None,
        shortest_us=int((appended_us[rows] - last_us).min()) if len(rows) else None,
    )


def _in_reach(times_us: I64) -> I64:
    return np.clip(times_us, -_FURTHEST_US, _FURTHEST_US)
