"""The two ways in which nbdkit serves a tracked volume: a native filter, or a Python plugin."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, Protocol, TypeAlias

from mirrorlog.adapters.addresses import parse_file_address
from mirrorlog.domain.snapshots import HoldExport, LiveExport, describe
from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.forks.forked_volume import ForkedVolume
from mirrorlog.producers.nbd.grant_server import GrantServer
from mirrorlog.producers.nbd.native import NativeLibraries
from mirrorlog.producers.nbd.nbdkit_process import INSTALL_HINT, nbdkit_path
from mirrorlog.producers.nbd.region_grants import RegionGrants
from mirrorlog.producers.nbd.relay import Relay
from mirrorlog.producers.nbd.ring import SLOTS, Ring, RingGeometry
from mirrorlog.producers.nbd.ring_forks import MOST_FORKS, RingForks
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings

Report: TypeAlias = Callable[[str], None]


class DataPath(StrEnum):
    """The path by which requests reach the volume.

    AUTO: through the filter if it can be built, and through the plugin otherwise.
    """

    AUTO = "auto"
    FILTER = "filter"
    PLUGIN = "plugin"


_REVOKED_PART: Final = 4
"""This part of the hot regions isn't granted: those whose writes are on their way to Kafka and to
the disk. They make room for others then."""
_STAT_BLOCK_BYTES: Final = 512
"""The unit of st_blocks (stat(3type))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptForSnapshots:
    """The disk space of old contents that snapshots need, and how much it may be."""

    disk_bytes: int
    disk_limit_bytes: int


class Export(Protocol):
    """One way to serve a volume.

    Create it before nbdkit starts, call after_start() when nbdkit runs, and close it when nbdkit
    has ended.
    """

    @property
    def data_path(self) -> DataPath:
        """The constant FILTER or PLUGIN."""
        ...

    @property
    def nbdkit_arguments(self) -> Sequence[str]:
        """The end of nbdkit's command line, from `--filter` or the plugin's name on."""
        ...

    @property
    def pass_fds(self) -> Sequence[int]:
        """The descriptors that nbdkit inherits."""
        ...

    def after_start(self) -> None:
        """Close what only nbdkit needs. Call it when nbdkit has inherited its descriptors."""
        ...

    def check(self) -> None:
        """Raise the error with which the export has failed, if it has."""
        ...

    def kept_for_snapshots(self) -> KeptForSnapshots | None:
        """Return what is kept for snapshots of the export now; None if it has none."""
        ...

    def close(self) -> None:
        """Close the export. Call it when nbdkit has ended.

        Afterwards no request is running, and the volume knows all writes.
        """
        ...


class RelayExport:
    """Sends every request to this process, through nbdkit's Python plugin.

    It needs no compiler, and is eight times slower than FilterExport.
    """

    def __init__(self, folder: Path, volume: TrackedVolume, device: BlockDevice) -> None:
        """Listen for the plugin at a socket in `folder`.

        device: the volume's primary. Raise BadUse if nbdkit has no Python plugin.
        """
        require_python_plugin()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder_fd: Final = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # The folder's own path may be too long for a socket. nbdkit inherits its descriptor.
        self._path: Final = Path(f"/proc/self/fd/{self._folder_fd}/relay.sock")
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._relay: Final = Relay(self._path, volume, device)

    data_path: Final = DataPath.PLUGIN

    @property
    def nbdkit_arguments(self) -> Sequence[str]:
        return ["python", str(Path(__file__).with_name("plugin.py")), f"relay={self._path}"]

    @property
    def pass_fds(self) -> Sequence[int]:
        return [self._folder_fd]

    def after_start(self) -> None:
        pass

    def check(self) -> None:
        pass

    def kept_for_snapshots(self) -> KeptForSnapshots | None:
        return None

    def close(self) -> None:
        self._relay.close()
        self._path.unlink(missing_ok=True)
        os.close(self._folder_fd)


class FilterExport:
    """Lets nbdkit's file plugin write by itself, under a native filter.

    The filter asks the host only before it writes to a region that isn't granted (ring.h).
    """

    data_path: Final = DataPath.FILTER

    def __init__(
        self,
        native: NativeLibraries,
        volume: TrackedVolume,
        primary: Path,
        lock_fd: int,
        folder: Path,
        settings: Settings,
        report: Report,
    ) -> None:
        """Share a ring with nbdkit, and attach it to the volume's tracker.

        primary: the path of the volume's primary.
        lock_fd: the lock of the host's state folder. nbdkit inherits it, so no other session
        begins while nbdkit can still write.
        folder: where the file lies for what snapshots keep.
        report: takes the text of an error that makes a write fail.
        """
        tracker, opened = volume.tracker_and_volume
        geometry = RingGeometry(
            size_bytes=volume.size_bytes,
            region_bytes=settings.region_bytes,
            max_write_bytes=tracker.max_write_bytes,
            notify_every=min(settings.host_nbd_batch_extents, SLOTS // 4),
        )
        self._filter: Final = native.filter
        self._primary: Final = primary.absolute()
        self._lock_fd: Final = lock_fd
        if opened.forks is not None:
            check_forks(opened.forks)
        self._ring: Final = Ring(native.ring, geometry)
        host_end, self._nbdkit_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._forks: Final = (
            None
            if opened.forks is None
            else RingForks(self._ring, host_end, opened.forks, settings.host_fork_queue_bytes)
        )
        self._grants: Final = RegionGrants(
            tracker,
            opened,
            self._ring,
            settings.hot_regions - settings.hot_regions // _REVOKED_PART,
            None if self._forks is None else self._forks.links,
        )
        writers = tracker.attached_writers
        of_session = {"volume": opened.name, "session": writers.session}
        # A site takes snapshots of an export that is described so. A forked volume has none.
        self._about: Final = "" if opened.forks else describe(LiveExport(**of_session))
        self._about_hold: Final = describe(HoldExport(**of_session))
        self._kept: Final = TemporaryFile(dir=folder, prefix="snapshots-")  # noqa: SIM115
        self._kept_limits: Final = (
            settings.host_snapshot_memory_bytes,
            settings.host_snapshot_disk_bytes,
        )
        self._server: Final = GrantServer(
            self._grants,
            partial(writers.collect, opened),
            partial(writers.close_batch, opened),
            partial(tracker.flush_forks, opened),
            host_end,
            report,
        )

    @property
    def nbdkit_arguments(self) -> Sequence[str]:
        memory_bytes, file_bytes = self._kept_limits
        return [
            f"--filter={self._filter}",
            "file",
            f"file={self._primary}",
            f"ring={self._ring.fd}",
            f"control={self._nbdkit_end.fileno()}",
            f"about={self._about}",
            f"about-hold={self._about_hold}",
            f"kept-memory={memory_bytes}",
            f"kept-fd={self._kept.fileno()}",
            f"kept-file={file_bytes}",
        ]

    @property
    def pass_fds(self) -> Sequence[int]:
        return [self._ring.fd, self._nbdkit_end.fileno(), self._kept.fileno(), self._lock_fd]

    def after_start(self) -> None:
        # The server then notices when nbdkit closes the last copy of this end.
        self._nbdkit_end.close()

    def check(self) -> None:
        if self._server.error is not None:
            raise self._server.error

    def kept_for_snapshots(self) -> KeptForSnapshots | None:
        disk_bytes = os.fstat(self._kept.fileno()).st_blocks * _STAT_BLOCK_BYTES
        return KeptForSnapshots(disk_bytes=disk_bytes, disk_limit_bytes=self._kept_limits[1])

    def close(self) -> None:
        self._nbdkit_end.close()
        if self._forks is not None:
            self._forks.note_gone()
        self._server.close()
        self._grants.close()
        self._ring.close()
        self._kept.close()


def check_forks(forks: ForkedVolume) -> None:
    """Raise BadUse if the native filter can't send writes to these secondaries."""
    if len(forks.secondaries) > MOST_FORKS:
        raise BadUse(f"the native filter forks to {MOST_FORKS} secondaries at most")
    for secondary in forks.secondaries:
        if parse_file_address(secondary.address).direct:
            raise BadUse(
                "the native filter can't fork past the page cache",
                where=secondary.address,
                next="Leave ?direct=1 out to be faster.",
            )


def require_python_plugin() -> None:
    """Raise BadUse if nbdkit has no Python plugin."""
    completed = subprocess.run(
        [nbdkit_path(), "python", "--dump-plugin"], capture_output=True, check=False
    )
    if completed.returncode != 0:
        raise BadUse("nbdkit's Python plugin isn't installed", next=f"{INSTALL_HINT}.")
