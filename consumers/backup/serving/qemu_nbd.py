"""qemu-nbd, which serves the chain of images of a point.

It opens all images of the chain when it starts, and keeps them open. A prune puts other files in
their places, or removes them; the export reads what it has opened. Each file reads as its point
whatever a prune made of it, so it doesn't matter which ones an export has found.

What clients write goes to a file that QEMU makes in the scratch folder, and that has no name any
more when clients can connect.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from mirrorlog.errors import BadUse
from mirrorlog.processes.nbd_server import NbdAddress, NbdServerProcess

SECTOR_BYTES: Final = 512
"""QEMU rounds the size of what it serves up to a multiple of it."""
PID_FILE: Final = "qemu-nbd.pid"
"""The name of the file in the scratch folder that holds the server's process id."""
_HINT: Final = "On Debian and Ubuntu: apt install qemu-utils"


def qemu_nbd_path() -> str:
    """Return the path of qemu-nbd's program. BadUse, naming what to install, if there is none."""
    path = shutil.which("qemu-nbd")
    if path is None:
        raise BadUse("qemu-nbd isn't installed, and it serves points of backups", next=f"{_HINT}.")
    return path


def serve_image(
    image: Path, listen: NbdAddress, *, is_writable: bool, scratch: Path
) -> NbdServerProcess:
    """Serve the image of a point, with those on which it stands, which lie in the same folder.

    is_writable: clients may write, which changes no image and is gone at the end. scratch: a folder
    of this export alone, for what they write, and for the server's process id.

    Raise BadUse and PartFailed as NbdServerProcess.
    """
    pid_file = scratch / PID_FILE
    pid_file.unlink(missing_ok=True)
    command = [
        "env",
        f"TMPDIR={scratch.absolute()}",
        qemu_nbd_path(),
        "--persistent",
        "--shared=0",
        "--format=qcow2",
        f"--pid-file={pid_file.absolute()}",
        *(["--snapshot", "--cache=unsafe"] if is_writable else ["--read-only"]),
        *_listening(listen),
        str(image.absolute()),
    ]
    # The file is written when all images are open, and clients can connect.
    return NbdServerProcess("qemu-nbd", command, listen, hint=_HINT, is_ready=pid_file.exists)


def _listening(listen: NbdAddress) -> list[str]:
    if listen.socket is not None:
        return [f"--socket={listen.socket.absolute()}"]
    return [f"--bind={listen.address}", f"--port={listen.port}"]
