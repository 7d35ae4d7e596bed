"""`mirrorlog host serve`: a volume as an NBD export, through nbdkit (docs/nbd.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from mirrorlog.adapters.addresses import parse_file_address, path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.systemd import open_supervisor
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.forking import ForkModeOption, ForkOption, fork_reporter
from mirrorlog.cli.support.host_lines import HostLines
from mirrorlog.cli.support.listening import ListenOption, PortOption, listen_at
from mirrorlog.cli.support.lookup import load_catalog
from mirrorlog.cli.support.metrics_option import (
    MetricsOption,
    metrics_printer,
    with_metrics,
)
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.supervisor import Supervisor
from mirrorlog.processes.free_memory import keep_memory_low
from mirrorlog.processes.nbd_server import NbdAddress
from mirrorlog.producers.forks.fork_plans import ForkPlan, fork_plans
from mirrorlog.producers.host_metrics import export_samples
from mirrorlog.producers.nbd.export import DataPath, Export, FilterExport, RelayExport
from mirrorlog.producers.nbd.native import build_libraries
from mirrorlog.producers.nbd.nbdkit_process import (
    NbdkitProcess,
    TlsMode,
    TlsOptions,
    nbdkit_path,
)
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.wiring import HostWiring, default_host_name, open_request
from mirrorlog.producers.writes.tracked_volume import TrackedVolume

TICK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `host serve`.

    primary: the address at which this host reaches the primary.
    host: the name of the host.
    listen: where clients connect.
    take_over: sessions of other hosts that are gone for good.
    forks: how writes are forked; None for a volume without forks.
    """

    volume: Volume
    primary: str
    host: str
    listen: NbdAddress
    tls: TlsOptions
    through: DataPath
    read_only: bool
    threads: int
    take_over: Collection[str] = ()
    forks: ForkPlan | None = None


def serve(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    socket: Annotated[
        Path | None,
        typer.Option(
            help="Serve at this Unix socket. Without --socket and --port, it is nbd/VOLUME.sock "
            "in the state folder."
        ),
    ] = None,
    port: PortOption = None,
    address: ListenOption = "127.0.0.1",
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            help="Run under this name of the host, which keeps its state under it. "
            "The default is host-VOLUME.",
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Reach the primary at this address instead of the one in the description.",
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Refuse writes of clients.")
    ] = False,
    through: Annotated[
        DataPath,
        typer.Option(
            help="Serve through nbdkit's file plugin under a native filter (filter), or send every "
            "request to Python (plugin)."
        ),
    ] = DataPath.AUTO,
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Serve this many requests of a connection at once.")
    ] = 16,
    take_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SESSION",
            help="Take the volume over from this session of another host, which is gone for good. "
            "The whole volume becomes dirty.",
        ),
    ] = None,
    metrics: MetricsOption = None,
    fork: ForkOption = None,
    fork_mode: ForkModeOption = "async",
    tls: Annotated[
        TlsMode,
        typer.Option(help="Offer or require TLS. nbdkit-tls(1) explains the four TLS options."),
    ] = TlsMode.OFF,
    tls_certificates: Annotated[
        Path | None, typer.Option(help="Read certificates from this folder.")
    ] = None,
    tls_psk: Annotated[
        Path | None, typer.Option(help="Read pre-shared keys from this file.")
    ] = None,
    tls_verify_peer: Annotated[
        bool, typer.Option("--tls-verify-peer", help="Refuse clients without a certificate.")
    ] = False,
    pid_file: DetachOption = None,
) -> None:
    """Serve a volume over NBD until stopped, and track every write to it."""
    call = with_metrics(invocation(context, waits=True), metrics)
    nbdkit_path()
    default = call.settings.state_dir / "nbd" / f"{name}.sock"
    listen = listen_at(socket, port, address, default=default)
    tell_ready = detach(pid_file, call.output)
    supervisor = open_supervisor()
    keep_memory_low()
    with closing(load_catalog(call.settings)) as catalog:
        volume, volumes = catalog.volume_named(name), dict(catalog)
    plans = fork_plans(fork or (), fork_mode, [volume])
    options = ServeOptions(
        volume=volume,
        primary=primary or volume.primary,
        host=host or default_host_name(name),
        listen=listen,
        tls=TlsOptions(tls, tls_certificates, tls_psk, tls_verify_peer),
        through=through,
        read_only=read_only,
        threads=threads,
        take_over=take_over or (),
        forks=plans.get(name),
    )
    _serve(call, options, volumes, stop_flag(), tell_ready, supervisor)


def _serve(
    call: Invocation,
    options: ServeOptions,
    volumes: Mapping[str, Volume],
    stopped: Callable[[], bool],
    tell_ready: Callable[[], None],
    supervisor: Supervisor,
) -> None:
    """Run the host and the export until `stopped`. The steps are undone in the reverse order:

    1. Start the host, and open the volume: what the last session left unpublished is published.
    2. Start what the export needs, then nbdkit: clients can connect.
    3. Let batches and heartbeats leave when they are due, until stopped, or until no write may
       begin any more.
    4. Stop nbdkit: no request is in flight.
    5. Flush, publish and close the volume, then end the session.
    """
    name = options.volume.volume
    with ExitStack() as stack:
        wiring = HostWiring(options.host, call.settings, stack)
        device = wiring.open_primary(options.volume, address=options.primary)
        host, tracked = _open(call, options, volumes, wiring, device, stack)  # 1
        export = _export(call, options, wiring, tracked, device)
        stack.callback(export.close)
        samples = partial(export_samples, name, export)
        wiring.serve_metrics(host, metrics_printer(call.output), samples)
        nbdkit = NbdkitProcess(
            export.nbdkit_arguments,
            options.listen,
            options.tls,
            call.settings.state_dir / "host" / options.host / "nbdkit.pid",
            read_only=options.read_only,
            threads=options.threads,
            # nbdkit inherits the primary's lock, so that nobody else writes while nbdkit may.
            pass_fds=[*export.pass_fds, device.fileno()],
        )  # 2
        stack.callback(nbdkit.stop)  # 4, 5
        export.after_start()
        uri = options.listen.uri(tls=options.tls.mode is not TlsMode.OFF)
        lines = HostLines(options.host, call.settings, call.output, wiring.clock.monotonic_s)
        ready = {"volume": name, "uri": uri, "through": export.data_path}
        session = {"host": options.host, "session": host.session, "primary": options.primary}
        call.output.print_message("ready", {**ready, **session})
        call.output.print_text(f"{name} is served at {uri}; {lines.described([name])}")
        tell_ready()
        served = f"{name} is served at {uri}"
        supervisor.ready(served)
        while not stopped():  # 3
            export.check()
            nbdkit.check()
            tracked.check()
            host.pause(TICK_S)
            lines.look(host.figures)
            supervisor.alive()
            supervisor.tell(f"{served}; Kafka is away" if lines.is_away else served)
        supervisor.stopping()
    call.output.print_message(
        "result", {"commands": host.commands, "last_positions": dict(host.last_positions)}
    )
    lines.stopped(host)


def _open(
    call: Invocation,
    options: ServeOptions,
    volumes: Mapping[str, Volume],
    wiring: HostWiring,
    device: FileDevice,
    stack: ExitStack,
) -> tuple[Host, TrackedVolume]:
    """Start the host, which `stack` ends, and open the volume on its primary `device`."""
    name = options.volume.volume
    host = stack.enter_context(
        wiring.start_host(
            volumes,
            forks={} if options.forks is None else {name: options.forks},
            on_fork_change=fork_reporter(call),
            report=call.output.print_text,
        )
    )
    request = open_request(options.volume, device, take_over=options.take_over, forks=options.forks)
    return host, host.open_all([request])[name]


def _export(
    call: Invocation,
    options: ServeOptions,
    wiring: HostWiring,
    tracked: TrackedVolume,
    device: FileDevice,
) -> Export:
    """Return the export through the native filter, or through the Python plugin.

    With DataPath.AUTO the plugin is used, and a line says why, if the filter can't be. With
    DataPath.FILTER that is BadUse.
    """
    if options.through is not DataPath.PLUGIN:
        try:
            if parse_file_address(options.primary).direct:
                raise BadUse(
                    "nbdkit's file plugin can't go past the page cache",
                    where=options.primary,
                    next="Leave ?direct=1 out to be faster.",
                )
            return FilterExport(
                build_libraries(call.settings.cache_dir),
                tracked,
                path_of(options.primary),
                wiring.folder.lock_fd,
                call.settings.state_dir / "host" / options.host,
                call.settings,
                call.output.print_text,
            )
        except BadUse as error:
            if options.through is DataPath.FILTER:
                raise
            call.output.print_text(
                f"Serving through nbdkit's Python plugin, which is many times slower: {error}"
            )
    return RelayExport(call.settings.state_dir / "host" / options.host, tracked, device)
