"""The one place that puts a host together: its Kafka clients, its state folder and its primaries.

`open_volume` (volume_session.py) and the command line both use it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Final

from mirrorlog.adapters.addresses import open_device, open_primary, path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.folders import SYNC_THREADS
from mirrorlog.adapters.kafka import KafkaAdmin, KafkaPublisher, KafkaReader, ReportPublisher
from mirrorlog.adapters.metrics_server import serving_metrics
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.adapters.secondary_marks import check_no_secondary
from mirrorlog.adapters.task_threads import TaskThreads
from mirrorlog.adapters.tracing import open_tracer
from mirrorlog.domain.volumes import Volume
from mirrorlog.metric_samples import ExportingRole, MetricSamples
from mirrorlog.ports.clock import SystemClock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.streams import Publisher
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.forks.fork_calls import ForkPorts, ThreadWorkers
from mirrorlog.producers.forks.fork_plans import ForkPlan
from mirrorlog.producers.forks.fork_states import ForkStateChange
from mirrorlog.producers.forks.marked_secondary import open_marked_secondary
from mirrorlog.producers.host_metrics import host_samples
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.publishing.traced_publisher import TracedPublisher
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.background_jobs import ThreadJobs
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.open_sessions import SessionPorts
from mirrorlog.reading.partition_counts import partition_count
from mirrorlog.reading.site_reports import SiteReports
from mirrorlog.settings import Settings


def default_host_name(volume: str) -> str:
    """Return the name of the host on this machine that writes to the volume.

    It is the same for every program that writes, so that one activity log covers the volume.
    """
    return f"host-{volume}"


class HostWiring:
    """Makes what the host `name` needs, from the settings.

    Closing `stack` closes everything that this made, in the reverse order. `folder` is not locked
    before `start_host` is called.
    """

    def __init__(self, name: str, settings: Settings, stack: ExitStack) -> None:
        self.name: Final = name
        self.folder: Final = DiskFolder(settings.state_dir / "host" / name)
        self.clock: Final = SystemClock()
        self._settings: Final = settings
        self._client: Final = settings.kafka_client()
        self._stack: Final = stack
        self.admin: Final = KafkaAdmin(self._client)
        stack.callback(self.admin.close)
        publisher = KafkaPublisher(self._client)
        stack.callback(publisher.close)
        tracer = open_tracer("host")
        self.publisher: Final[Publisher] = (
            publisher if tracer is None else TracedPublisher(publisher, tracer, self.clock)
        )
        self._catalog: Catalog | None = None

    def read_catalog(self) -> Catalog:
        """Return the descriptions of all volumes, as of now.

        Raise KafkaFailed if they can't be read, or if the topics differ in their partitions.
        """
        partition_count(self.admin, self._settings.topics)
        reader = KafkaReader(self._client, tells_end=False)
        catalog = Catalog(reader, self.admin, self._settings.topics, self.clock)
        self._stack.callback(catalog.close)
        catalog.refresh()
        self._catalog = catalog
        return catalog

    def open_primary(
        self, volume: Volume, *, address: str | None = None, direct: bool = False
    ) -> FileDevice:
        """Open the volume's primary for writing, and lock it unless the volume is shared.

        address: where this machine reaches the primary, if not at the described address.
        direct: open it with O_DIRECT.
        """
        address = address or volume.primary
        check_no_secondary(path_of(address))
        return self._stack.enter_context(
            open_primary(address, exclusive=not volume.shared, direct=direct)
        )

    def start_host(
        self,
        volumes: Mapping[str, Volume],
        *,
        forks: Mapping[str, ForkPlan],
        on_fork_change: Callable[[ForkStateChange], None] = lambda _: None,
        report: Callable[[str], None],
    ) -> Host:
        """Start the host's session (Host.__init__ has the steps). The caller closes the host.

        volumes: all volumes that exist, by name.
        forks: the plan of each forked volume, by volume name.
        on_fork_change: called, with the host's lock held, when the state of a secondary changes.
        report: called with each line that people should read.
        """
        reports = ReportPublisher(self._client, self._settings.topics.reports)
        self._stack.callback(reports.close)
        ports = HostPorts(
            self.folder,
            self.publisher,
            self.clock,
            open_device,
            statuses=self._status_ports(),
            marks=PrimaryMarkFiles(self._settings.primary_marks_dir),
            sessions=SessionPorts(lambda: KafkaReader(self._client), self.admin),
            forks=self._fork_ports(on_fork_change) if forks else None,
            descriptions=self._catalog,
            reports=reports,
            flushes=TaskThreads(SYNC_THREADS),
            jobs=ThreadJobs(),
        )
        return Host(
            self.name,
            ports,
            self._settings,
            volumes,
            report=report,
            new_session=self._settings.new_session,
        )

    def serve_metrics(
        self,
        host: Host,
        on_start: Callable[[str], None],
        more: Callable[[], MetricSamples] = tuple,
    ) -> None:
        """Serve the host's metrics, if the settings say so, until the stack is closed.

        on_start: called with their address. more: yields further samples; any thread calls it.
        Raise BadUse if they can't be served there.
        """

        def collect() -> MetricSamples:
            yield from host_samples(host.figures)
            yield from more()

        self._stack.enter_context(
            serving_metrics(self._settings, ExportingRole.HOST, collect, on_start)
        )

    def _status_ports(self) -> StatusPorts | None:
        if not self._settings.confirms_recorded:
            return None
        return StatusPorts(self._closed_reader(tells_end=True), self.admin)

    def _fork_ports(self, on_fork_change: Callable[[ForkStateChange], None]) -> ForkPorts:
        reader = self._closed_reader(tells_end=False)
        reports = SiteReports(reader, self.admin, self._settings.topics, self.clock)
        return ForkPorts(open_marked_secondary, ThreadWorkers(), reports, on_fork_change)

    def _closed_reader(self, *, tells_end: bool) -> KafkaReader:
        """Return a reader that the stack closes. tells_end: as for KafkaReader."""
        reader = KafkaReader(self._client, tells_end=tells_end)
        self._stack.callback(reader.close)
        return reader


def open_request(
    volume: Volume,
    device: BlockDevice,
    *,
    newly_created: bool = False,
    take_over: Collection[str] = (),
    on_close: Callable[[], None] | None = None,
    forks: ForkPlan | None = None,
) -> OpenRequest:
    """Return the request to open `volume` on its primary `device`.

    A volume counts as newly created, too, if its primary holds no data: nobody has written to it.
    """
    is_empty = volume.initially_zeroed and next(device.allocated(), None) is None
    return OpenRequest(
        volume,
        device,
        newly_created=newly_created or is_empty,
        take_over=take_over,
        on_close=on_close,
        forks=forks,
    )
