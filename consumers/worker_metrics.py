"""The metrics of one worker of a site: what it has locked, and how often that has changed."""

from __future__ import annotations

from mirrorlog import metrics
from mirrorlog.consumers.workers.worker_share import WorkerShare
from mirrorlog.metric_samples import MetricSample, MetricSamples


def worker_samples(site: str, share: WorkerShare, volume_count: int) -> MetricSamples:
    """Yield the metrics of a worker. Any thread may call it.

    volume_count: how many volumes its partitions have.
    """
    labels = (site, str(share.slot))
    yield MetricSample(metrics.SITE_WORKERS, share.worker_count(), (site,))
    if share.partition_count is not None:
        yield MetricSample(metrics.SITE_PARTITIONS, share.partition_count, (site,))
    if share.without_worker is not None:
        yield MetricSample(metrics.SITE_WITHOUT_WORKER, len(share.without_worker), (site,))
    yield MetricSample(metrics.SITE_WORKER_PARTITIONS, len(share.held), labels)
    yield MetricSample(metrics.SITE_WORKER_VOLUMES, volume_count, labels)
    yield MetricSample(metrics.SITE_WORKER_TAKEN, share.taken, labels)
    yield MetricSample(metrics.SITE_WORKER_GIVEN_BACK, share.given_back, labels)
