"""Waiting until secondaries hold all that was written: `site wait` and `status --wait`.

A site reports an idle secondary rarely. So its consistent position may lie far below the last
command of the partition, which is a heartbeat, or of another volume. If no command above it
concerns the volume, what was true at that position is true at the last command, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from mirrorlog.cli.support.present import open_present
from mirrorlog.domain.replica_states import state_of_report
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.reading.last_commands import LastCommands
from mirrorlog.settings import Settings
from mirrorlog.status.health import Thresholds

Seen = TypeVar("Seen")

_POLL_S = 0.2


class NotConsistentYet(MirrorlogError):
    """A secondary didn't become consistent within the time that was given."""


def look_until(
    look: Callable[[], Seen],
    is_done: Callable[[Seen], bool],
    timeout_s: float,
    *,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Look again and again until `is_done`, or until the time is over; return the last look.

    The caller asks `is_done` of it again: at the timeout it isn't. There is at least one look.
    """
    clock = clock or SystemClock()
    until_s = clock.monotonic_s() + timeout_s
    while not is_done(seen := look()) and clock.monotonic_s() < until_s:
        sleep(_POLL_S)
    return seen


def wait_until_consistent(settings: Settings, name: str, timeout_s: float) -> list[SiteProgress]:
    """Wait until every secondary of a volume is proved to equal the primary as of now, or later.

    Return the reports that prove it, at least one. Raise UnknownVolume, NotConsistentYet with the
    state of a secondary at the timeout, and KafkaFailed.
    """
    # A secondary that was promoted is the primary.
    return _wait(settings, name, timeout_s, lambda report: report.state is not SiteState.DETACHED)


def wait_until_site_proves(settings: Settings, name: str, site: str, timeout_s: float) -> None:
    """Wait until a site proves that its secondary equals the primary as of the last command now.

    Raise as wait_until_consistent().
    """
    _wait(settings, name, timeout_s, lambda report: report.site == site)


def _wait(
    settings: Settings, name: str, timeout_s: float, counts: Callable[[SiteProgress], bool]
) -> list[SiteProgress]:
    """Wait until the reports that count prove consistency as of the last command now."""
    with open_present(settings, Thresholds(), volume=name) as view:
        volume = view.described()[name]
        commands = view.last_commands([volume])[volume.partition]

        def look() -> list[SiteProgress]:
            reports = [report for report in view.reports(name) if counts(report)]
            return [carried_forward(report, volume, commands) for report in reports]

        reports = look_until(look, lambda seen: _are_proved(seen, commands.through), timeout_s)
    return proved_reports(reports, name, commands.through)


def carried_forward(report: SiteProgress, volume: Volume, commands: LastCommands) -> SiteProgress:
    """Return a report as of the last command, if it follows from the report and the commands.

    Otherwise return it as it is. volume: its description. commands: of the volume's partition.
    Raise KafkaFailed.
    """
    known, last = report.consistent_position, commands.through
    is_idle = report.state is SiteState.CONSISTENT and report.behind_blocks == 0
    if not is_idle or known is None or known >= last or report.generation != volume.generation:
        return report
    if commands.may_concern(volume.volume, after=known):
        return report
    return replace(report, applied_position=last, consistent_position=last)


def proved_reports(reports: Sequence[SiteProgress], name: str, position: int) -> list[SiteProgress]:
    """Return the reports on volume `name` if they prove each secondary consistent at `position`.

    Raise NotConsistentYet if one doesn't, and if there is none.
    """
    if not _are_proved(reports, position):
        raise _not_yet(name, _unproved(reports, position), position)
    return list(reports)


def _are_proved(reports: Sequence[SiteProgress], position: int) -> bool:
    return bool(reports) and not _unproved(reports, position)


def _unproved(reports: Sequence[SiteProgress], position: int) -> list[SiteProgress]:
    """Return the reports that don't prove consistency at `position` or above."""
    return [report for report in reports if not proves(report.consistent_position, position)]


def proves(consistent_position: int | None, position: int) -> bool:
    """Return whether a secondary with this consistent position holds all through `position`."""
    return consistent_position is not None and consistent_position >= position


def _not_yet(name: str, behind: Sequence[SiteProgress], position: int) -> NotConsistentYet:
    if not behind:
        return NotConsistentYet(
            "no site has reported on the volume",
            where=f"volume {name}",
            next="Start one: `mirrorlog site run`. A site that reads a mirror of the log is heard "
            "by kafka_mirrored_sites.",
        )
    report = behind[0]
    reason = f": {report.reason}" if report.reason else ""
    return NotConsistentYet(
        f"the secondary of {report.site} isn't consistent yet, its state is "
        f"{state_of_report(report)}{reason}",
        where=f"volume {name}, position {position}",
        next="See the output of `mirrorlog site run`, and whether the node and the host run.",
    )
