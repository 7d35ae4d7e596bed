"""How a command continues its session: the code of its status, and what is missing before it.

The first case that applies decides:

1. The command has no sequence (below 0: it is an operator's, the node's or a successor's):
   ACCEPTED. It opens no session.
2. Its position isn't above the session's last one, so it was folded before: ACCEPTED.
3. Its sender didn't know that the session was closed, or a later session has the volume, of the
   same host or of one that took the volume over: STALE_SESSION.
4. Its sequence was used by the session before: DUPLICATE.
5. Its session is unknown, and the volume's head has left sessions out: ACCEPTED. Nobody can tell
   whether commands before it are missing; the whole volume becomes dirty when these sessions are
   closed (docs/decisions/left-out-sessions.md).
6. It skips sequences: SEQUENCE_GAP. The whole volume becomes dirty.
7. Otherwise: ACCEPTED.

Every command is recorded, because no address is refused for its session (invariant 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mirrorlog.domain.commands import LEFT_OUT_SESSIONS, StatusCode, is_imported_host
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import SessionHead


@dataclass(frozen=True, slots=True)
class SessionOrder:
    """The way in which a command continues its session.

    code, text: of its status.
    missing: the number of the session's commands that never arrived before this one.
    may_repeat: the bytes may have been sent before (authenticity.repeat_reason).
    """

    code: StatusCode
    text: str = ""
    missing: int = 0
    may_repeat: bool = False


class SessionCommand(Protocol):
    """The part of a TrackingCommand that decides how it continues its session."""

    @property
    def host(self) -> str:
        """The host that sent it."""

    @property
    def session(self) -> str:
        """The session."""

    @property
    def sequence(self) -> int:
        """Its number in the session; below 0 if it belongs to none."""

    @property
    def acknowledged_position(self) -> int | None:
        """The highest position that the session knew as acknowledged."""


def session_order(
    sessions: Mapping[str, SessionHead],
    command: SessionCommand,
    position: int,
    *,
    shared: bool = False,
) -> SessionOrder:
    """Return how a command at `position` continues its session.

    sessions: the heads of the volume's sessions before the command, by name.
    shared: two hosts may write to the volume at once.
    """
    head = sessions.get(command.session)
    known_through = max(head.last_position, head.closed_position) if head else BEFORE_FIRST
    last_sequence = head.last_sequence if head else BEFORE_FIRST
    if command.sequence < 0 or position <= known_through:
        return SessionOrder(StatusCode.ACCEPTED)
    if reason := _stale_reason(sessions, head, command, shared=shared):
        return SessionOrder(StatusCode.STALE_SESSION, f"recorded, though {reason}")
    if command.sequence <= last_sequence:
        return SessionOrder(
            StatusCode.DUPLICATE,
            f"recorded already, or its sequence {command.sequence} was used twice",
        )
    missing = command.sequence - last_sequence - 1
    left_out = sessions.get(LEFT_OUT_SESSIONS)
    if missing and head is None and left_out is not None and left_out.is_open:
        return SessionOrder(
            StatusCode.ACCEPTED,
            "the volume has too many open sessions to name them all, so nobody knows whether "
            "commands of this one are missing",
        )
    if missing:
        text = (
            f"recorded; {missing} commands of the session before sequence {command.sequence} "
            "never arrived, so the whole volume was made dirty"
        )
        return SessionOrder(StatusCode.SEQUENCE_GAP, text, missing)
    return SessionOrder(StatusCode.ACCEPTED)


def _stale_reason(
    sessions: Mapping[str, SessionHead],
    head: SessionHead | None,
    command: SessionCommand,
    *,
    shared: bool,
) -> str:
    """Return why the command's session is over, an empty text if it isn't.

    A command that names an acknowledged position at or behind the close knew of the close, and has
    opened the session again. But if another host has taken the volume over since, it is stale for
    ever: two hosts write to the volume.
    """
    if head is None:
        return ""
    known = BEFORE_FIRST if command.acknowledged_position is None else command.acknowledged_position
    if head.closed_position > known:
        return f"its session was closed at position {head.closed_position}"
    for other in sessions.values():
        if other.opened_position <= head.opened_position:
            continue
        if other.host == command.host:
            return f"session {other.session} of the same host began later"
        # A host that is refused the volume opens it and closes it again, and sends nothing else.
        was_admitted = other.last_position > other.opened_position
        if was_admitted and not shared and not is_imported_host(other.host):
            return (
                f"host '{other.host}' has had the volume since position {other.opened_position}, "
                f"session {other.session}: stop one of the two"
            )
    return ""
