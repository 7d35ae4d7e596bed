"""One write's trace reaches the site, and nothing is imported unless traces are switched on."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from notation import volume

from mirrorlog.adapters import tracing
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.ports.tracing import MAX_LINKS, command_ids, latest_ids
from mirrorlog.producers.publishing.traced_publisher import TracedPublisher
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevices
from mirrorlog.simulation.memory_folder import MemoryFolder
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.simulation.world.crashes import Fuse
from mirrorlog.simulation.world.node import NodeModel

SETTINGS = Settings()
TOPICS = SETTINGS.topics
SIZE = 64 * 4096


def test_the_trace_of_one_write_reaches_the_site() -> None:
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from mirrorlog.adapters.otel import OtelTracer

    exporters = {}

    def tracer(role: str) -> OtelTracer:
        made = OtelTracer(role)
        exporters[role] = memory.InMemorySpanExporter()
        made.provider.add_span_processor(export.SimpleSpanProcessor(exporters[role]))
        return made

    broker, clock, devices = MemoryBroker(), ManualClock(look_s=0.01), MemoryDevices()
    broker.create(TOPICS.specs(single_copy=True), 1)
    described = volume(size_bytes=SIZE, primary="memory://v", initially_zeroed=True)
    publisher = broker.publisher()
    publish_volume(publisher, TOPICS, described)
    publisher.flush(1)
    primary, secondary = (devices.create(f"memory://{name}", SIZE) for name in ("v", "copy"))
    node = NodeModel(broker, SETTINGS, Fuse(), Random(1), tracer("node"))
    traced = TracedPublisher(broker.publisher(), tracer("host"), clock)
    host = Host("h", HostPorts(MemoryFolder(), traced, clock, devices), SETTINGS, {"v": described})
    opened = host.open(described, devices("memory://v", writable=True), newly_created=True)
    ports = SitePorts(
        log=LogReader(broker.reader(), broker, TOPICS.changelog, site="a"),
        catalog=Catalog(broker.reader(), broker, TOPICS, clock),
        admin=broker,
        publisher=broker.publisher(),
        states=MemorySecondaryStates(),
        secondaries=MemorySecondaries({"v": primary}, {"v": secondary}),
        open_reader=broker.reader,
        clock=clock,
        tracer=tracer("site"),
    )
    site = Site("a", ports, SETTINGS)
    opened.pwrite(b"x" * 4096, 8192)
    host.drain()
    position = host.last_positions["v"]
    while node.fold(100):
        node.commit()
    while not exporters["site"].get_finished_spans():
        site.run_once(0)

    wanted = command_ids(TOPICS.commands, partition=0, position=position)
    (batch,) = exporters["host"].get_finished_spans()
    assert (batch.context.trace_id, batch.context.span_id) == (wanted.trace_id, wanted.span_id)
    assert batch.attributes["mirrorlog.position"] == position
    for role, name in (("node", "node batch"), ("site", "site cycle")):
        span = exporters[role].get_finished_spans()[-1]
        linked = {(link.context.trace_id, link.context.span_id) for link in span.links}
        assert span.name == name
        assert (wanted.trace_id, wanted.span_id) in linked
        assert span.start_time <= span.end_time


def test_a_span_links_the_latest_commands_only() -> None:
    links = latest_ids("t", partition=3, positions=range(1000))
    assert len(links) == MAX_LINKS
    assert links[-1] == command_ids("t", partition=3, position=999)


@pytest.mark.parametrize(
    ("environment", "is_on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_switches_traces_on(environment: dict[str, str], is_on: bool) -> None:
    assert tracing.is_tracing_on(environment) is is_on


def test_an_exporter_that_is_not_installed_is_named_and_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nowhere")
    assert tracing.open_tracer("host") is None
    assert "mirrorlog[otel]" in caplog.text


def test_opentelemetry_is_not_imported_unless_it_is_switched_on() -> None:
    code = (
        "import sys, mirrorlog.producers.wiring, mirrorlog.consumers.wiring;"
        "from mirrorlog.adapters.tracing import open_tracer; assert open_tracer('x') is None;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "/usr/bin:/bin"})
