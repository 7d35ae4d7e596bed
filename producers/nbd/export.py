"""What stands behind an NBD export of a tracked volume."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.nbd.native import NativeLibraries
from mirrorlog.producers.nbd.nbdkit_process import INSTALL_HINT, nbdkit_path
from mirrorlog.producers.nbd.region_grants import GrantServer, RegionGrants
from mirrorlog.producers.nbd.relay import Relay
from mirrorlog.producers.nbd.ring import SLOTS, Ring, RingGeometry
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.settings import Settings

Report: TypeAlias = Callable[[str], None]


class DataPath(StrEnum):
    """Which way a request takes. AUTO: through the filter where it can be built, else through the plugin."""

    AUTO = "auto"
    FILTER = "filter"
    PLUGIN = "plugin"


class Export(Protocol):
    """Something that nbdkit serves."""

    @property
    def data_path(self) -> DataPath:
        """Which way a request takes."""
        ...

    @property
    def nbdkit_arguments(self) -> Sequence[str]:
        """The end of nbdkit's command line."""
        ...

    @property
    def pass_fds(self) -> Sequence[int]:
        """Descriptors that nbdkit inherits."""
        ...

    def after_start(self) -> None:
        """nbdkit runs, and has inherited what it needs."""
        ...

    def check(self) -> None:
        """Raises what went wrong here since."""
        ...

    def close(self) -> None:
        """nbdkit has ended: nothing is under way any more, and whatever was is known to the volume."""
        ...


class RelayExport:
    """Every request comes to this process, through nbdkit's Python plugin: no compiler needed, several times slower."""

    def __init__(self, folder: Path, volume: TrackedVolume, device: BlockDevice) -> None:
        require_python_plugin()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder_fd: Final = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # By the folder's descriptor, which nbdkit inherits: the folder's own path may be too long for a socket.
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

    def close(self) -> None:
        self._relay.close()
        self._path.unlink(missing_ok=True)
        os.close(self._folder_fd)


class FilterExport:
    """nbdkit's file plugin writes by itself, under a native filter that asks only where it must (ring.h)."""

    data_path: Final = DataPath.FILTER

    def __init__(
        self,
        native: NativeLibraries,
        volume: TrackedVolume,
        primary: Path,
        lock_fd: int,
        settings: Settings,
        report: Report,
    ) -> None:
        """lock_fd: of the host's state folder: no other session begins while nbdkit may still write."""
        tracker, opened = volume.books
        geometry = RingGeometry(
            size_bytes=volume.size_bytes,
            region_bytes=settings.region_bytes,
            max_write_bytes=tracker.most_bytes,
            notify_every=min(settings.host_nbd_batch_extents, SLOTS // 4),
        )
        self._filter: Final = native.filter
        self._primary: Final = primary.absolute()
        self._lock_fd: Final = lock_fd
        self._ring: Final = Ring(native.ring, geometry)
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._gate: Final = RegionGrants(tracker, opened, self._ring, settings.hot_regions)
        self._porter: Final = GrantServer(self._gate, lambda: tracker.gather(opened), ours, report)

    @property
    def nbdkit_arguments(self) -> Sequence[str]:
        ours = [f"ring={self._ring.fd}", f"control={self._theirs.fileno()}"]
        return [f"--filter={self._filter}", "file", f"file={self._primary}", *ours]

    @property
    def pass_fds(self) -> Sequence[int]:
        return [self._ring.fd, self._theirs.fileno(), self._lock_fd]

    def after_start(self) -> None:
        self._theirs.close()  # so that its end is heard

    def check(self) -> None:
        if self._porter.error is not None:
            raise self._porter.error

    def close(self) -> None:
        self._theirs.close()
        self._porter.close()
        self._gate.close()
        self._ring.close()


def require_python_plugin() -> None:
    """BadUse where nbdkit has no Python plugin."""
    done = subprocess.run(
        [nbdkit_path(), "python", "--dump-plugin"], capture_output=True, check=False
    )
    if done.returncode != 0:
        raise BadUse("nbdkit's Python plugin isn't installed", next=f"{INSTALL_HINT}.")
