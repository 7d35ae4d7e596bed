"""States of one secondary of a forked volume.

    OUT ── it is time to try ──▶ OPENING ── opened ──▶ JOINING ── its site knows what it has missed ──▶ IN
    OPENING, JOINING, IN ── a call fails ──▶ OUT
    OPENING, JOINING, IN ── given up while a call is under way ──▶ HUNG ── the call returns ──▶ OUT
    any ── the volume is closed ──▶ CLOSED

Rules:
- Writes go to a secondary that is IN, in the order in which they ended on the primary; a secondary in any other state misses
  them. So what it holds is the primary at some moment.
- Whatever puts a secondary out, what waits for it and what it wasn't flushed after is missed; the writer hears nothing of it.
- HUNG: the write under way may still land. It stays in flight, and is named as missed with each batch and heartbeat until its
  call returns, and then once more. Nothing else is asked of the secondary before that.
- JOINING: writes that come after others which it has missed may not reach it before its site knows of these (may_join).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Final


class ForkState(StrEnum):
    """Where a secondary is."""

    OUT = "OUT"  # nothing goes to it; it is opened again after a while
    OPENING = "OPENING"  # it is being opened
    JOINING = "JOINING"  # it is open, and its site doesn't know yet what it has missed
    IN = "IN"  # each write goes to it
    HUNG = "HUNG"  # out, and a call to it hasn't returned
    CLOSED = "CLOSED"  # the volume is closed


class ForkEvent(Enum):
    """What happens to it."""

    RETRIED = auto()
    OPENED = auto()
    SITE_KNOWS = auto()
    FAILED = auto()  # no call is under way
    GIVEN_UP = auto()  # a call is
    RETURNED = auto()
    CLOSED = auto()


_S, _E = ForkState, ForkEvent
TRANSITIONS: Final[Mapping[tuple[ForkState, ForkEvent], ForkState]] = MappingProxyType(
    {
        (_S.OUT, _E.RETRIED): _S.OPENING,
        (_S.OPENING, _E.OPENED): _S.JOINING,
        (_S.OPENING, _E.FAILED): _S.OUT,
        (_S.OPENING, _E.GIVEN_UP): _S.HUNG,
        (_S.JOINING, _E.SITE_KNOWS): _S.IN,
        (_S.JOINING, _E.FAILED): _S.OUT,
        (_S.JOINING, _E.GIVEN_UP): _S.HUNG,
        (_S.IN, _E.FAILED): _S.OUT,
        (_S.IN, _E.GIVEN_UP): _S.HUNG,
        (_S.HUNG, _E.RETURNED): _S.OUT,
        **{(state, _E.CLOSED): _S.CLOSED for state in ForkState},
    }
)
"""Whatever isn't here can't happen: a KeyError is a defect."""
