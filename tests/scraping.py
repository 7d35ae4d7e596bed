"""Pages of metrics as Prometheus reads them, held against the closed list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mirrorlog.adapters.metrics_page import CollectSamples, MetricsExporter
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.metrics import METRICS, PROCESS_METRICS

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
BY_NAME = {metric.name: metric for metric in METRICS}

Page = Mapping[str, Mapping[tuple[str, ...], float]]
"""By name of a sample: by the values of its labels, in their order, its value."""


def read_page(content_type: str, text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples of a page. Fail for a metric that isn't on the list, or is another."""
    is_open = content_type.startswith("application/openmetrics-text")
    parse: Any = parse_openmetrics if is_open else parse_text
    page: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if name not in PROCESS_METRICS:
            metric = BY_NAME[name]
            assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        for sample in family.samples:
            names = BY_NAME[name].labels if name in BY_NAME else ()
            assert sample.labels.keys() - {"le"} == set(names), name
            labels = tuple(
                sample.labels[label] for label in (*names, "le") if label in sample.labels
            )
            values = page.setdefault(sample.name, {})
            assert labels not in values, "a sample twice"
            values[labels] = sample.value
    return page


def scrape(role: ExportingRole, collect: CollectSamples) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the same samples as both formats have them."""
    exporter = MetricsExporter(role, collect)
    pages = [exporter.page(accept) for accept in ("", OPENMETRICS)]
    first, second = (read_page(page.content_type, page.text.decode()) for page in pages)
    assert {name: first[name] for name in first if name not in PROCESS_METRICS} == {
        name: second[name] for name in second if name not in PROCESS_METRICS
    }
    return first


def exported_names(page: Page) -> set[str]:
    """Return the names of mirrorlog's metrics on a page."""
    parts = ("_bucket", "_count", "_sum")
    names = {
        next((name.removesuffix(part) for part in parts if name.endswith(part)), name)
        for name in page
    }
    return names - set(PROCESS_METRICS)
