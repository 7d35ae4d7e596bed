"""The snapshots of several primaries at one moment, over NBD.

docs/decisions/consistency-groups.md says why the steps are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, TypeVar

from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri
from mirrorlog.domain.snapshots import (
    ExportDescription,
    HoldExport,
    LiveExport,
    SnapshotExport,
    hold_export,
    parse_description,
    snapshot_export,
)
from mirrorlog.errors import DeviceFailed

_THREADS: Final = 32
_R = TypeVar("_R")


def take_together(
    primaries: Mapping[str, tuple[NbdUri, LiveExport]],
    token: str,
    open_export: Callable[[NbdUri], NbdDevice],
) -> dict[str, tuple[NbdDevice, SnapshotExport]]:
    """Take snapshots of primaries as of one moment; return them by volume, open.

    primaries: by volume, where its export is, and what that said of itself. token: a new one
    (snapshot_export). open_export: opens the export of a snapshot; several threads call it.

    1. Open a hold of each: from its answer on, no write to that primary begins.
    2. When all are there, release all. If a primary was written to before that, it is too late.
    3. Open the snapshots, whose positions Kafka has acknowledged meanwhile.

    Raise DeviceFailed if that can't be done now. Then no hold and no snapshot is left.
    """
    with ThreadPoolExecutor(min(len(primaries), _THREADS)) as threads, ExitStack() as stack:

        def for_each(call: Callable[[str], _R]) -> dict[str, _R]:
            """Call it for all volumes at once. Raise the first error when all calls have ended."""
            futures = {name: threads.submit(call, name) for name in primaries}
            for future in futures.values():
                future.exception()
            return {name: future.result() for name, future in futures.items()}

        def opened(name: str, export: str, kind: type[ExportDescription]) -> NbdDevice:
            uri, live = primaries[name]
            device = open_export(replace(uri, export=export))
            left.callback(device.close)
            _check(device, live, kind)
            return device

        left = stack.enter_context(ExitStack())
        holds = for_each(lambda name: opened(name, hold_export(token), HoldExport))  # 1
        for_each(lambda name: _release(holds[name]))  # 2
        held = left.pop_all()
        stack.callback(held.close)
        devices = for_each(lambda name: opened(name, snapshot_export(token), SnapshotExport))  # 3
        taken = {name: (device, _described(device)) for name, device in devices.items()}
        left.pop_all()
        return taken


def _release(hold: NbdDevice) -> None:
    """Let writes begin again. Raise DeviceFailed if they may have begun before this call."""
    try:
        hold.flush()
    except DeviceFailed as error:
        raise DeviceFailed(
            "writes began again before all members of the group were held",
            where=f"{hold.uri}, offset 0",
            next="The site tries again. The hosts of a group must answer it within a second.",
        ) from error


def _described(device: NbdDevice) -> SnapshotExport:
    """Return what the export of a snapshot says, which was checked."""
    export = parse_description(device.description)
    assert isinstance(export, SnapshotExport)
    return export


def _check(device: NbdDevice, live: LiveExport, kind: type[ExportDescription]) -> None:
    """Raise DeviceFailed unless the export is one of this kind of the same host."""
    export = parse_description(device.description)
    if isinstance(export, LiveExport):
        raise DeviceFailed(
            "its host has no snapshots of groups",
            where=f"{device.uri}, offset 0",
            next="Bring the host to this release, or take the volume out of its group.",
        )
    if not isinstance(export, kind) or (export.volume, export.session) != (
        live.volume,
        live.session,
    ):
        raise DeviceFailed(
            f"another server answers now: it says '{device.description}' of its export",
            where=f"{device.uri}, offset 0",
            next="The site connects again, and looks whether it is the same export.",
        )
