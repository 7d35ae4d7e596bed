"""NBD servers for tests: nbdkit and qemu-nbd, at a Unix socket of a folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from deadlines import DEADLINE_S, wait_until
from suspending import suspend

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.nbd_client.libnbd import load_libnbd
from mirrorlog.errors import BadUse
from mirrorlog.processes.dies_with_parent import dies_with_parent


class NbdServer:
    """A server of the file `image`.

    options: of the program. parameters: of nbdkit's plugin and filters.
    """

    program: str

    def __init__(self, folder: Path, *options: str, parameters: Sequence[str] = ()) -> None:
        self.image = folder / "image"
        self.socket, self.pid_file = folder / "s", folder / "pid"
        self.options, self.parameters = options, parameters
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={quote(str(self.socket))}"

    def start(self) -> None:
        """Start to serve, and return when a client can connect."""
        for path in (self.socket, self.pid_file):
            path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            dies_with_parent(self._command()), stdin=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(self.pid_file.exists, self._check, every_s=0.005)

    def pause(self) -> None:
        """Let it answer nothing, with its connections open."""
        assert self.process is not None
        suspend(self.process.pid)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        self.process = None

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _check(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.program} ended"

    def _command(self) -> list[str]:
        raise NotImplementedError


class Nbdkit(NbdServer):
    program = "nbdkit"

    def _command(self) -> list[str]:
        arguments = [f"--unix={self.socket}", f"--pidfile={self.pid_file}", *self.options]
        return ["nbdkit", "--foreground", *arguments, "file", str(self.image), *self.parameters]


class QemuNbd(NbdServer):
    program = "qemu-nbd"

    def _command(self) -> list[str]:
        arguments = [
            f"--socket={self.socket}",
            f"--pid-file={self.pid_file}",
            "--persistent",
            "--shared=0",
            "--format=raw",
        ]
        # Holes are what the server is asked about: it must be able to make them.
        return ["qemu-nbd", *arguments, "--discard=unmap", *self.options, str(self.image)]


def write_certificates(folder: Path, authority: trustme.CA, kind: str, *names: str) -> Path:
    """Write the files that nbdkit and libnbd look for in a folder (nbdkit-tls(1)). Return it.

    kind: server or client. names: those of the certificate; without any there is none.
    """
    folder.mkdir()
    authority.cert_pem.write_to_path(folder / "ca-cert.pem")
    if names:
        issued = authority.issue_cert(*names)
        issued.private_key_pem.write_to_path(folder / f"{kind}-key.pem")
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        (folder / f"{kind}-cert.pem").write_bytes(chain)
    return folder


def content_at(uri: str) -> bytes:
    """Return all bytes of an export."""
    with open_device(uri, writable=False) as device:
        return bytes(device.pread(offset=0, length=device.size_bytes))


def skip_without(server: NbdServer) -> None:
    """Skip the test, and say why, if libnbd or the server isn't installed."""
    try:
        load_libnbd()
    except BadUse as error:
        pytest.skip(str(error))
    if shutil.which(server.program) is None:
        pytest.skip(f"{server.program} isn't installed")
