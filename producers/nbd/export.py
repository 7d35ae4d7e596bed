"""What stands behind an NBD export of a tracked volume."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from mirrorlog.errors import BadUse
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.producers.nbd.server import INSTALL, nbdkit_path
from mirrorlog.producers.nbd.relay import Relay
from mirrorlog.producers.tracked_volume import TrackedVolume


class Through(StrEnum):
    """Which way a request takes. AUTO: through the filter where it can be built, else through the plugin."""

    AUTO = "auto"
    FILTER = "filter"
    PLUGIN = "plugin"


class Export(Protocol):
    """Something that nbdkit serves."""

    @property
    def through(self) -> Through:
        """Which way a request takes."""
        ...

    @property
    def served(self) -> Sequence[str]:
        """The end of nbdkit's command line."""
        ...

    @property
    def pass_fds(self) -> Sequence[int]:
        """Descriptors that nbdkit inherits."""
        ...

    def close(self) -> None:
        """nbdkit has ended: nothing is under way any more, and whatever was is known to the volume."""
        ...


class RelayExport:
    """Every request comes to this process, through nbdkit's Python plugin: no compiler needed, several times slower."""

    def __init__(self, folder: Path, volume: TrackedVolume, device: BlockDevice) -> None:
        check_python_plugin()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder_fd: Final = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # By the folder's descriptor, which nbdkit inherits: the folder's own path may be too long for a socket.
        self._path: Final = Path(f"/proc/self/fd/{self._folder_fd}/relay.sock")
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._relay: Final = Relay(self._path, volume, device)

    through: Final = Through.PLUGIN

    @property
    def served(self) -> Sequence[str]:
        return ["python", str(Path(__file__).with_name("plugin.py")), f"relay={self._path}"]

    @property
    def pass_fds(self) -> Sequence[int]:
        return [self._folder_fd]

    def close(self) -> None:
        self._relay.close()
        self._path.unlink(missing_ok=True)
        os.close(self._folder_fd)


def check_python_plugin() -> None:
    """BadUse where nbdkit has no Python plugin."""
    done = subprocess.run([nbdkit_path(), "python", "--dump-plugin"], capture_output=True, check=False)
    if done.returncode != 0:
        raise BadUse("nbdkit's Python plugin isn't installed", next=f"{INSTALL}.")
