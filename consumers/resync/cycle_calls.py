"""CycleCalls: what a site does about a secondary while its cycles run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirrorlog.consumers.resync.cycle_steps import CycleInput, Resync
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.errors import DeviceFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleCalls:
    """What those call who run the cycles of a site.

    stop: a device failed. pause: an operator has paused it while it was read. reading: blocks are
    about to be read. read: they were read, so the end of the commands topic is to be asked for.
    cycle_input: what the next cycle would see. began: a cycle in place has begun. go_on_later: a
    copy of everything has had its turn. save: save states durably.
    """

    stop: Callable[[Secondary, DeviceFailed], None]
    pause: Callable[[Secondary], None]
    reading: Callable[[Secondary], None]
    read: Callable[[Secondary], None]
    cycle_input: Callable[[Secondary], CycleInput]
    began: Callable[[Secondary, Resync], None]
    go_on_later: Callable[[Secondary], None]
    save: Callable[[Sequence[tuple[Secondary, SecondaryState]]], None]
