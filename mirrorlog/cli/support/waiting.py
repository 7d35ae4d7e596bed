"""Waiting until the secondaries of a volume hold all that was written to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from mirrorlog.adapters.kafka import KafkaAdmin, KafkaReader
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings

_POLL_S = 0.2


class NotConsistentYet(MirrorlogError):
    """A secondary didn't become consistent within the time that was given."""


def wait_until_consistent(settings: Settings, name: str, timeout_s: float) -> list[SiteProgress]:
    """Wait until every secondary of a volume is proved to equal the primary as of now, or later.

    Return the reports that prove it, at least one. Raise UnknownVolume, NotConsistentYet with the
    state of a secondary at the timeout, and KafkaFailed.
    """
    volume, clock = find_volume(settings, name), SystemClock()
    with ExitStack() as stack:
        reader, admin = KafkaReader(settings.kafka_client()), KafkaAdmin(settings.kafka_client())
        stack.callback(reader.close)
        stack.callback(admin.close)
        position = admin.end_position(settings.topics.commands, volume.partition) - 1
        reports = SiteReports(reader, admin, settings.topics, clock)
        return await_reports(reports, name, position, clock, timeout_s)


def await_reports(
    reports: SiteReports, name: str, position: int, clock: Clock, timeout_s: float
) -> list[SiteProgress]:
    """Wait until the reports on volume `name` prove every secondary consistent at `position`.

    Return these reports. Raise NotConsistentYet at the timeout.
    """
    until_s = clock.monotonic_s() + timeout_s
    reports.refresh()
    while not (known := list(reports.of(name))) or unproved(known, position):
        if clock.monotonic_s() >= until_s:
            raise _not_yet(name, unproved(known, position), position)
        reports.poll(_POLL_S)
    return known


def unproved(reports: Sequence[SiteProgress], position: int) -> list[SiteProgress]:
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
            next="Start one: `mirrorlog site run`.",
        )
    report = behind[0]
    reason = f": {report.reason}" if report.reason else ""
    return NotConsistentYet(
        f"the secondary of {report.site} isn't consistent yet, its state is {report.state}{reason}",
        where=f"volume {name}, position {position}",
        next="See the output of `mirrorlog site run`, and whether the node and the host run.",
    )
