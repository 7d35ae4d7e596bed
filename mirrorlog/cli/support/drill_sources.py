"""What a drill serves: a copy of a secondary, or the secondary itself, by its address."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirrorlog.adapters.addresses import path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri
from mirrorlog.cli.support.context import Invocation
from mirrorlog.consumers.drills.drill_copy import copy_still
from mirrorlog.consumers.drills.holding import DrillHold, HoldPorts, StillSecondary
from mirrorlog.consumers.drills.wiring import ports_to_hold, still_address
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.clock import Clock

if TYPE_CHECKING:
    from mirrorlog.processes.nbd_server import NbdAddress

_PING_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOptions:
    """The options of a drill.

    folder: of the site. address: of the secondary. end_s: the drill ends by itself after it.
    """

    volume: Volume
    site: str
    folder: Path
    address: str
    copy_folder: Path
    listen: NbdAddress
    is_writable: bool
    is_held: bool
    force: bool
    wait_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True)
class DrillSource:
    """What nbdkit serves.

    name: for people. arguments: of nbdkit. fds: open and locked for as long as it is served.
    check: raises DeviceFailed if it can't be served any more; called ten times a second.
    """

    name: str
    arguments: tuple[str, ...]
    fds: tuple[int, ...] = ()
    check: Callable[[], None] = lambda: None


def secondary_address(call: Invocation, volume: Volume, site: str, folder: Path) -> str:
    """Return the address of a secondary. Raise BadUse if there is none to serve."""
    return still_address(call.settings, volume, site, folder)


def hold_ports(
    call: Invocation, options: DrillOptions, clock: Clock, stopped: Callable[[], bool]
) -> HoldPorts:
    """Return what it takes to hold the secondary still."""
    return ports_to_hold(
        call.settings,
        options.volume,
        options.address,
        site=options.site,
        folder=options.folder,
        clock=clock,
        stopped=stopped,
    )


def drill_source(
    options: DrillOptions, held: StillSecondary, hold: DrillHold, stack: ExitStack
) -> DrillSource:
    """Return what is served. A copy is made now, while the secondary is held."""
    if not options.is_held:
        copy = copy_still(held.device, options.copy_folder, on_piece=hold.renew)
        stack.callback(copy.close)
        name = "a reflink of it" if copy.is_reflink else "a copy of it"
        return DrillSource(name, ("file", str(copy.path)), (copy.fd,))
    cow = ("--filter=cow",) if options.is_writable else ()
    if isinstance(held.device, NbdDevice):
        plugin = nbdkit_client(held.device.uri)
        check = _checking(held.device)
        return DrillSource("the secondary itself", (*cow, *plugin), check=check)
    assert isinstance(held.device, FileDevice)
    plugin = ("file", str(path_of(options.address)))
    return DrillSource("the secondary itself", (*cow, *plugin), (held.device.fileno(),))


def nbdkit_client(uri: NbdUri) -> tuple[str, ...]:
    """Return the arguments with which nbdkit serves what another server exports.

    It keeps one connection, so that what is served stays the same (nbdkit-nbd-plugin(1)). Raise
    BadUse for an option of TLS that nbdkit doesn't have.
    """
    tls = dict(uri.tls or {})
    if "tls-hostname" in tls:
        raise BadUse(
            "nbdkit can't be told the name in the server's certificate (tls-hostname)",
            where=str(uri),
            next="Leave --hold out: a copy is served then.",
        )
    arguments = ["nbd", f"uri={uri.target}", "shared=true"]
    if uri.scheme.startswith("nbds"):
        arguments.append(f"tls-verify={tls.get('tls-verify-peer', 'true')}")
    if "tls-certificates" in tls:
        arguments.append(f"tls-certificates={tls['tls-certificates']}")
    if "tls-psk-file" in tls:
        arguments.append(f"tls-psk={tls['tls-psk-file']}")
    return tuple(arguments)


def _checking(device: NbdDevice) -> Callable[[], None]:
    """Return what asks the server of an export now and then whether it still answers."""
    asked_at_s = time.monotonic()

    def check() -> None:
        nonlocal asked_at_s
        now_s = time.monotonic()
        if now_s - asked_at_s >= _PING_S:
            device.ping()
            asked_at_s = now_s
        if not device.is_intact():
            raise DeviceFailed(
                "the connection to the secondary's export was lost: nothing tells what is there",
                where=f"{device.address}, offset 0",
                next="Start the drill again when the server is back.",
            )

    return check
