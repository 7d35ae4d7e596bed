"""Serves a point over NBD, at its true size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from mirrorlog.consumers.backup.serving.qemu_nbd import PID_FILE, SECTOR_BYTES, serve_image
from mirrorlog.processes.nbd_server import NbdAddress, NbdServerProcess

WORK: Final = "export-work"
"""Below the state folder, or --scratch: what exports need while they run, and nothing else."""
SOCKET: Final = "s"
_INNER: Final = "qemu"
_NBDKIT_PID: Final = "nbdkit.pid"
LEFT_BY_KILLED: Final = (SOCKET, _INNER, PID_FILE, _NBDKIT_PID)
"""What a killed export leaves in its scratch folder, if it listens at SOCKET there."""


@contextmanager
def exported_point(
    image: Path, size_bytes: int, listen: NbdAddress, *, is_writable: bool, scratch: Path
) -> Iterator[tuple[NbdServerProcess, ...]]:
    """Serve the image of a point until the block ends. Yield the servers, which may end earlier.

    size_bytes: of the volume. scratch: a folder of this export alone, for what clients write.
    QEMU serves whole sectors, so nbdkit cuts off what is behind the end of a volume that ends
    within one. Raise BadUse without the programs, PartFailed if one doesn't start.
    """
    if size_bytes % SECTOR_BYTES == 0:
        server = serve_image(image, listen, is_writable=is_writable, scratch=scratch)
        try:
            yield (server,)
        finally:
            server.stop()
        return
    from mirrorlog.producers.nbd.nbdkit_process import NbdkitProcess, TlsOptions, nbdkit_path

    nbdkit_path()
    with ExitStack() as started:
        inner = NbdAddress(scratch / _INNER)
        whole = serve_image(image, inner, is_writable=False, scratch=scratch)
        started.callback(whole.stop)
        cut = NbdkitProcess(
            (
                "--filter=truncate",
                *(["--filter=cow"] if is_writable else []),
                "nbd",
                f"socket={scratch / _INNER}",
                f"truncate={size_bytes}",
            ),
            listen,
            TlsOptions(),
            scratch / _NBDKIT_PID,
            read_only=not is_writable,
        )
        started.callback(cut.stop)
        yield (cut, whole)
