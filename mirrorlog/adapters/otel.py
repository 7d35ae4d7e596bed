"""Traces through OpenTelemetry. The one file that names it; tracing.py imports it if it is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from threading import local
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import Link, SpanContext, TraceFlags

from mirrorlog.ports.tracing import SpanIds

_EXPORTERS: Final = "opentelemetry_traces_exporter"
"""The group of entry points in which exporters name themselves."""


class PositionIds(IdGenerator):
    """Gives the next span of this thread the ids that `chosen` says, and others random ones."""

    def __init__(self) -> None:
        self._random: Final = RandomIdGenerator()
        self._thread: Final = local()

    def choose(self, ids: SpanIds | None) -> None:
        """Choose the ids of this thread's next span; None: random ones."""
        self._thread.chosen = ids

    def generate_span_id(self) -> int:
        """Return the next span's id."""
        chosen: SpanIds | None = getattr(self._thread, "chosen", None)
        return self._random.generate_span_id() if chosen is None else chosen.span_id

    def generate_trace_id(self) -> int:
        """Return the next trace's id."""
        chosen: SpanIds | None = getattr(self._thread, "chosen", None)
        return self._random.generate_trace_id() if chosen is None else chosen.trace_id


class OtelTracer:
    """The port Tracer. Each span is the root of its trace; links join them.

    provider: add span processors to it.
    """

    def __init__(self, role: str) -> None:
        """Create a tracer without span processors. role: host, node or site."""
        resource = Resource.create({"service.namespace": "mirrorlog"})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": f"mirrorlog-{role}"}))
        self._ids: Final = PositionIds()
        self.provider: Final = TracerProvider(resource=resource, id_generator=self._ids)
        self._tracer: Final = self.provider.get_tracer("mirrorlog")

    def record(
        self,
        name: str,
        *,
        began_us: int,
        ended_us: int,
        attributes: Mapping[str, str | int],
        ids: SpanIds | None = None,
        links: Sequence[SpanIds] = (),
    ) -> None:
        """Take a span, as Tracer says."""
        self._ids.choose(ids)
        span = self._tracer.start_span(
            name,
            Context(),
            attributes={f"mirrorlog.{key}": value for key, value in attributes.items()},
            links=[Link(_context_of(command)) for command in links],
            start_time=began_us * 1000,
        )
        span.end(ended_us * 1000)


def open_otel_tracer(role: str, environment: Mapping[str, str]) -> OtelTracer:
    """Return a tracer with the exporters that the environment names (OTEL_TRACES_EXPORTER).

    Raise ImportError if one of them isn't installed.
    """
    tracer = OtelTracer(role)
    for exporter in _open_exporters(environment):
        tracer.provider.add_span_processor(BatchSpanProcessor(exporter))
    return tracer


def _open_exporters(environment: Mapping[str, str]) -> Iterator[Any]:
    names = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    for name in (part.strip() for part in names.split(",")):
        # The OTLP exporters are packages of their own, one for each protocol.
        full = f"otlp_proto_{protocol.partition('/')[0]}" if name == "otlp" else name
        entry = next(iter(entry_points(group=_EXPORTERS, name=full)), None)
        if entry is None:
            raise ImportError(f"no exporter of traces has the name {full}")
        yield entry.load()()


def _context_of(command: SpanIds) -> SpanContext:
    return SpanContext(
        command.trace_id,
        command.span_id,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
