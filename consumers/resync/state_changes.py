"""The changes of state of a site's secondaries, each told once, for people who watch the site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.ports.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondaryChange:
    """A secondary has another state than before.

    before: None if it is the first state since the site's start.
    position: the applied position that is saved; None if there is none.
    rung, to_copy_bytes: of the cycle that begins, if it is SYNCING now.
    copied, duration_s: since its first cycle after it was CONSISTENT, or since the site's start, if
        it is CONSISTENT now; None if no cycle ran.
    reason: why it is STOPPED, RETIRED or WAITING, or why a rung above CHANGED is taken.
    is_routine: a step of a cycle by which a secondary that was CONSISTENT follows new writes.
    """

    volume: str
    before: SiteState | None
    state: SiteState
    position: int | None
    rung: Rung | None = None
    to_copy_bytes: int | None = None
    copied: CopyCounts | None = None
    duration_s: float | None = None
    reason: str | None = None
    is_routine: bool = False


OnChange: TypeAlias = Callable[[SecondaryChange], None]
"""Takes each change of state of a secondary, in the order of the changes of one volume."""


@dataclass(slots=True)
class _Known:
    """What was told last of a secondary, and when its first unfinished cycle began.

    is_routine: it was CONSISTENT, and has taken only the rung CHANGED since.
    """

    state: SiteState
    reason: str | None
    began_s: float | None = None
    began: CopyCounts = CopyCounts()  # noqa: RUF009 - it is frozen
    is_routine: bool = False


class StateChanges:
    """Finds the changes of state of secondaries, and passes each to `on_change` once.

    A secondary that stays STOPPED for another reason is told again.
    """

    def __init__(self, clock: Clock, on_change: OnChange) -> None:
        self._clock, self._on_change = clock, on_change
        self._known: dict[str, _Known] = {}

    def begin_cycle(self, secondary: Secondary, step: Resync) -> None:
        """Note that a cycle of a secondary has begun."""
        volume = secondary.volume
        blocks = volume.blocks if step.blocks is None else len(step.blocks)
        known = self._known.get(volume.volume)
        was_consistent = known is not None and known.state is SiteState.CONSISTENT
        is_routine = step.rung is Rung.CHANGED and (
            was_consistent or (known is not None and known.is_routine)
        )
        began_s, began = self._clock.monotonic_s(), secondary.counts
        if known is not None and known.began_s is not None:
            began_s, began = known.began_s, known.began
        now = _Known(SiteState.SYNCING, step.reason, began_s, began, is_routine)
        self._known[volume.volume] = now
        if known is None or known.state is not SiteState.SYNCING:
            self._on_change(
                SecondaryChange(
                    volume=volume.volume,
                    before=known.state if known else None,
                    state=SiteState.SYNCING,
                    position=_applied(secondary),
                    rung=step.rung,
                    to_copy_bytes=volume.bytes_of(blocks) - (step.running.copied_bytes or 0),
                    reason=step.reason,
                    is_routine=is_routine,
                )
            )

    def forget(self, volume: str) -> None:
        """Forget a volume that the site works for no more."""
        self._known.pop(volume, None)

    def look(self, secondary: Secondary) -> None:
        """Look at the state of a secondary after its step."""
        name, state = secondary.volume.volume, secondary.state
        reason = secondary.status.reason
        known = self._known.get(name)
        if (
            known is not None
            and known.state is state
            and (state is not SiteState.STOPPED or known.reason == reason)
        ):
            return
        copied, duration_s = None, None
        is_consistent = state is SiteState.CONSISTENT
        if is_consistent and known is not None and known.began_s is not None:
            copied = secondary.counts - known.began
            duration_s = self._clock.monotonic_s() - known.began_s
        is_routine = (
            known is not None
            and known.is_routine
            and state in (SiteState.SETTLING, SiteState.CONSISTENT)
        )
        now = _Known(state, reason, is_routine=is_routine)
        if known is not None and not is_consistent:
            now.began_s, now.began = known.began_s, known.began
        self._known[name] = now
        self._on_change(
            SecondaryChange(
                volume=name,
                before=known.state if known else None,
                state=state,
                position=_applied(secondary),
                copied=copied,
                duration_s=duration_s,
                reason=reason,
                is_routine=is_routine,
            )
        )


def _applied(secondary: Secondary) -> int | None:
    return None if secondary.saved is None else secondary.saved.applied_position
