"""`mirrorlog host serve`: a volume as an NBD export."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from mirrorlog.adapters.addresses import file_address, path_of
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.forking import ForkModeOption, ForkOption, fork_reporter
from mirrorlog.cli.support.lookup import load_volumes
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.forks.fork_plans import ForkPlan, fork_plans
from mirrorlog.producers.nbd.export import Export, FilterExport, RelayExport, Through
from mirrorlog.producers.nbd.native import built
from mirrorlog.producers.nbd.server import Nbdkit, Place, Tls, TlsMode, free_port, nbdkit_path
from mirrorlog.producers.wiring import HostWiring, default_host_name, open_request
from mirrorlog.producers.writes.tracked_volume import TrackedVolume

TICK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Served:
    """What is served, and how."""

    volume: Volume
    primary: str
    host: str
    through: Through
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
            help="A Unix socket to serve at; without it and --port, nbd/VOLUME.sock in the state folder."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="A TCP port; 0 is a free one.")
    ] = None,
    address: Annotated[str, typer.Option(help="What to listen at with --port.")] = "127.0.0.1",
    named: Annotated[
        str | None,
        typer.Option(
            "--host", help="Name of the host, which keeps its state under it. Default: host-VOLUME."
        ),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Where this host reaches the primary, if not as described."
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Clients can't write.")] = False,
    through: Annotated[
        Through,
        typer.Option(
            help="filter: nbdkit's file plugin under a native filter; plugin: every request comes to Python."
        ),
    ] = Through.AUTO,
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="Requests of one connection at a time.")
    ] = 16,
    take_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SESSION",
            help="A session of another host that is gone for good. The whole volume is dirty.",
        ),
    ] = None,
    fork: ForkOption = None,
    fork_mode: ForkModeOption = "async",
    tls: Annotated[
        TlsMode, typer.Option(help="See nbdkit-tls(1), as for the next three.")
    ] = TlsMode.OFF,
    tls_certificates: Annotated[Path | None, typer.Option(help="Folder of certificates.")] = None,
    tls_psk: Annotated[Path | None, typer.Option(help="File of pre-shared keys.")] = None,
    tls_verify_peer: Annotated[
        bool, typer.Option("--tls-verify-peer", help="Clients need certificates.")
    ] = False,
) -> None:
    """Serve a volume over NBD, through nbdkit: whatever is written to it is tracked. Until stopped."""
    call = invocation(context)
    nbdkit_path()
    if socket is not None and port is not None:
        raise BadUse("--socket and --port exclude each other", next="Name one.")
    place = Place(socket or call.settings.state_dir / "nbd" / f"{name}.sock")
    if port is not None:
        place = Place(None, address, port or free_port(address))
    volumes = load_volumes(call.settings)
    if name not in volumes:
        raise BadUse(
            f"there is no volume '{name[:220]}'",
            next="`mirrorlog volume list` shows those there are.",
        )
    volume = volumes[name]
    plans = fork_plans(fork or (), fork_mode, [volume])
    if plans and through is Through.FILTER:
        raise BadUse(
            "the native filter writes by itself, and sends nothing to secondaries",
            next="Leave --through out, or --fork: without it the sites copy what the log names.",
        )
    served = Served(
        volume,
        primary or volume.primary,
        named or default_host_name(name),
        Through.PLUGIN if plans else through,
        read_only,
        threads,
        take_over or (),
        plans.get(name),
    )
    security = Tls(tls, tls_certificates, tls_psk, tls_verify_peer)
    _serve(call, served, volumes, place, security, stop_flag())


def _serve(
    call: Invocation,
    served: Served,
    volumes: dict[str, Volume],
    place: Place,
    security: Tls,
    stopped: Callable[[], bool],
) -> None:
    """From the host's session to its end. What comes up first goes down last:

    1. The host opens the volume: what its last session left behind is published.
    2. What stands behind the export is there, then nbdkit: clients can connect.
    3. Until it is stopped, or no write may begin any more: batches and heartbeats leave when they are due.
    4. nbdkit ends: no request is under way.
    5. The volume is flushed, published and closed; then the session.
    """
    settings = call.settings
    folder = settings.state_dir / "host" / served.host
    with ExitStack() as stack:
        wiring = HostWiring(served.host, settings, stack)
        device = wiring.open_primary(served.volume, address=served.primary)
        host = stack.enter_context(
            wiring.start_host(
                volumes,
                forks={} if served.forks is None else {served.volume.volume: served.forks},
                on_fork_change=fork_reporter(call),
                report=call.output.print_text,
            )
        )  # 1
        request = open_request(
            served.volume, device, take_over=served.take_over, forks=served.forks
        )
        tracked = host.open_all([request])[served.volume.volume]
        export = _export(call, served, wiring.folder, tracked, device)
        stack.callback(export.close)
        nbdkit = Nbdkit(
            *(export.served, place, security, folder / "nbdkit.pid"),
            read_only=served.read_only,
            threads=served.threads,
            pass_fds=[
                *export.pass_fds,
                device.fileno(),
            ],  # nobody else writes to the primary while nbdkit may
        )  # 2
        stack.callback(nbdkit.stop)  # 4, 5
        export.started()
        uri = place.uri(tls=security.mode is not TlsMode.OFF)
        call.output.print_message(
            "ready", {"volume": served.volume.volume, "uri": uri, "through": export.through}
        )
        call.output.print_text(f"{served.volume.volume} is served at {uri}")
        while not stopped():  # 3
            export.check()
            nbdkit.check()
            tracked.check()
            host.pause(TICK_S)
    call.output.print_message(
        "result", {"commands": host.commands, "last_positions": dict(host.last_positions)}
    )
    call.output.print_text(f"stopped; {host.commands} commands")


def _export(
    call: Invocation, served: Served, state: DiskFolder, tracked: TrackedVolume, device: BlockDevice
) -> Export:
    """Through the filter where it can be had; otherwise through the plugin, and that is said."""
    if served.through is not Through.PLUGIN:
        try:
            if file_address(served.primary).direct:
                what, advice = (
                    "nbdkit's file plugin can't go past the page cache",
                    "Leave ?direct=1 out to be faster.",
                )
                raise BadUse(what, where=served.primary, next=advice)
            native = built(call.settings.cache_dir)
            return FilterExport(
                native,
                tracked,
                path_of(served.primary),
                state.lock_fd,
                call.settings,
                call.output.print_text,
            )
        except BadUse as error:
            if served.through is Through.FILTER:
                raise
            call.output.print_text(
                f"Serving through nbdkit's Python plugin, which is many times slower: {error}"
            )
    return RelayExport(call.settings.state_dir / "host" / served.host, tracked, device)
