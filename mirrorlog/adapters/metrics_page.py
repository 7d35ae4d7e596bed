"""Samples as the text that Prometheus reads (prometheus_client)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import chain
from threading import Lock
from typing import Any, Final, NamedTuple, TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from mirrorlog.metric_samples import (
    ExportingRole,
    HistogramValue,
    MetricDefinition,
    MetricKind,
    MetricSample,
    MetricSamples,
)
from mirrorlog.metrics import BUILD_INFO

CollectSamples: TypeAlias = Callable[[], MetricSamples]
"""Reads the state of a role, and yields its samples."""


class MetricsPage(NamedTuple):
    """A page of metrics. content_type: of the format that the reader asked for."""

    content_type: str
    text: bytes


class MetricsExporter:
    """Makes pages of metrics. Nothing is collected between two pages.

    Any thread may ask. One page is made at a time, because the page of a site with 10,000 volumes
    takes 80 MB while it is made.
    """

    def __init__(self, role: ExportingRole, collect: CollectSamples) -> None:
        self._collect: Final = collect
        self._build: Final = MetricSample(BUILD_INFO, 1, (role, version("mirrorlog")))
        self._process: Final = ProcessCollector(registry=None)
        self._making: Final = Lock()

    def page(self, accept: str) -> MetricsPage:
        """Return a page in the format that the header Accept prefers.

        That is OpenMetrics, or Prometheus' older text format.
        """
        encode, content_type = choose_encoder(accept)
        registry: Any = self
        with self._making:
            return MetricsPage(content_type, encode(registry))

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, as the library's encoders ask for them."""
        families: dict[MetricDefinition, Metric] = {}
        for sample in chain((self._build,), self._collect()):
            definition = sample.metric
            family = families.get(definition)
            if family is None:
                family = families[definition] = _family(definition)
            labels = dict(zip(definition.labels, sample.labels, strict=True))
            if isinstance(sample.value, HistogramValue):
                _add_histogram(family, definition.name, labels, sample.value)
            else:
                family.add_sample(definition.name, labels, sample.value)
        yield from families.values()
        yield from self._process.collect()


def _family(definition: MetricDefinition) -> Metric:
    """Return the metric without samples. The library adds `_total` to the name of a counter."""
    name = definition.name
    if definition.kind is MetricKind.COUNTER:
        name = name.removesuffix("_total")
    return Metric(name, definition.meaning, str(definition.kind))


def _add_histogram(
    family: Metric, name: str, labels: dict[str, str], value: HistogramValue
) -> None:
    buckets = value.cumulative()
    for bound, count in buckets:
        family.add_sample(f"{name}_bucket", labels | {"le": bound}, count)
    family.add_sample(f"{name}_count", labels, buckets[-1][1])
    family.add_sample(f"{name}_sum", labels, value.total)
