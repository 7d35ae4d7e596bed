"""nbdkit as a child process: found, started, watched, stopped; it ends with this process however that ends."""

from __future__ import annotations

import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirrorlog.errors import BadUse, PartFailed
from mirrorlog.processes.dies_with_parent import dies_with_parent

INSTALL_HINT: Final = (
    "On Debian and Ubuntu: apt install nbdkit nbdkit-plugin-python nbdkit-plugin-dev gcc"
)
READY_S: Final = 30.0
STOP_S: Final = 20.0
SUN_PATH_BYTES: Final = 107
"""The longest path of a Unix socket that Linux takes (unix(7), sun_path)."""


class TlsMode(StrEnum):
    """ON offers it, REQUIRE refuses clients without."""

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """nbdkit's own options (nbdkit-tls(1))."""

    mode: TlsMode = TlsMode.OFF
    certificates: Path | None = None
    psk: Path | None = None
    verify_peer: bool = False

    def options(self) -> list[str]:
        """For nbdkit's command line."""
        found = [f"--tls={self.mode}"]
        if self.certificates is not None:
            found.append(f"--tls-certificates={self.certificates.absolute()}")
        if self.psk is not None:
            found.append(f"--tls-psk={self.psk.absolute()}")
        return [*found, "--tls-verify-peer"] if self.verify_peer else found


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where clients connect to: a Unix socket, or an address and a port. Without TLS keep to the loopback."""

    socket: Path | None = None
    address: str = "127.0.0.1"
    port: int = 10809

    def options(self) -> list[str]:
        """For nbdkit's command line."""
        if self.socket is not None:
            return ["--unix", str(self.socket.absolute())]
        return ["--ipaddr", self.address, "--port", str(self.port)]

    def uri(self, *, tls: bool) -> str:
        """What clients call it (the NBD URI specification)."""
        scheme = "nbds" if tls else "nbd"
        if self.socket is not None:
            return f"{scheme}+unix:///?socket={quote(str(self.socket.absolute()))}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{scheme}://{host}:{self.port}"


def free_port(address: str) -> int:
    """A port that nobody listens at."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def nbdkit_path() -> str:
    """Its program; BadUse that says what to install."""
    found = shutil.which("nbdkit")
    if found is None:
        raise BadUse("nbdkit isn't installed, and it is what speaks NBD", next=f"{INSTALL_HINT}.")
    return found


class NbdkitProcess:
    """One nbdkit, in the foreground, which dies with the thread that starts it (processes/dies_with_parent.py)."""

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
        """Returns when clients can connect. served: the rest of the command line, from `--filter` or the plugin on.

        BadUse where somebody listens there already, PartFailed where nbdkit ends, or isn't ready in time; it has said why
        on stderr.
        """
        if listen.socket is not None:
            remove_stale_socket(listen.socket.absolute())
        pid_file.unlink(missing_ok=True)
        command = [
            *(
                nbdkit_path(),
                "--foreground",
                "--newstyle",
                "--threads",
                str(threads),
                "--pidfile",
                str(pid_file),
            ),
            *(["--readonly"] if read_only else []),
            *listen.options(),
            *tls.options(),
            *arguments,
        ]
        # In a session of its own: Ctrl-C at a terminal is for the host, which stops it in order.
        self._process: Final = subprocess.Popen(
            dies_with_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._listen: Final = listen
        until = time.monotonic() + READY_S
        while not pid_file.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise PartFailed(
                    f"nbdkit didn't begin to serve (exit code {self._process.returncode})",
                    where=listen.uri(tls=False),
                    next=f"It has said why above. {INSTALL_HINT}.",
                )
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """PartFailed where it ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise PartFailed(
                f"nbdkit ended with exit code {code}",
                next="See what it said, then start the host again.",
            )

    def stop(self) -> None:
        """It takes no more requests, ends those under way, and ends; at the deadline it is killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()
        if self._listen.socket is not None:
            self._listen.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """It has ended when this returns: the kernel has finished whatever write it was in."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def remove_stale_socket(path: Path) -> None:
    """Removes the socket of a server that is gone; makes the folder. BadUse where somebody listens, or something else is
    there."""
    if len(str(path).encode()) > SUN_PATH_BYTES:
        raise BadUse(
            f"a socket's path can have {SUN_PATH_BYTES} bytes",
            where=str(path),
            next="Name a shorter one with --socket.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BadUse(
                "there is something that isn't a socket",
                where=str(path),
                next="Name another with --socket.",
            )
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise BadUse(
            "another server listens there",
            where=str(path),
            next="Stop it, or name another with --socket.",
        )
