"""How far an archiver is: its report for `mirrorlog status`, and its metrics."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from threading import Lock

from mirrorlog import metrics
from mirrorlog.codec.events import encode
from mirrorlog.consumers.archive.archiver import Written
from mirrorlog.domain.archive_reports import ArchivedPartition, ArchiveReport
from mirrorlog.errors import MirrorlogError
from mirrorlog.metric_samples import MetricSample, MetricSamples
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.reports import ReportSink


@dataclass(slots=True)
class _Counts:
    commands: int = 0
    size_bytes: int = 0
    failures: int = 0
    complete_at_us: int | None = None
    last: ArchivedPartition | None = None


@dataclass(slots=True)
class ArchiveProgress:
    """What one archiver did. One thread notes it; any thread may call samples().

    archive: the address. every_s, keep_s: as in ArchiveReport.
    """

    archive: str
    every_s: float | None
    keep_s: float | None
    clock: Clock
    _counts: dict[int, _Counts] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def note_written(self, written: Written, first_kept: int | None) -> None:
        """Note a round of a partition. first_kept: after the round, if something was deleted."""
        view = written.view
        assert view is not None
        chain, watermark = view.chain, view.watermark
        reason = None if written.is_complete else written.waits_for
        part = ArchivedPartition(
            partition=written.partition,
            archived_through=-1 if chain is None else chain.through,
            recorded_through=None if watermark is None else watermark.through,
            first_kept=view.first_kept if first_kept is None else first_kept,
            reason=reason if watermark is not None else None,
        )
        with self._lock:
            counts = self._counts.setdefault(written.partition, _Counts())
            counts.last = part
            counts.commands += written.commands
            counts.size_bytes += written.size_bytes
            if written.is_complete:
                counts.complete_at_us = self.clock.now_us()

    def note_failure(self, partition: int, error: MirrorlogError) -> None:
        """Note that the round of a partition failed."""
        with self._lock:
            counts = self._counts.setdefault(partition, _Counts())
            counts.failures += 1
            known = counts.last or ArchivedPartition(partition=partition)
            counts.last = ArchivedPartition(
                partition=partition,
                archived_through=known.archived_through,
                reason=error.what,
            )

    def publish(self, sink: ReportSink, *, is_over: bool = False) -> None:
        """Publish the report."""
        with self._lock:
            parts = [counts.last for _, counts in sorted(self._counts.items())]
        report = ArchiveReport(
            archive=self.archive,
            host=socket.gethostname(),
            at_us=self.clock.now_us(),
            every_s=self.every_s,
            keep_s=self.keep_s,
            partitions=tuple(part for part in parts if part is not None),
            is_over=is_over,
        )
        sink.publish(report.key, encode(report))

    def samples(self) -> MetricSamples:
        """Return the metrics."""
        with self._lock:
            return [
                sample
                for number, counts in sorted(self._counts.items())
                for sample in _samples(str(number), counts)
            ]


def _samples(partition: str, counts: _Counts) -> MetricSamples:
    labels, last = (partition,), counts.last
    yield MetricSample(metrics.ARCHIVE_COMMANDS, counts.commands, labels)
    yield MetricSample(metrics.ARCHIVE_BYTES, counts.size_bytes, labels)
    yield MetricSample(metrics.ARCHIVE_FAILURES, counts.failures, labels)
    if counts.complete_at_us is not None:
        yield MetricSample(metrics.ARCHIVE_COMPLETE, counts.complete_at_us / 1e6, labels)
    if last is None or last.archived_through is None:
        return
    yield MetricSample(metrics.ARCHIVE_THROUGH, last.archived_through, labels)
    if last.recorded_through is not None:
        behind = max(0, last.recorded_through - last.archived_through)
        yield MetricSample(metrics.ARCHIVE_BEHIND, behind, labels)
