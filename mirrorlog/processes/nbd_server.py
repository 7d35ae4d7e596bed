"""NBD servers as child processes, which end when this process ends, for whatever reason."""

from __future__ import annotations

import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mirrorlog.errors import BadUse, PartFailed
from mirrorlog.processes.dies_with_parent import dies_with_parent

READY_S: Final = 30.0
"""A server must be ready within this time after its start."""
STOP_S: Final = 20.0
"""A server may take this long to finish requests before it is killed."""
_GREETING: Final = b"NBDMAGICIHAVEOPT"
_FLAGS_BYTES: Final = 2
_GOOD_BYE: Final = struct.pack(">I8sII", 1, b"IHAVEOPT", 2, 0)
"""The client's flags (fixed newstyle), and the option NBD_OPT_ABORT, without data."""
_GREETING_S: Final = 1.0
SUN_PATH_BYTES: Final = 107
"""The longest path that Linux takes for a Unix socket (unix(7), sun_path)."""


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """The place where clients connect: a Unix socket if there is one, or an address and port.

    Without TLS, use a loopback address.
    """

    socket: Path | None = None
    address: str = "127.0.0.1"
    port: int = 10809

    def options(self) -> list[str]:
        """Return the options of nbdkit's command line."""
        if self.socket is not None:
            return ["--unix", str(self.socket.absolute())]
        return ["--ipaddr", self.address, "--port", str(self.port)]

    def uri(self, *, tls: bool) -> str:
        """Return the URI with which clients connect (NetworkBlockDevice/nbd, doc/uri.md)."""
        scheme = "nbds" if tls else "nbd"
        if self.socket is not None:
            return f"{scheme}+unix:///?socket={quote(str(self.socket.absolute()))}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{scheme}://{host}:{self.port}"

    def greets(self) -> bool:
        """Return whether a server sends its greeting in time.

        The connection ends as the protocol has it: a server reports one that merely breaks off.
        (NetworkBlockDevice/nbd, doc/proto.md, "Newstyle negotiation", "NBD_OPT_ABORT".)
        """
        family, place = self._place()
        with socket.socket(family) as probe, suppress(OSError):
            probe.settimeout(_GREETING_S)
            probe.connect(place)
            sent = probe.recv(len(_GREETING) + _FLAGS_BYTES, socket.MSG_WAITALL)
            if not sent.startswith(_GREETING):
                return False
            with suppress(OSError):
                probe.sendall(_GOOD_BYE)
                while probe.recv(len(_GREETING)):
                    pass
            return True
        return False

    def _place(self) -> tuple[int, str | tuple[str, int]]:
        if self.socket is not None:
            return socket.AF_UNIX, str(self.socket.absolute())
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        return family, (self.address, self.port)


def free_port(address: str) -> int:
    """Return a TCP port of the address at which nobody listens."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class NbdServerProcess:
    """One server in the foreground. name: of the program, for people.

    It dies with the thread that started it (processes/dies_with_parent.py).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        listen: NbdAddress,
        *,
        hint: str,
        is_ready: Callable[[], bool],
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the server, and return when clients can connect.

        command: its whole command line, by which it listens at `listen`, in the foreground. hint:
        what to install or do if that fails. is_ready: whether it has come so far that its greeting
        counts. pass_fds: the descriptors that it inherits.

        Raise BadUse if another server listens at the address. Raise PartFailed if the server ends
        or isn't ready in time; it has then printed the reason on stderr.
        """
        if listen.socket is not None:
            remove_stale_socket(listen.socket.absolute())
        # A session of its own keeps Ctrl-C from the server: its parent stops it in order.
        self._process: Final = subprocess.Popen(
            dies_with_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._name: Final = name
        self._listen: Final = listen
        until = time.monotonic() + READY_S
        while not (is_ready() and listen.greets()):
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise PartFailed(
                    f"{name} didn't start to serve (exit code {self._process.returncode})",
                    where=listen.uri(tls=False),
                    next=f"Its own message above has the reason. {hint}.",
                )
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise PartFailed if the server has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise PartFailed(
                f"{self._name} ended with exit code {code}",
                next="Read its message above, then start this command again.",
            )

    def stop(self) -> None:
        """Let the server finish its running requests, take no more, and end.

        Kill the server if it hasn't ended after STOP_S.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()
        if self._listen.socket is not None:
            self._listen.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill the server, and wait for its end. None of its writes is running afterwards."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def remove_stale_socket(path: Path) -> None:
    """Remove the socket of a server that has ended, and create the socket's folder.

    Raise BadUse if a server listens there, if something other than a socket is there, or if the
    path is too long.
    """
    if len(str(path).encode()) > SUN_PATH_BYTES:
        raise BadUse(
            f"the path of a socket can have {SUN_PATH_BYTES} bytes at most",
            where=str(path),
            next="Name a shorter path with --socket.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BadUse(
                "the path exists and isn't a socket",
                where=str(path),
                next="Name another path with --socket.",
            )
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise BadUse(
            "another server listens at this socket",
            where=str(path),
            next="Stop that server, or name another path with --socket.",
        )
