"""The reports of a session on the topic `mirrorlog.reports`: one of each open volume."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from mirrorlog.codec.events import encode
from mirrorlog.domain.report_pacing import ReportPacing
from mirrorlog.domain.reports import ForkReport, HostReport, HostState
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.reports import ReportSink
from mirrorlog.producers.session.figures import HostFigures, VolumeFigures
from mirrorlog.settings import Settings

_LOOK_S: Final = 0.001
"""A look at a volume takes some 10 us. So all looks take about a hundredth of the time."""


@dataclass(frozen=True, slots=True)
class ReportingSession:
    """The session that reports. started_at_us: microseconds since 1970 by the host's clock."""

    host: str
    session: str
    started_at_us: int


class HostReporter:
    """Publishes the reports of one session. The thread that calls Host.tick() calls it.

    read_figures: Host.figures. It takes no lock, so reporting costs no write anything.
    """

    def __init__(
        self,
        session: ReportingSession,
        read_figures: Callable[[], HostFigures],
        sink: ReportSink,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._session, self._read_figures, self._sink = session, read_figures, sink
        self._clock, self._settings = clock, settings
        self._pacing: Final = ReportPacing(
            interval_s=settings.report_s, idle_s=settings.report_idle_s
        )
        self._looked_s = float("-inf")
        self._look_every_s = settings.report_s
        self._away_since_us: int | None = None

    def tick(self, now_s: float) -> None:
        """Publish the reports that are due. now_s: by the monotonic clock."""
        if now_s - self._looked_s < self._look_every_s:
            return
        self._looked_s = now_s
        reports = self.reports()
        self._look_every_s = max(self._settings.report_s, len(reports) * _LOOK_S)
        for report in reports:
            if self._pacing.is_due(report.key, replace(report, at_us=0), now_s=now_s):
                self._sink.publish(report.key, encode(report))

    def look_soon(self) -> None:
        """Let the next tick() look: a volume was opened."""
        self._looked_s = float("-inf")

    def reports(self) -> list[HostReport]:
        """Return a report of each open volume, as of now."""
        figures, now_us = self._read_figures(), self._clock.now_us()
        if not figures.away_s:
            self._away_since_us = None
        elif self._away_since_us is None:  # kept, so that a report doesn't change by itself
            self._away_since_us = now_us - int(figures.away_s * 1e6)
        return [self._report(volume, figures, now_us) for volume in figures.volumes]

    def close(self, reports: Collection[HostReport]) -> None:
        """Publish that volumes are closed. reports: of these volumes, just before."""
        now_us = self._clock.now_us()
        for report in reports:
            closed = replace(
                report,
                state=HostState.CLOSED,
                at_us=now_us,
                hot_regions=0,
                is_whole_volume_hot=False,
                forks=(),
            )
            self._pacing.forget(report.key)
            self._sink.publish(report.key, encode(closed))

    def _report(self, volume: VolumeFigures, host: HostFigures, now_us: int) -> HostReport:
        return HostReport(
            host=self._session.host,
            volume=volume.volume,
            session=self._session.session,
            generation=volume.generation,
            state=HostState.OPEN,
            started_at_us=self._session.started_at_us,
            at_us=now_us,
            hot_regions=volume.hot_regions,
            hot_regions_limit=host.hot_regions_limit,
            region_bytes=self._settings.region_bytes,
            queued_bytes=host.queued_bytes,
            spool_bytes=host.spool_bytes,
            spool_limit_bytes=host.spool_limit_bytes,
            away_since_us=self._away_since_us,
            writes=volume.writes,
            bytes_written=volume.written_bytes,
            acknowledged_position=volume.acknowledged_position,
            forks=tuple(ForkReport(site=site, state=state) for site, state in volume.forks),
            is_whole_volume_hot=volume.is_whole_volume_hot,
        )
