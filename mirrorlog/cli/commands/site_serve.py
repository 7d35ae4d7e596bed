"""`mirrorlog site serve`: a secondary over NBD, as of a consistent position, for a drill."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.context import Invocation, invocation
from mirrorlog.cli.support.detaching import DetachOption, detach
from mirrorlog.cli.support.drill_sources import (
    DrillOptions,
    DrillSource,
    drill_source,
    hold_ports,
    secondary_address,
)
from mirrorlog.cli.support.listening import ListenOption, PortOption, listen_at
from mirrorlog.cli.support.lookup import find_volume
from mirrorlog.cli.support.site_addresses import SecondaryOption, with_addresses
from mirrorlog.cli.support.stopping import stop_flag
from mirrorlog.consumers.drills.holding import StillSecondary, holding
from mirrorlog.ports.clock import SystemClock
from mirrorlog.units import format_duration, parse_duration_s

_TICK_S: Final = 0.1
_TOLD_S: Final = 60.0


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
    which takes no time and no space. Run it on the site's machine, with the site's own folder. The
    copy is gone at the end.

    A secondary on an NBD server is read from there into a copy, or passed on with --hold.
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
        address=secondary_address(call, volume, site, folder),
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


def _serve(
    call: Invocation,
    options: DrillOptions,
    stopped: Callable[[], bool],
    tell_ready: Callable[[], None],
) -> None:
    """Hold the secondary, copy it unless it is served itself, and serve it until the end."""
    from mirrorlog.producers.nbd.nbdkit_process import NbdkitProcess, TlsOptions

    clock = SystemClock()
    ports = hold_ports(call, options, clock, stopped)
    with ExitStack() as stack:
        hold_stack = stack.enter_context(ExitStack())
        held, hold = hold_stack.enter_context(
            holding(options.volume.volume, ports, wait_s=options.wait_s, force=options.force)
        )
        source = drill_source(options, held, hold, stack)
        if not options.is_held:
            hold_stack.close()  # the site goes on
        pid_file = options.folder / "drills" / f"{options.volume.volume}.pid"
        stack.callback(pid_file.unlink, missing_ok=True)
        nbdkit = NbdkitProcess(
            source.arguments,
            options.listen,
            TlsOptions(),
            pid_file,
            read_only=not options.is_writable,
            pass_fds=source.fds,
        )
        stack.callback(nbdkit.stop)
        source.check()
        _tell(call, options, held, source)
        tell_ready()
        begin_s = told_s = clock.monotonic_s()
        while not stopped():
            nbdkit.check()
            source.check()
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


def _tell(
    call: Invocation, options: DrillOptions, held: StillSecondary, source: DrillSource
) -> None:
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
            "source": source.name,
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
        f"{source.name}, {writes}; {goes_on}"
    )
