"""Which state of a volume stands for a time, and what can't be had.

The states are points of backups, and the consistent positions of sites. Their times are those at
which the broker took the last command that they hold. A state is as of a time exactly if the log
names no change of the volume between the two:

- a state before the time, if nothing changed behind it until then;
- a state after the time, if nothing changed from then on until it.

Otherwise the last state before the time is the nearest that can be had, and what was written
between the two is lost to whoever restores it. The log says how much that is.

A site's position moves on with the other volumes of its partition. So a site may be nearer in time
than a point and hold the same bytes. Then the point is taken: it is kept, and the site moves on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.points import AtPosition, AtTime, Point, format_time
from mirrorlog.changed.query import changed_blocks
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.consumers.backup.sources.log_changes import PATIENCE_S, position_facts
from mirrorlog.consumers.backup.sources.source_point import BackupPosition
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention
from mirrorlog.units import format_count, format_duration, format_size

_NEXT: Final = "Name a point by its name (`mirrorlog backup list`), or another time."


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedState:
    """A state of a volume that can be had.

    name: of a point, or `site NAME`. at_us: when the broker took the last command that it holds;
    None if nobody knows. is_point: it is kept in a repository; a site's secondary moves on.
    """

    name: str
    position: BackupPosition
    at_us: int | None
    is_point: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeChoice:
    """The state that stands for a time.

    is_exact: it is the volume as of that time; None if nobody can tell.
    missing_blocks, missing_bytes: what changed between the state and the time; None if it is exact,
    and if nobody can tell. later: the first state after the time; None if there is none.
    """

    asked_us: int
    state: TimedState
    is_exact: bool | None
    missing_blocks: int | None
    missing_bytes: int | None
    later: TimedState | None

    def describe(self) -> str:
        """Return what is had and what isn't, for people."""
        name, asked = self.state.name, format_time(self.asked_us)
        if self.is_exact:
            return f"{name} is the volume as of {asked}: the log names no change between the two"
        assert self.state.at_us is not None
        age = format_duration(max(0.0, (self.asked_us - self.state.at_us) / 1e6))
        text = f"{name} is the volume as of {format_time(self.state.at_us)}, {age} before {asked}"
        if self.missing_blocks is not None and self.missing_bytes is not None:
            text += (
                f": what was written in between isn't in it, "
                f"{format_count(self.missing_blocks, 'block')}, "
                f"{format_size(self.missing_bytes)}"
            )
        else:
            text += ": nobody knows what was written in between"
        if self.later is not None and self.later.at_us is not None:
            text += f". The next state is {self.later.name}, as of {format_time(self.later.at_us)}"
        return text


def choose_for_time(
    states: Iterable[TimedState],
    at_us: int,
    volume: Volume,
    ports: QueryPorts,
    patience_s: float = PATIENCE_S,
) -> TimeChoice:
    """Return the state that stands for a time: an exact one, or the last one before it.

    states: of the volume. Those that aren't consistent are never chosen. volume: its description as
    of now. Raise OutOfRetention if no state can be had, and KafkaFailed.
    """
    states = tuple(states)
    before, after = neighbours(states, at_us)
    earlier, later = neighbours((state for state in states if state.is_point), at_us)
    if _hold_the_same(earlier, before, volume, ports, patience_s):
        before = earlier
    if _hold_the_same(after, later, volume, ports, patience_s):
        after = later
    lost = None
    if before is not None:
        lost = _changed(
            before, AtPosition(before.position.position), AtTime(at_us), volume, ports, patience_s
        )
        if lost is not None and not lost.changed:
            return _exact(at_us, before, after)
    if after is not None:
        since = _changed(
            after, AtTime(at_us), AtPosition(after.position.position), volume, ports, patience_s
        )
        if since is not None and not since.changed and since.asked.volume_began_us is None:
            return _exact(at_us, after, after)
    if before is None:
        raise _nothing_before(at_us, after, volume)
    return TimeChoice(
        asked_us=at_us,
        state=before,
        is_exact=None if lost is None else False,
        missing_blocks=None if lost is None else len(lost.changed),
        missing_bytes=None if lost is None else len(lost.changed) * volume.block_size,
        later=after,
    )


def neighbours(
    states: Iterable[TimedState], at_us: int
) -> tuple[TimedState | None, TimedState | None]:
    """Return the last state at or before a time, and the first one after it. Pure.

    Only consistent states whose time is known count. Of two with one time, the one of the higher
    position is later. Of two with one position, too, a point is nearer than a site's secondary.
    """
    dated = [
        (state.at_us, state.position.position, state)
        for state in states
        if state.position.is_consistent and state.at_us is not None
    ]
    before = max(
        (entry for entry in dated if entry[0] <= at_us),
        key=lambda entry: (*entry[:2], entry[2].is_point),
        default=None,
    )
    after = min(
        (entry for entry in dated if entry[0] > at_us),
        key=lambda entry: (*entry[:2], not entry[2].is_point),
        default=None,
    )
    return before and before[2], after and after[2]


def states_of_sites(
    reports: Sequence[SiteProgress], volume: Volume, ports: QueryPorts
) -> list[TimedState]:
    """Return the states of the sites that call the volume's secondary consistent.

    Each may have moved on when it is to be read: hold it first (SecondarySource).
    Raise KafkaFailed.
    """
    states = []
    for report in reports:
        position = report.consistent_position
        is_there = report.state is SiteState.CONSISTENT and report.generation == volume.generation
        if position is None or not is_there:
            continue
        facts = position_facts(volume, position, ports)
        state = BackupPosition(
            position=position,
            generation=report.generation,
            history_id=volume.history_id,
            anchor=facts.anchor,
            is_consistent=True,
        )
        states.append(
            TimedState(
                name=f"site {report.site}", position=state, at_us=facts.at_us, is_point=False
            )
        )
    return states


def _exact(at_us: int, state: TimedState, later: TimedState | None) -> TimeChoice:
    return TimeChoice(
        asked_us=at_us,
        state=state,
        is_exact=True,
        missing_blocks=None,
        missing_bytes=None,
        later=None if later is state else later,
    )


def _hold_the_same(
    first: TimedState | None,
    second: TimedState | None,
    volume: Volume,
    ports: QueryPorts,
    patience_s: float,
) -> bool:
    """Return whether the log proves that a state and a later one are the same bytes."""
    if first is None or second is None or first is second:
        return False
    since, until = (AtPosition(state.position.position) for state in (first, second))
    changed = None
    if _is_of(second, volume):
        changed = _changed(first, since, until, volume, ports, patience_s)
    return changed is not None and not changed.changed


def _is_of(state: TimedState, volume: Volume) -> bool:
    """Return whether the volume's log names what was written after a state."""
    position = state.position
    return (position.generation, position.history_id) == (volume.generation, volume.history_id)


def _changed(
    state: TimedState,
    since: Point,
    until: Point,
    volume: Volume,
    ports: QueryPorts,
    patience_s: float,
) -> ChangedBlocks | None:
    """Return what changed between a state and a time; None if the log doesn't tell."""
    if not _is_of(state, volume):
        return None
    try:
        return changed_blocks(volume.volume, since, until, ports, patience_s)
    except (BadUse, OutOfRetention):
        return None


def _nothing_before(at_us: int, after: TimedState | None, volume: Volume) -> OutOfRetention:
    first = "there is no consistent state of a known time at all"
    if after is not None and after.at_us is not None:
        first = f"the first state is {after.name}, as of {format_time(after.at_us)}"
    return OutOfRetention(
        f"no state of the volume reaches back to {format_time(at_us)}: {first}",
        where=f"volume {volume.volume}",
        next=_NEXT,
    )
