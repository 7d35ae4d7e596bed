"""How a command stands in its session: what its status says, and whether something before it is missing.

| the command                                                            | status          | beside being recorded         |
|------------------------------------------------------------------------|-----------------|-------------------------------|
| has no sequence (below 0: an operator's, the node's, a successor's)     | ACCEPTED        | opens no session              |
| was folded before: its position isn't above the session's last         | ACCEPTED        |                               |
| doesn't know of its session's close, or of a later session of its host | STALE_SESSION   | flagged                       |
| has a sequence that the session has used                               | DUPLICATE       |                               |
| leaves out sequences                                                   | SEQUENCE_GAP    | the whole volume is dirty     |
| else                                                                   | ACCEPTED        |                               |

Nothing here refuses an address (invariant 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirrorlog.domain.commands import StatusCode, TrackingCommand
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import SessionHead


@dataclass(frozen=True, slots=True)
class SessionOrder:
    """What the status says. missing: how many commands of the session never arrived before this one."""

    code: StatusCode
    text: str = ""
    missing: int = 0


def session_order(
    sessions: Mapping[str, SessionHead], command: TrackingCommand, position: int
) -> SessionOrder:
    """The standing of a command at `position`, `sessions` being those of its volume before it."""
    mine = sessions.get(command.session)
    known_through = max(mine.last_position, mine.closed_position) if mine else BEFORE_FIRST
    last_sequence = mine.last_sequence if mine else BEFORE_FIRST
    if command.sequence < 0 or position <= known_through:
        return SessionOrder(StatusCode.ACCEPTED)
    if reason := _stale(sessions, mine, command):
        return SessionOrder(StatusCode.STALE_SESSION, f"recorded, though {reason}")
    if command.sequence <= last_sequence:
        return SessionOrder(
            StatusCode.DUPLICATE,
            f"recorded already, or its sequence {command.sequence} was used twice",
        )
    missing = command.sequence - last_sequence - 1
    if missing:
        text = (
            f"recorded; {missing} commands of the session before sequence {command.sequence} never arrived, "
            "so the whole volume was made dirty"
        )
        return SessionOrder(StatusCode.SEQUENCE_GAP, text, missing)
    return SessionOrder(StatusCode.ACCEPTED)


def _stale(
    sessions: Mapping[str, SessionHead], mine: SessionHead | None, command: TrackingCommand
) -> str:
    if mine is None:
        return ""
    knew = BEFORE_FIRST if command.acknowledged_position is None else command.acknowledged_position
    if mine.closed_position > knew:
        return f"its session was closed at position {mine.closed_position}"
    later = [
        s
        for s in sessions.values()
        if s.host == command.host and s.opened_position > mine.opened_position
    ]
    return f"session {later[0].session} of the same host began later" if later else ""
