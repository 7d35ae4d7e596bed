"""What serves an image over NBD: mirrorlog, nbdkit by itself and with its log filter, QEMU with a dirty bitmap."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from cluster import Cluster
from pinned import ProgramFailed

from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.processes.child_processes import ChildMessage, ChildProcess
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.reading.catalog import describe, publish_volume
from mirrorlog.settings import inherited_environment

START_S: Final = 30.0
PIECE_BYTES: Final = 8 << 20
Serving: TypeAlias = Callable[[], AbstractContextManager[str]]
"""Serves an image of its own while the context lasts: its URI."""


def exports(
    cluster: Cluster, folder: Path, size_bytes: int
) -> tuple[dict[str, Serving], list[str]]:
    """(what can be served here, what can't and why). Every block of the images is in its place, so that no contestant pays
    for finding one."""
    image = folder / "image"
    make_image(image, size_bytes)
    found: dict[str, Serving] = {
        "file": lambda: nbdkit(folder, "file", str(image)),
        "mirrorlog": lambda: mirrorlog(cluster, folder, size_bytes, "filter"),
        "log_filter": lambda: nbdkit(
            folder, "--filter=log", "file", str(image), "logfile=/dev/null"
        ),
        "mirrorlog_plugin": lambda: mirrorlog(cluster, folder, size_bytes, "plugin"),
    }
    skipped = []
    if shutil.which("qemu-storage-daemon") is None:
        skipped.append(
            "QEMU's storage daemon with a dirty bitmap: apt install --no-install-recommends qemu-system-common"
        )
    else:
        found["qemu_storage_bitmap"] = lambda: qemu_storage_daemon(folder, image)
    if shutil.which("qemu-nbd") is None:
        return found, [*skipped, "QEMU: apt install qemu-utils"]
    qcow2 = folder / "image.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", "-S", "0", str(image), str(qcow2)], check=True
    )
    subprocess.run(["qemu-img", "bitmap", "--add", str(qcow2), "b"], check=True)
    return {
        **found,
        "qemu_raw": lambda: qemu_nbd(folder, image, "raw"),
        "qemu_bitmap": lambda: qemu_nbd(folder, qcow2, "qcow2"),
    }, skipped


def sparse_exports(cluster: Cluster, folder: Path, size_bytes: int) -> dict[str, Serving]:
    """The file plugin and mirrorlog, on files of one hole."""
    image = folder / "sparse"
    make_image(image, size_bytes, sparse=True)
    return {
        "file": lambda: nbdkit(folder, "file", str(image)),
        "mirrorlog": lambda: mirrorlog(cluster, folder, size_bytes, "filter", sparse=True),
    }


def make_image(path: Path, size_bytes: int, *, sparse: bool = False) -> None:
    """A file of zeros."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for start in range(0, 0 if sparse else size_bytes, PIECE_BYTES):
            file.write(bytes(min(PIECE_BYTES, size_bytes - start)))


@contextmanager
def mirrorlog(
    cluster: Cluster, folder: Path, size_bytes: int, through: str, *, sparse: bool = False
) -> Iterator[str]:
    """`mirrorlog host serve`, publishing to the broker."""
    name = f"{through}-sparse" if sparse else through
    settings = cluster.settings("nbd.", folder / "state", 4)
    cluster.make_topics(settings)
    primary = folder / f"{name}.img"
    if not primary.exists():
        make_image(primary, size_bytes, sparse=sparse)
        ends = [cluster.ends(settings.topics.commands)[number] for number in range(4)]
        publisher = KafkaPublisher(settings.kafka_client())
        publish_volume(
            publisher, settings.topics, describe(name, size_bytes, 4096, primary.as_uri(), ends, 1)
        )
        publisher.flush(START_S)
        publisher.close()
    messages: queue.SimpleQueue[ChildMessage] = queue.SimpleQueue()
    command = ["host", "serve", name, "--through", through, "--socket", str(folder / "m.sock")]
    environment = {**inherited_environment(), **settings.as_environment()}
    part = ChildProcess("host", command, environment, folder / f"{name}.log", messages)
    part.start()
    try:
        while (message := messages.get(timeout=START_S)).message_type != "ready":
            part.check()
        yield str(message.fields["uri"])
        part.check()
    finally:
        part.signal(signal.SIGTERM)
        part.wait()


def nbdkit(folder: Path, *served: str) -> AbstractContextManager[str]:
    """nbdkit by itself."""
    return _served(
        folder / "n.sock", ["nbdkit", "--foreground", "--unix", str(folder / "n.sock"), *served]
    )


def qemu_nbd(folder: Path, image: Path, image_format: str) -> AbstractContextManager[str]:
    """QEMU; bitmaps that are in the image are kept up to date, in memory."""
    command = [
        "qemu-nbd",
        "--persistent",
        "--socket",
        str(folder / "q.sock"),
        "--format",
        image_format,
        str(image),
    ]
    return _served(folder / "q.sock", command)


def qemu_storage_daemon(folder: Path, image: Path) -> AbstractContextManager[str]:
    """QEMU on the raw image, with a dirty bitmap in memory, made before the export."""
    socket = folder / "d.sock"
    nodes = [f"driver=file,node-name=file,filename={image}", "driver=raw,node-name=disk,file=file"]
    command = [
        *("qemu-storage-daemon", "--chardev", "stdio,id=control", "--monitor", "chardev=control"),
        *(word for node in nodes for word in ("--blockdev", node)),
        *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
    ]
    orders: list[tuple[str, dict[str, object]]] = [
        ("qmp_capabilities", {}),
        ("block-dirty-bitmap-add", {"node": "disk", "name": "changed"}),
        (
            "block-export-add",
            {"type": "nbd", "id": "disk", "node-name": "disk", "name": "", "writable": True},
        ),
    ]
    return _served(
        socket, command, [{"execute": name, "arguments": given} for name, given in orders]
    )


@contextmanager
def _served(
    socket: Path, command: list[str], orders: Sequence[Mapping[str, object]] = ()
) -> Iterator[str]:
    """orders: sent to its standard input, each answered there with a line (QEMU Machine Protocol)."""
    socket.unlink(missing_ok=True)
    with subprocess.Popen(
        dies_with_parent(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            for order in orders:
                _obeyed(process, order)
            until = time.monotonic() + START_S
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise ProgramFailed(f"{command[0]} doesn't serve")
                time.sleep(0.02)
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()
            process.wait()


def _obeyed(process: subprocess.Popen[str], order: Mapping[str, object]) -> None:
    """Lines that are no answer are events."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        answer = json.loads(line)
        if "return" in answer:
            return
        if "error" in answer:
            raise ProgramFailed(f"QEMU refused {order['execute']}: {answer['error']['desc']}")
    raise ProgramFailed("QEMU ended")


def requests_per_s(uri: str, count: int, options: Mapping[str, int]) -> float:
    """Writes of `qemu-img bench` a second; `options` are its own."""
    more = [word for name, value in options.items() for word in (name, str(value))]
    command = ["qemu-img", "bench", "-w", "-t", "none", "-f", "raw", "-c", str(count), *more, uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProgramFailed(f"qemu-img bench failed: {done.stderr.strip()}")
    seconds = done.stdout.partition("Run completed in")[2].split()[0]
    return count / float(seconds)
