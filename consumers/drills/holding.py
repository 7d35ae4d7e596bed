"""Holds a secondary still at a consistent position, beside the site that runs or without one.

1. The drill asks the site to stop at its next consistent position (drill_holds.py). Until then,
   cycles and their proofs go on, so a drill never leaves a secondary inconsistent.
2. It tries to lock the secondary (still_secondaries.py). That fails while somebody has it open to
   write. From the lock on, nobody writes to it from whom a lock can keep it.
3. It reads the state that the site has saved, and holds it against the mark of the secondary, so
   that something in its place isn't taken for it. A site saves that a cycle runs before it writes
   the first block (InPlaceCycles.run, step 2). So if the state says that the secondary is
   consistent, it is, and stays so for as long as the lock is held.
4. Otherwise it gives the lock up, and tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from mirrorlog.consumers.state.drill_holds import RENEW_S, DrillHolds
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice

_POLL_S: Final = 0.05
_GO_ON_S: Final = 0.5
"""For so long the site has the secondary to itself after a look that found it inconsistent."""


class NotHeld(MirrorlogError):
    """A secondary couldn't be held still at a consistent position."""


@dataclass(frozen=True, slots=True)
class StillSecondary:
    """A secondary that nobody writes to.

    position: it equals the primary as of it; None if it is consistent at no position, and
    `claims_nothing` says why. saved_at_us: when its site saved that, microseconds since 1970.
    state: what its site has saved of it; None if nothing that is about this secondary.
    """

    device: BlockDevice
    position: int | None
    saved_at_us: int | None
    claims_nothing: str | None = None
    state: SecondaryState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPorts:
    """What holding needs.

    where: the secondary, for people. open_still: opens and locks it; returns None if somebody has
    it open to write. look: returns what its site has saved of it, and why that isn't about the
    device that was opened (meet_saved). stopped: returns whether to give up.
    """

    where: str
    holds: DrillHolds
    open_still: Callable[[], BlockDevice | None]
    look: Callable[[BlockDevice], tuple[SecondaryState | None, str | None]]
    clock: Clock
    sleep: Callable[[float], None]
    stopped: Callable[[], bool] = lambda: False


class DrillHold:
    """The hold of one secondary. renew() must be called every RENEW_S, or more often."""

    def __init__(self, volume: str, ports: HoldPorts) -> None:
        self._volume, self._ports = volume, ports
        self._renewed_at_s = float("-inf")

    def renew(self) -> None:
        """Keep the site from taking the drill for dead. Raise DeviceFailed."""
        now_s = self._ports.clock.monotonic_s()
        if now_s - self._renewed_at_s >= RENEW_S:
            self._ports.holds.renew(self._volume)
            self._renewed_at_s = now_s

    def end(self) -> None:
        """Let the site go on. The lock must have been given up."""
        self._ports.holds.end(self._volume)

    def take(self, *, wait_s: float, force: bool) -> StillSecondary:
        """Return the secondary, held. The caller closes its device, which gives up the lock.

        force: take an inconsistent one if nobody writes to it. Raise NotHeld after `wait_s`, or
        when it is stopped; DeviceFailed and StateDamaged.
        """
        until_s = self._ports.clock.monotonic_s() + wait_s
        why = "nothing was seen yet"
        while not self._ports.stopped():
            self.renew()
            held = self._look()
            if held is None:
                why = "a site, a promotion, a fork, a host or QEMU has it open to write"
            elif held.position is not None or force:
                return held
            else:
                why = held.claims_nothing or why
                held.device.close()
                self._ports.sleep(_GO_ON_S)
            if self._ports.clock.monotonic_s() >= until_s:
                raise self._not_held(why, wait_s)
            self._ports.sleep(_POLL_S)
        raise NotHeld("the drill was stopped before it began", where=self._ports.where)

    def _look(self) -> StillSecondary | None:
        """Return the secondary if it can be locked now; None if somebody writes to it."""
        device = self._ports.open_still()
        if device is None:
            return None
        try:
            return _held(device, *self._ports.look(device))
        except BaseException:
            device.close()
            raise

    def _not_held(self, why: str, wait_s: float) -> NotHeld:
        return NotHeld(
            f"the secondary could not be held at a consistent position within {wait_s:g} s: {why}",
            where=f"volume {self._volume}, {self._ports.where}",
            next="Wait longer (--wait), stop what writes to it, or see `mirrorlog status`. With "
            "--force, an inconsistent one is served once it is paused (`mirrorlog site pause`).",
        )


@contextmanager
def holding(
    volume: str, ports: HoldPorts, *, wait_s: float, force: bool
) -> Iterator[tuple[StillSecondary, DrillHold]]:
    """Hold a secondary until the block ends, or until its device is closed. Raise as take()."""
    hold = DrillHold(volume, ports)
    try:
        held = hold.take(wait_s=wait_s, force=force)
        try:
            yield held, hold
        finally:
            held.device.close()
    finally:
        hold.end()


def _held(device: BlockDevice, state: SecondaryState | None, doubt: str | None) -> StillSecondary:
    if doubt is not None:
        return StillSecondary(device, None, None, doubt)
    if state is None:
        return StillSecondary(device, None, None, "its site has saved nothing of it")
    if state.consistent_position is not None:
        return StillSecondary(device, state.consistent_position, state.updated_at_us, state=state)
    if state.cycle_through is not None:
        why = f"a cycle through position {state.cycle_through} isn't finished"
    elif state.suspect_after is not None:
        why = f"blocks that were read after position {state.suspect_after} aren't proved"
    else:
        why = "its site calls it consistent at no position"
    return StillSecondary(device, None, state.updated_at_us, why, state)
