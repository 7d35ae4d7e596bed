"""What a host is doing now, as numbers for metrics and reports. Reading them takes no lock."""

from __future__ import annotations

from dataclasses import dataclass

from mirrorlog.metric_samples import HistogramValue
from mirrorlog.producers.forks.fork_states import ForkState
from mirrorlog.producers.publishing.outbox import Outbox
from mirrorlog.producers.writes.tracker_state import OpenVolume
from mirrorlog.producers.writes.write_tracker import WriteTracker
from mirrorlog.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFigures:
    """The numbers of one open volume.

    writes, written_bytes: the extents that WRITES commands of the session name, and their bytes.
    hot_regions: in the activity log. is_whole_volume_hot: the whole volume counts as dirty.
    has_failed: no write may begin any more. generation: of the volume's history.
    acknowledged_position: of its last command that Kafka has acknowledged; None before the first.
    forks: by site, the state of its secondary.
    """

    volume: str
    writes: int
    written_bytes: int
    hot_regions: int
    is_whole_volume_hot: bool
    has_failed: bool
    generation: str
    acknowledged_position: int | None
    forks: tuple[tuple[str, ForkState], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFigures:
    """The numbers of one session of a host.

    commands: that it has queued. queued_bytes: of commands that the Kafka client holds.
    spool_bytes, spool_limit_bytes: the disk space that the spool takes, and may take.
    away_s: for how long Kafka has acknowledged nothing although commands wait; 0 if it answers.
    acknowledgement_s: how long the client had each command until it was acknowledged.
    """

    volumes: tuple[VolumeFigures, ...]
    hot_regions_limit: int
    commands: int
    queued_bytes: int
    spool_bytes: int
    spool_limit_bytes: int
    away_s: float
    acknowledgement_s: HistogramValue


def host_figures(tracker: WriteTracker, outbox: Outbox, settings: Settings) -> HostFigures:
    """Return the numbers as of now. Any thread may call it; they may be from moments apart."""
    volumes = sorted(tracker.volumes.copy().values(), key=lambda opened: opened.name)
    return HostFigures(
        volumes=tuple(_volume_figures(opened, outbox) for opened in volumes),
        hot_regions_limit=settings.hot_regions,
        commands=outbox.commands,
        queued_bytes=outbox.queued_bytes,
        spool_bytes=outbox.spool_bytes,
        spool_limit_bytes=settings.host_spool_bytes,
        away_s=outbox.away_s,
        acknowledgement_s=outbox.acknowledgement_s.value(),
    )


def _volume_figures(opened: OpenVolume, outbox: Outbox) -> VolumeFigures:
    written = outbox.written.get(opened.name)
    forks = () if opened.forks is None else opened.forks.secondaries
    return VolumeFigures(
        volume=opened.name,
        writes=written.writes if written else 0,
        written_bytes=written.size_bytes if written else 0,
        hot_regions=len(opened.regions.hot),
        is_whole_volume_hot=opened.tracks_whole_volume,
        has_failed=opened.failed is not None,
        generation=opened.volume.generation,
        acknowledged_position=outbox.last_positions.get(opened.name),
        forks=tuple((secondary.site, secondary.state) for secondary in forks),
    )
