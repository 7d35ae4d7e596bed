"""nbdkit as a child process, which ends when this process ends, for whatever reason."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.processes.nbd_server import NbdAddress, NbdServerProcess

INSTALL_HINT: Final = (
    "On Debian and Ubuntu: apt install nbdkit nbdkit-plugin-python nbdkit-plugin-dev gcc"
)


class TlsMode(StrEnum):
    """The TLS of an export: ON offers it, REQUIRE also refuses clients without it."""

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """nbdkit's own options (nbdkit-tls(1)).

    certificates: a folder; psk: a file of pre-shared keys.
    """

    mode: TlsMode = TlsMode.OFF
    certificates: Path | None = None
    psk: Path | None = None
    verify_peer: bool = False

    def options(self) -> list[str]:
        """Return the options of nbdkit's command line."""
        options = [f"--tls={self.mode}"]
        if self.certificates is not None:
            options.append(f"--tls-certificates={self.certificates.absolute()}")
        if self.psk is not None:
            options.append(f"--tls-psk={self.psk.absolute()}")
        return [*options, "--tls-verify-peer"] if self.verify_peer else options


def nbdkit_path() -> str:
    """Return the path of nbdkit's program. BadUse, naming what to install, if there is none."""
    path = shutil.which("nbdkit")
    if path is None:
        raise BadUse("nbdkit isn't installed, and an NBD export needs it", next=f"{INSTALL_HINT}.")
    return path


class NbdkitProcess(NbdServerProcess):
    """One nbdkit process in the foreground.

    It dies with the thread that started it (processes/dies_with_parent.py).
    """

    def __init__(
        self,
        arguments: Sequence[str],
        listen: NbdAddress,
        tls: TlsOptions,
        pid_file: Path,
        *,
        read_only: bool = False,
        threads: int = 16,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start nbdkit, and return when clients can connect.

        arguments: the end of the command line, from `--filter` or the plugin's name on.
        threads: how many requests of one connection nbdkit serves at once.
        pass_fds: the descriptors that nbdkit inherits.
        Raise BadUse if another server listens at the address. Raise PartFailed if nbdkit ends or
        isn't ready in time; it has then printed the reason on stderr.
        """
        pid_file.unlink(missing_ok=True)
        command = [
            nbdkit_path(),
            "--foreground",
            "--newstyle",
            f"--threads={threads}",
            f"--pidfile={pid_file}",
            *(["--readonly"] if read_only else []),
            *listen.options(),
            *tls.options(),
            *arguments,
        ]
        # The pid file is written before a plugin's last step: `nbd` then connects to its server.
        super().__init__(
            "nbdkit",
            command,
            listen,
            hint=INSTALL_HINT,
            is_ready=pid_file.exists,
            pass_fds=pass_fds,
        )
