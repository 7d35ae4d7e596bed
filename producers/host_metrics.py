"""The metrics of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from mirrorlog import metrics
from mirrorlog.metric_samples import MetricSample, MetricSamples, state_samples
from mirrorlog.producers.forks.fork_states import ForkState
from mirrorlog.producers.session.figures import HostFigures, VolumeFigures

if TYPE_CHECKING:
    from mirrorlog.producers.nbd.export import KeptForSnapshots


def host_samples(read_figures: Callable[[], HostFigures]) -> MetricSamples:
    """Yield the metrics of a host. Any thread may call it. read_figures: Host.figures."""
    figures = read_figures()
    yield MetricSample(metrics.HOST_COMMANDS, figures.commands)
    yield MetricSample(metrics.HOST_ACKNOWLEDGEMENT, figures.acknowledgement_s)
    yield MetricSample(metrics.HOST_HOT_REGIONS_LIMIT, figures.hot_regions_limit)
    yield MetricSample(metrics.HOST_QUEUED, figures.queued_bytes)
    yield MetricSample(metrics.HOST_SPOOL, figures.spool_bytes)
    yield MetricSample(metrics.HOST_SPOOL_LIMIT, figures.spool_limit_bytes)
    yield MetricSample(metrics.HOST_KAFKA_AWAY, figures.away_s)
    for volume in figures.volumes:
        yield from _volume_samples(volume)


def _volume_samples(figures: VolumeFigures) -> Iterator[MetricSample]:
    labels = (figures.volume,)
    yield MetricSample(metrics.HOST_WRITES, figures.writes, labels)
    yield MetricSample(metrics.HOST_WRITTEN, figures.written_bytes, labels)
    yield MetricSample(metrics.HOST_HOT_REGIONS, figures.hot_regions, labels)
    yield MetricSample(metrics.HOST_WHOLE_VOLUME, figures.is_whole_volume_hot, labels)
    yield MetricSample(metrics.HOST_VOLUME_FAILED, figures.has_failed, labels)
    for site, state in figures.forks:
        yield from state_samples(metrics.HOST_FORK_STATE, state, ForkState, (*labels, site))


class SnapshotKeeper(Protocol):
    """The part of an Export that is needed (nbd/export.py)."""

    def kept_for_snapshots(self) -> KeptForSnapshots | None:
        """Return what is kept for snapshots of the export now; None if it has none."""


def export_samples(volume: str, export: SnapshotKeeper) -> MetricSamples:
    """Yield the metrics of a volume's export. Any thread may call it while the export is open."""
    kept = export.kept_for_snapshots()
    if kept is not None:
        yield MetricSample(metrics.HOST_SNAPSHOT_DISK, kept.disk_bytes, (volume,))
        yield MetricSample(metrics.HOST_SNAPSHOT_DISK_LIMIT, kept.disk_limit_bytes, (volume,))
