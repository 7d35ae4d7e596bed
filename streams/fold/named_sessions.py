"""Which sessions a volume's head names: it fits into a message, whatever never closes. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from mirrorlog.domain.commands import LEFT_OUT_SESSIONS
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.tracking_log.heads import SessionHead, left_out

CLOSED_SESSIONS_KEPT: Final = 8
"""The closed sessions that a volume's head names: those that were closed last."""
MAX_OPEN_SESSIONS: Final = 256
"""The most open sessions that a volume's head names."""
_OPEN_SESSIONS_MAX_BYTES: Final = 400_000
FEW_SESSIONS: Final = 32
"""So many sessions always fit into a head, however long their names are."""


class NamedSessions(NamedTuple):
    """The sessions that a head names, and the open ones that it leaves out from now on."""

    named: tuple[SessionHead, ...]
    left_out: tuple[SessionHead, ...]


def named_sessions(
    sessions: Mapping[str, SessionHead], *, through: int, beats: Mapping[str, int]
) -> NamedSessions:
    """Return which of a volume's sessions its head names: it must fit into a message.

    It names all open sessions and the last few closed ones. Of too many open ones, those stay that
    were heard of last. For the others stands one session, LEFT_OUT_SESSIONS
    (docs/decisions/left-out-sessions.md).

    through: the last position of the flush. beats: by session, the position of its last heartbeat;
    needed if there are more than FEW_SESSIONS.
    """
    closed = sorted(
        (head for head in sessions.values() if not head.is_open),
        key=lambda head: head.closed_position,
    )
    dropped = {head.session for head in closed[:-CLOSED_SESSIONS_KEPT]}
    left: tuple[SessionHead, ...] = ()
    if len(sessions) > FEW_SESSIONS:
        left = _too_many(sessions.values(), beats)
    if not left:
        return NamedSessions(_without(sessions, dropped), ())
    known = [sessions[LEFT_OUT_SESSIONS]] if LEFT_OUT_SESSIONS in sessions else []
    others = left_out([*left, *known], position=through)
    dropped |= {head.session for head in (*left, others)}
    return NamedSessions((*_without(sessions, dropped), others), left)


def _too_many(sessions: Iterable[SessionHead], beats: Mapping[str, int]) -> tuple[SessionHead, ...]:
    """Return the open sessions for which a head has no room, those heard of last first.

    A session that never sent a heartbeat ranks below the others.
    """
    open_heads = [head for head in sessions if head.is_open and head.session != LEFT_OUT_SESSIONS]

    def heard(head: SessionHead) -> tuple[bool, int]:
        beat = beats.get(head.session, BEFORE_FIRST)
        return beat > BEFORE_FIRST, max(beat, head.last_position)

    open_heads.sort(key=heard, reverse=True)
    sizes = list(accumulate(head.size_bytes for head in open_heads))
    room = min(MAX_OPEN_SESSIONS, bisect_right(sizes, _OPEN_SESSIONS_MAX_BYTES))
    return tuple(open_heads[room:])


def _without(
    sessions: Mapping[str, SessionHead], names: Collection[str]
) -> tuple[SessionHead, ...]:
    return tuple(head for head in sessions.values() if head.session not in names)
