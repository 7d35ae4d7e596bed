"""States of one secondary of a forked volume.

    OUT ── it is time to try ──▶ OPENING ── opened ──▶ JOINING
    JOINING ── its site knows what it has missed ──▶ IN
    OPENING, JOINING, IN ── a call fails ──▶ OUT
    OPENING, JOINING, IN ── given up during a call ──▶ HUNG
    HUNG ── the call returns ──▶ OUT
    any ── the volume is closed ──▶ CLOSED

Rules:
- A secondary that is IN gets all writes, in the order in which they ended on the primary. In any
  other state it misses them. So its contents are those of the primary at some moment.
- When a secondary leaves the fork, it misses what waits in its queue and what it hasn't flushed.
  The writer sees no error.
- HUNG: the write of the call may still take effect. It stays in flight: each batch and each
  heartbeat names it as missed until the call returns, and then once more. Until then the
  secondary gets no other call.
- JOINING: the secondary has missed writes. Later writes may not reach it before its site knows of
  the missed ones (missed_writes.may_join).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Final


class ForkState(StrEnum):
    """The state of a secondary."""

    OUT = "OUT"  # it gets no writes; the host opens it again after a while
    OPENING = "OPENING"  # the host is opening it
    JOINING = "JOINING"  # it is open, and its site doesn't know yet what it has missed
    IN = "IN"  # it gets every write
    HUNG = "HUNG"  # it is out, and a call to it hasn't returned
    CLOSED = "CLOSED"  # the volume is closed


class ForkEvent(Enum):
    """An event that changes the state of a secondary."""

    RETRIED = auto()
    OPENED = auto()
    SITE_KNOWS = auto()
    FAILED = auto()  # it leaves the fork, and no call to it is running
    GIVEN_UP = auto()  # it leaves the fork while a call to it is running
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
"""All that can happen: a KeyError is a defect."""


@dataclass(frozen=True, slots=True)
class ForkStateChange:
    """The state of a secondary has changed. text: a line for people; None if they needn't know."""

    volume: str
    site: str
    state: ForkState
    reason: str | None
    text: str | None


def state_change(
    volume: str,
    site: str,
    *,
    before: ForkState,
    state: ForkState,
    reason: str | None,
) -> ForkStateChange:
    """Return the change from `before` to `state`."""
    text = None
    if state is ForkState.IN:
        text = f"volume {volume}: the secondary at {site} is in the fork"
    elif state in (ForkState.OUT, ForkState.HUNG) and reason is not None:
        if before is ForkState.IN:
            text = (
                f"volume {volume}: the secondary at {site} is out of the fork, and its site "
                f"copies what it misses: {reason}"
            )
        else:
            text = f"volume {volume}: the secondary at {site} can't be in the fork: {reason}"
    return ForkStateChange(volume, site, state, reason, text)
