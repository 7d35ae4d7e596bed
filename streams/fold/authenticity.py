"""Which commands are authentic: sent by a holder of a key who may touch the volume. Pure.

A command of an authenticated volume needs the code of such a key. A session-wide command needs that
of the session's own holder, if the session belongs to one. All other commands need none.

The broker lets whoever is a host read the commands, so the bytes of an authentic command may be
sent again by another host. `repeat_reason` says which ones may have been: they change no session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nlargest
from typing import Final, Protocol

from mirrorlog.codec.command_columns import CommandColumns, Sender, rows_by_sender
from mirrorlog.domain.commands import Refusal, StatusCode, TrackingCommand
from mirrorlog.domain.host_keys import Holder, HostKeys, is_owned, is_session_of
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.streams import Message
from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.fold.named_sessions import CLOSED_SESSIONS_KEPT
from mirrorlog.streams.fold.response import is_session_wide
from mirrorlog.streams.fold.session_order import SessionOrder
from mirrorlog.tracking_log.heads import SessionHead

HAS_ALREADY: Final = "its session has it already"


class HostKeySource(Protocol):
    """Where the node's keys come from: HostKeyFile (mirrorlog/adapters/host_key_file.py)."""

    def current(self) -> HostKeys:
        """Return the keys that count now."""


@dataclass(frozen=True, slots=True)
class Authenticity:
    """Judges commands by the keys."""

    keys: HostKeys

    def objection(
        self, message: Message, command: TrackingCommand | Refusal, volume: Volume | None
    ) -> str | None:
        """Return why a command isn't authentic; None if it is, or needs no code.

        message: of the command, with its headers. command: what can't be read needs no code.
        volume: its description, None if there is none.
        """
        if isinstance(command, Refusal):
            return None
        if is_session_wide(command):
            return self._session_objection(message, command)
        if volume is None or not volume.is_authenticated_at(message.position):
            return None
        return self._volume_objection(message, command)

    def unauthentic_volumes(
        self, batch: EventBatch, columns: CommandColumns, volumes: Mapping[str, Volume]
    ) -> set[str]:
        """Return those of the authenticated `volumes` with a plain command that isn't authentic.

        columns: the batch, decoded. A volume that was authenticated inside the batch is among them.
        """
        refused: set[str] = set()
        rows_of = rows_by_sender(columns)
        for number, sender in enumerate(columns.senders):
            volume = volumes.get(sender.volume)
            if volume is None or sender.volume in refused:
                continue
            if not volume.is_authenticated_at(batch.positions[0]) or self._has_objection(
                batch, sender, rows_of[number].tolist()
            ):
                refused.add(sender.volume)
        return refused

    def _has_objection(self, batch: EventBatch, sender: Sender, rows: Iterable[int]) -> bool:
        """Return whether one of the sender's commands isn't authentic. This is the hot path.

        Whether a holder may touch the volume and the session is asked once, and not for each
        command.
        """
        known: str | None = None
        for row in rows:
            holder = self.keys.holder_of(
                () if batch.headers is None else batch.headers[row],
                topic=batch.topic,
                partition=batch.partition,
                message_key=batch.keys[row],
                value=batch.values[row] or b"",
            )
            if isinstance(holder, str):
                return True
            if holder.name != known and _foreign_reason(holder, sender.volume, sender.session):
                return True
            known = holder.name
        return False

    def _volume_objection(self, message: Message, command: TrackingCommand) -> str | None:
        holder = self._holder(message)
        if isinstance(holder, str):
            return f"volume {command.volume} is authenticated, and the command {holder}"
        session = command.session if command.sequence >= 0 else None
        return _foreign_reason(holder, command.volume, session)

    def _holder(self, message: Message) -> Holder | str:
        return self.keys.holder_of(
            message.headers,
            topic=message.topic,
            partition=message.partition,
            message_key=message.key,
            value=message.value or b"",
        )

    def _session_objection(self, message: Message, command: TrackingCommand) -> str | None:
        if not is_owned(command.session):
            return None
        holder = self._holder(message)
        if isinstance(holder, str):
            return f"session {command.session} is that of a host with a key, and this {holder}"
        if not is_session_of(command.session, holder.name):
            return (
                f"session {command.session} isn't one of holder {holder.name}, whose key made the "
                "code"
            )
        return None


def _foreign_reason(holder: Holder, volume: str, session: str | None) -> str | None:
    """Return why the holder may not touch the volume, or continue the session; None if it may."""
    if not holder.may_touch(volume):
        return f"holder {holder.name} of the command's host key may not touch volume {volume}"
    if session is not None and not is_session_of(session, holder.name):
        return f"session {session} isn't one of holder {holder.name}, whose key made the code"
    return None


def repeat_reason(
    sessions: Mapping[str, SessionHead], command: TrackingCommand, position: int
) -> str | None:
    """Return why an authentic command may be bytes that were sent before; None if it can't be.

    sessions: the heads of the volume's sessions before the command, by name.
    command: of an authenticated volume, without a position of another history.

    - A command at or below the last one of its session, or with a sequence that was used: it is in
      the head already.
    - One that opens a session which the head doesn't name, and whose sender knew no position behind
      the close of a session that the head still names: the session may be one that the head named
      and then forgot.
    - A close without a sequence, whose sender didn't know of an earlier close of the session.
    """
    known = command.acknowledged_position
    head = sessions.get(command.session)
    if command.sequence < 0:
        if known is None:
            return "it doesn't say which position its sender knew"
        if head is not None and known < head.closed_position:
            return f"its session was closed at position {head.closed_position} before"
        return None
    if head is not None:
        is_known = position <= max(head.last_position, head.closed_position)
        is_used = command.sequence <= head.last_sequence
        return HAS_ALREADY if is_known or is_used else None
    closed = (other.closed_position for other in sessions.values() if not other.is_open)
    newest = nlargest(CLOSED_SESSIONS_KEPT, closed)
    forgotten = newest[-1] if len(newest) == CLOSED_SESSIONS_KEPT else BEFORE_FIRST
    if known is not None and known < forgotten:
        return f"it was made before position {forgotten}, and its session isn't known any more"
    return None


def proves_zeros(command: TrackingCommand, volume: Volume, order: SessionOrder) -> bool:
    """Return whether extents that an authentic command zeroed are known to be zero.

    order: how it continues its session. Bytes that were sent again say nothing of today.
    """
    return (
        command.sequence >= 0
        and order.code is StatusCode.ACCEPTED
        and not order.may_repeat
        and command.generation == volume.generation
        and command.acknowledged_position is not None
    )
