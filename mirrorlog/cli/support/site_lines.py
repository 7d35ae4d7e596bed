"""What a running site says: when it is ready, each change of state, and what it did at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from mirrorlog.cli.support.line_budget import LineBudget
from mirrorlog.cli.support.output import Output
from mirrorlog.consumers.resync.state_changes import SecondaryChange
from mirrorlog.consumers.workers.worker_status import WorkerStatus
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.domain.replica_states import ReplicaState, replica_state
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.settings import Settings
from mirrorlog.units import format_count, format_duration, format_size

_ROUTINE_S: Final = 60.0
"""A site that follows new writes says so once in this time."""
_NAMED: Final = 5
"""How many volumes the last line names."""


class SiteLines:
    """Prints lines for people, or with --json a message for each.

    monotonic_s: the time by a monotonic clock.
    """

    def __init__(self, site: str, output: Output, monotonic_s: Callable[[], float]) -> None:
        self._site, self._output, self._now_s = site, output, monotonic_s
        self._budget = LineBudget()
        self._last: dict[str, SecondaryChange] = {}
        self._routine: Counter[str] = Counter()
        self._routine_told_s = float("-inf")

    def ready(self, settings: Settings, folder: Path) -> None:
        """Say that the site runs, and what it follows."""
        servers, topics = settings.servers, settings.topics
        fields = {
            "site": self._site,
            "bootstrap_servers": servers.addresses,
            "topics": [topics.changelog, topics.volumes],
            "volumes": list(settings.site_volumes) or None,
            "dir": str(folder.absolute()),
        }
        chosen = ", ".join(settings.site_volumes)
        which = f"the volumes {chosen}" if chosen else "the volumes that name it, or no site"
        self._say(
            "ready",
            fields,
            f"site {self._site} is ready: it mirrors {which}, and follows {topics.changelog} and "
            f"{topics.volumes} at {servers.addresses} ({servers.chosen_by()}); its state is in "
            f"{folder.absolute()}",
        )

    def change(self, change: SecondaryChange) -> None:
        """Say that a secondary has another state, unless too many lines would be printed."""
        self._last[change.volume] = change
        if change.is_routine:
            self._routine[change.volume] += change.state is SiteState.CONSISTENT
        elif self._budget.allows(_shown(change), self._now_s()):
            self._say("state", _fields(self._site, change), _text(change))

    def share(self, status: WorkerStatus) -> None:
        """Say for which partitions a worker works, and forget the volumes of the others."""
        for volume in self._last.keys() - status.volumes:
            del self._last[volume]
            self._routine.pop(volume, None)
        fields = {"site": self._site, **asdict(status), "volumes": len(status.volumes)}
        words = {0: "no partition", 1: "the partition "}
        which = words.get(len(status.partitions), "the partitions ")
        which += ", ".join(map(str, status.partitions))
        self._say(
            "share",
            fields,
            f"worker {status.slot} of site {self._site} works for {which} of "
            f"{status.partition_count}; {format_count(status.workers, 'worker')} "
            f"{'lives' if status.workers == 1 else 'live'}",
        )

    def tick(self, *, ends: bool = False) -> None:
        """Say what was left out, and how the site follows new writes, when that is due."""
        now_s = self._now_s()
        if left_out := self._budget.due(now_s, ends=ends):
            self._say(
                "states",
                {"site": self._site, "changes": left_out, "now": self._counts()},
                f"and {sum(left_out.values())} more changes: {_counted(left_out, 'to ')}; "
                f"now {_counted(self._counts())}",
            )
        cycles = sum(self._routine.values())
        if cycles and (now_s - self._routine_told_s >= _ROUTINE_S or ends):
            volumes = sum(1 for count in self._routine.values() if count)
            self._routine_told_s = now_s
            self._routine.clear()
            self._say(
                "following",
                {"site": self._site, "cycles": cycles, "volumes": volumes, "now": self._counts()},
                f"follows new writes: {format_count(cycles, 'cycle')} of "
                f"{format_count(volumes, 'volume')} copied what changed; "
                f"now {_counted(self._counts())}",
            )

    def stopped(self) -> None:
        """Say what the site leaves, and where it goes on."""
        self.tick(ends=True)
        first = self._sorted()[:_NAMED]
        states = [
            {"volume": report.volume, "state": _shown(report), "position": report.position}
            for report in first
        ]
        named = [_left(change) for change in first]
        more = len(self._last) - len(named)
        listed = "; ".join([*named, *([f"and {more} more"] if more else [])])
        summary = _counted(self._counts()) or "it had no volume yet"
        self._say(
            "stopped",
            {"site": self._site, "now": self._counts(), "volumes": states},
            f"site {self._site} is stopped: {summary}{f' ({listed})' if listed else ''}. Started "
            "again, it goes on from there",
        )

    def _sorted(self) -> list[SecondaryChange]:
        """Return the last changes: of volumes that aren't consistent first, then by name."""
        return sorted(
            self._last.values(),
            key=lambda change: (change.state is SiteState.CONSISTENT, change.volume),
        )

    def _counts(self) -> dict[str, int]:
        return dict(Counter(str(_shown(change)) for change in self._last.values()))

    def _say(self, message_type: str, fields: Mapping[str, object], text: str) -> None:
        if self._output.json:
            self._output.print_message(message_type, fields)
        else:
            self._output.print_text(text)


def _fields(site: str, change: SecondaryChange) -> dict[str, object]:
    return {
        "site": site,
        "volume": change.volume,
        "before": change.before,
        "state": change.state,
        "shown_state": _shown(change),
        "position": change.position,
        "rung": change.rung,
        "to_copy_bytes": change.to_copy_bytes,
        "copied_bytes": change.copied.written_bytes if change.copied else None,
        "read_bytes": change.copied.read_bytes if change.copied else None,
        "compared_bytes": change.copied.compared_bytes if change.copied else None,
        "equal_bytes": change.copied.equal_bytes if change.copied else None,
        "duration_s": change.duration_s,
        "reason": change.reason,
    }


def _shown(change: SecondaryChange) -> ReplicaState:
    """Return the state as people see it."""
    return replica_state(
        change.state,
        applied_position=change.position,
        rung=change.rung,
        reason=change.reason,
        behind_blocks=None,
    )


def _shown_before(change: SecondaryChange) -> ReplicaState | None:
    """Return the state before as people see it; None if there was none, or if it looks the same."""
    if change.before is None:
        return None
    before = _shown(replace(change, state=change.before, rung=None, reason=None))
    return None if before is _shown(change) else before


def _text(change: SecondaryChange) -> str:
    """Return a line such as `vol1: CONSISTENT → RESYNCING by the rung changed`."""
    before = _shown_before(change)
    parts = [f"{change.volume}: {f'{before} → ' if before else ''}{_shown(change)}"]
    if change.rung is not None:
        parts.append(f" by the rung {change.rung}")
    if change.to_copy_bytes is not None:
        parts.append(f", up to {format_size(change.to_copy_bytes)} to copy")
    if change.state is SiteState.CONSISTENT and change.position is not None:
        parts.append(_at(change.position))
    if change.duration_s is not None:
        parts.append(f" after {format_duration(change.duration_s)}")
    if change.copied is not None:
        if change.copied.compared_bytes:
            compared, equal = change.copied.compared_bytes, change.copied.equal_bytes
            parts.append(f", {format_size(compared)} compared, {format_size(equal)} equal")
            parts.append(f", {format_size(change.copied.read_bytes)} read")
        parts.append(f", {format_size(change.copied.written_bytes)} copied")
    if change.reason:
        parts.append(f": {change.reason}")
    return "".join(parts)


def _left(change: SecondaryChange) -> str:
    """Return in words where a secondary is left."""
    if change.position is None:
        return f"{change.volume} {_shown(change)}, with nothing copied in full yet"
    return f"{change.volume} {_shown(change)}{_at(change.position)}"


def _at(position: int) -> str:
    return f" at position {position}" if position > BEFORE_FIRST else " before the first command"


def _counted(counts: Mapping[str, int], before: str = "") -> str:
    return ", ".join(f"{count} {before}{name}" for name, count in sorted(counts.items()))
