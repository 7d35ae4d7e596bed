"""The node's statuses beside the rows of a history, as far as the status topic keeps them.

The node answers commands in the order of its flushes. Within a flush, the answers come by session,
so a status may come a little before or after those of its neighbours. Statuses are kept a day by
default: the rows of older commands have none, which is null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import AcceptedBatch, CommandStatus, StatusCode
from mirrorlog.errors import BadInput
from mirrorlog.history.batches import DictionaryColumn, HistoryBatch
from mirrorlog.ports.streams import Message

CODES: Final = tuple(StatusCode)
_NAMES: Final = tuple(code.value for code in CODES)
_ACCEPTED: Final = CODES.index(StatusCode.ACCEPTED)
_READ_TOGETHER: Final = 256
"""Messages that are read before the next look whether they suffice."""
_Answers: TypeAlias = "tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]"
"""Positions, and the code of the status of each."""


@dataclass(slots=True)
class StatusJoin:
    """Adds statuses to the batches of one volume, which come in order.

    open_messages: reads the status topic's partition up to its end, from the first message that was
    appended at a time (microseconds since 1970) or later; None: from the oldest kept. Only as many
    messages are read as the batches need.
    """

    open_messages: Callable[[int | None], Iterator[Message]]
    volume: str
    _messages: Iterator[Message] | None = None
    _waiting: list[_Answers] = field(default_factory=list)
    _is_over: bool = False

    def add_to(self, batch: HistoryBatch) -> HistoryBatch:
        """Return the batch with the status of each row, null where none is kept."""
        positions = batch.numbers("position").values.astype(np.int64)
        if not len(positions):
            return batch
        if self._messages is None:
            self._messages = self.open_messages(batch.numbers("appended_at_us").to_list()[0])
        is_new = np.concatenate(([True], positions[1:] != positions[:-1]))
        self._read_through(positions[is_new], self._messages)
        known, codes = _joined(self._waiting)
        self._waiting = [_above((known, codes), batch.through)]
        row_codes = np.full(len(positions), -1, np.int32)
        is_answered = _is_in(positions, known)
        row_codes[is_answered] = codes[np.searchsorted(known, positions[is_answered])]
        return batch.with_column("status", DictionaryColumn(row_codes, _NAMES))

    def _read_through(self, positions: npt.NDArray[np.int64], unread: Iterator[Message]) -> None:
        """Read until every position has a status, or none of them will have one any more.

        An answer to a later command ends its flush when the next flush begins, with another time.
        """
        first, last = int(positions[0]), int(positions[-1])
        missing = positions[~_is_in(positions, _joined(self._waiting)[0])]
        behind_us: int | None = None
        while len(missing) and not self._is_over:
            messages = list(islice(unread, _READ_TOGETHER))
            self._is_over = len(messages) < _READ_TOGETHER
            read = [
                answered
                for message in messages
                if (answered := _answers(message.value, self.volume)) is not None
            ]
            for at_us, answers in read:
                self._waiting.append(_above(answers, first - 1))
                if behind_us is None and len(answers[0]) and int(answers[0].max()) > last:
                    behind_us = at_us
            answered_now, _ = _joined([answers for _, answers in read])
            missing = missing[~_is_in(missing, answered_now)]
            if behind_us is not None and any(at_us > behind_us for at_us, _ in read):
                return


def _answers(value: bytes | None, volume: str) -> tuple[int, _Answers] | None:
    """Return the time of a message's statuses and the statuses; None if it has none of the volume.

    A message that this version can't read has none.
    """
    try:
        event = None if value is None else decode(value, object)
    except BadInput:
        return None
    if isinstance(event, AcceptedBatch) and event.volume == volume:
        codes = np.full(len(event.positions), _ACCEPTED, np.int32)
        return event.at_us, (np.asarray(event.positions, np.int64), codes)
    if isinstance(event, CommandStatus) and event.volume == volume:
        code = np.array([CODES.index(event.code)], np.int32)
        return event.at_us, (np.array([event.position], np.int64), code)
    return None


def _above(answers: _Answers, position: int) -> _Answers:
    """Return the answers to commands above the position."""
    positions, codes = answers
    return positions[positions > position], codes[positions > position]


def _joined(parts: Sequence[_Answers]) -> _Answers:
    """Return the answers by position; of two to one position, the one that came first."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    positions = np.concatenate([part[0] for part in parts])
    codes = np.concatenate([part[1] for part in parts])
    # numpy's unique and isin import numpy.ma, which takes a tenth of a second.
    order = np.argsort(positions, kind="stable")
    positions, codes = positions[order], codes[order]
    is_first = np.ones(len(positions), np.bool_)
    is_first[1:] = positions[1:] != positions[:-1]
    return positions[is_first], codes[is_first]


def _is_in(positions: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which positions are among the known ones, which ascend."""
    at = np.searchsorted(known, positions)
    is_known = np.zeros(len(positions), np.bool_)
    inside = at < len(known)
    is_known[inside] = known[at[inside]] == positions[inside]
    return is_known
