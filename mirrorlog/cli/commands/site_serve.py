"""`mirrorlog site serve`: a secondary over NBD, as of a consistent position, for a drill."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mirrorlog.adapters.addresses import path_of
from mirrorlog.adapters.nbd_client.nbd_uri import is_nbd
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.listening import ListenOption, PortOption, listen_at
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.site_addresses import SecondaryOption, with_addresses
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.consumers.drills.drill_copy import copy_still
from mirrorlog.consumers.drills.holding import DrillHold, HoldPorts, StillSecondary, holding
from mirrorlog.consumers.failover.held_secondary import meet_saved
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.units import format_duration, parse_duration_s

if TYPE_CHECKING:
    from mirrorlog.producers.nbd.nbdkit_process import NbdAddress

_TICK_S: Final = 0.1
_TOLD_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOptions:
    """The options of a drill. folder: of the site. end_s: the drill ends by itself after it."""

    volume: Volume
    site: str
    folder: Path
    path: Path
    copy_folder: Path
    listen: NbdAddress
    is_writable: bool
    is_held: bool
    force: bool
    wait_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True)
class _Export:
    """What nbdkit serves. fd: is open and locked for as long. source: what it is, for people."""

    path: Path
    fd: int
    source: str
    arguments: tuple[str, ...]


def serve(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="VOLUME")],
    site: Annotated[str, typer.Option(help="Serve the secondary of this site.")],
    folder: Annotated[Path, typer.Option("--dir", help="The site's folder.")],
    secondary: SecondaryOption = None,
    writable: Annotated[
        bool,
        typer.Option("--writable", help="Let clients write; what they write is thrown away."),
    ] = False,
    hold: Annotated[
        bool,
        typer.Option(
            "--hold", help="Serve the secondary itself. Its site copies nothing meanwhile."
        ),
    ] = False,
    copy_dir: Annotated[
        Path | None, typer.Option(help="Make the copy in this folder instead of the site's.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Serve a secondary that isn't consistent, too.")
    ] = False,
    wait: Annotated[str, typer.Option(help="Wait this long for a consistent position.")] = "60s",
    end_after: Annotated[
        str | None, typer.Option("--for", help="End the drill after this time.", metavar="TIME")
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="Serve at this Unix socket instead of drills/VOLUME.sock in --dir."),
    ] = None,
    port: PortOption = None,
    address: ListenOption = "127.0.0.1",
    pid_file: DetachOption = None,
) -> None:
    """Serve a secondary over NBD as of a consistent position, for a drill, until stopped.

    Without --hold, a copy is served while replication goes on: a reflink where the file system can,
    which takes no time and no space. Run it on the site's machine. The copy is gone at the end.
    """
    from mirrorlog.producers.nbd.nbdkit_process import nbdkit_path

    call = invocation(context, waits=True)
    nbdkit_path()
    folder = folder.absolute()
    listen = listen_at(socket, port, address, default=folder / "drills" / f"{name}.sock")
    volume = find_volume(call.settings, name, may_be_mirror=True)
    call = with_addresses(call, site, folder, [], secondary or [])
    options = DrillOptions(
        volume=volume,
        site=site,
        folder=folder,
        path=_path(call, volume, site, folder),
        copy_folder=(copy_dir or folder / "drills").absolute(),
        listen=listen,
        is_writable=writable,
        is_held=hold,
        force=force,
        wait_s=parse_duration_s(wait),
        end_s=None if end_after is None else parse_duration_s(end_after),
    )
    tell_ready = detach(pid_file, call.output)
    _serve(call, options, stop_flag(), tell_ready)


def _path(call: Invocation, volume: Volume, site: str, folder: Path) -> Path:
    """Return the path of the secondary. Raise BadUse if it can't be served."""
    if not volume.is_followed_by(site):
        raise BadUse(
            f"{volume.volume} is retired, or its primary is at site {site}: there is no secondary",
            where=f"volume {volume.volume} at {site}",
            next="`mirrorlog volume show` has its description.",
        )
    address = SiteAddresses.from_settings(site, folder, call.settings).secondary(volume)
    if is_nbd(address):
        raise BadUse(
            "a secondary on an NBD server can't be kept from its writers",
            where=address,
            next="Make a snapshot of it where it is, after `mirrorlog site pause`.",
        )
    path = path_of(address)
    if not path.exists():
        raise BadUse("there is no secondary", where=str(path), next="Name its site's folder.")
    return path


def _serve(
    call: Invocation,
    options: DrillOptions,
    stopped: Callable[[], bool],
    tell_ready: Callable[[], None],
) -> None:
    """Hold the secondary, copy it unless it is served itself, and serve it until the end."""
    from mirrorlog.producers.nbd.nbdkit_process import NbdkitProcess, TlsOptions

    clock = SystemClock()
    addresses = SiteAddresses.from_settings(options.site, options.folder, call.settings)
    marks = PrimaryMarkFiles(call.settings.primary_marks_dir)
    files = SecondaryFiles(addresses, SitePrimaries(addresses, marks))
    ports = HoldPorts(
        path=options.path,
        holds=DrillHolds(options.folder),
        look=lambda: meet_saved(options.site, options.folder, options.volume, files),
        clock=clock,
        sleep=time.sleep,
        stopped=stopped,
    )
    with ExitStack() as stack:
        hold_stack = stack.enter_context(ExitStack())
        held, hold = hold_stack.enter_context(
            holding(options.volume.volume, ports, wait_s=options.wait_s, force=options.force)
        )
        export = _export(options, held, hold, stack)
        if not options.is_held:
            hold_stack.close()  # the site goes on
        pid_file = options.folder / "drills" / f"{options.volume.volume}.pid"
        stack.callback(pid_file.unlink, missing_ok=True)
        nbdkit = NbdkitProcess(
            [*export.arguments, str(export.path)],
            options.listen,
            TlsOptions(),
            pid_file,
            read_only=not options.is_writable,
            pass_fds=[export.fd],
        )
        stack.callback(nbdkit.stop)
        _tell(call, options, held, export)
        tell_ready()
        begin_s = told_s = clock.monotonic_s()
        while not stopped():
            nbdkit.check()
            now_s = clock.monotonic_s()
            if options.end_s is not None and now_s - begin_s >= options.end_s:
                break
            if options.is_held:
                hold.renew()
                if now_s - told_s >= _TOLD_S:
                    told_s = now_s
                    call.output.print_text(
                        f"{options.volume.volume} has been held for "
                        f"{format_duration(now_s - begin_s)}: the site copies nothing to it"
                    )
            time.sleep(_TICK_S)
    call.output.print_message("result", {"volume": options.volume.volume, "site": options.site})
    call.output.print_text("the drill has ended; what clients wrote is gone")


def _export(
    options: DrillOptions, held: StillSecondary, hold: DrillHold, stack: ExitStack
) -> _Export:
    """Return what nbdkit serves. A copy is made now, while the secondary is held."""
    if options.is_held:
        cow = ("--filter=cow",) if options.is_writable else ()
        source = "the secondary itself"
        return _Export(options.path, held.device.fileno(), source, (*cow, "file"))
    copy = copy_still(held.device, options.copy_folder, on_piece=hold.renew)
    stack.callback(copy.close)
    source = "a reflink of it" if copy.is_reflink else "a copy of it"
    return _Export(copy.path, copy.fd, source, ("file",))


def _tell(call: Invocation, options: DrillOptions, held: StillSecondary, export: _Export) -> None:
    uri = options.listen.uri(tls=False)
    at = None if held.saved_at_us is None else format_time(held.saved_at_us)
    call.output.print_message(
        "ready",
        {
            "volume": options.volume.volume,
            "site": options.site,
            "uri": uri,
            "position": held.position,
            "saved_at": at,
            "is_consistent": held.position is not None,
            "reason": held.claims_nothing,
            "is_writable": options.is_writable,
            "is_held": options.is_held,
            "source": export.source,
        },
    )
    what = (
        f"as of position {held.position}"
        if held.position is not None
        else f"INCONSISTENT ({held.claims_nothing}): it is no state that the primary had, and"
    )
    goes_on = "its site waits" if options.is_held else "replication goes on"
    writes = "writes are thrown away" if options.is_writable else "read-only"
    call.output.print_text(
        f"{options.volume.volume} of site {options.site} {what} is served at {uri}: "
        f"{export.source}, {writes}; {goes_on}"
    )
