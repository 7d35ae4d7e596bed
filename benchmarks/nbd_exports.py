"""NBD exports of an image: mirrorlog, nbdkit alone and with its log filter, QEMU with a bitmap."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Final, TypeAlias
from uuid import uuid4

from cluster import Cluster
from forked_exports import SITE, publish_stand_in
from pinned import ProgramFailed

from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.adapters.nbd_client.nbd_device import NbdDevice
from mirrorlog.adapters.nbd_client.nbd_uri import NbdUri, parse_nbd_uri
from mirrorlog.domain.snapshots import snapshot_export
from mirrorlog.processes.child_processes import ChildMessage, ChildProcess
from mirrorlog.processes.dies_with_parent import dies_with_parent
from mirrorlog.reading.catalog import new_volume, publish_volume
from mirrorlog.settings import inherited_environment

START_S: Final = 30.0
CHUNK_BYTES: Final = 8 << 20
BLOCK_BYTES: Final = 4096
SNAPSHOT_S: Final = 1.0
ExportFactory: TypeAlias = Callable[[], AbstractContextManager[str]]
"""Serves an image of its own while the context lasts, and gives the export's URI."""


def exports(
    cluster: Cluster, folder: Path, size_bytes: int
) -> tuple[dict[str, ExportFactory], list[str]]:
    """Return the exports that can be served here, and a text for each that can't.

    All blocks of the images are allocated, so that no contestant has to allocate any.
    """
    image = folder / "image"
    make_image(image, size_bytes)
    factories: dict[str, ExportFactory] = {
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
            "QEMU's storage daemon with a dirty bitmap: "
            "apt install --no-install-recommends qemu-system-common"
        )
    else:
        factories["qemu_storage_bitmap"] = lambda: qemu_storage_daemon(folder, image)
    if shutil.which("qemu-nbd") is None:
        return factories, [*skipped, "QEMU: apt install qemu-utils"]
    qcow2 = folder / "image.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", "-S", "0", str(image), str(qcow2)], check=True
    )
    subprocess.run(["qemu-img", "bitmap", "--add", str(qcow2), "b"], check=True)
    return {
        **factories,
        "qemu_raw": lambda: qemu_nbd(folder, image, "raw"),
        "qemu_bitmap": lambda: qemu_nbd(folder, qcow2, "qcow2"),
    }, skipped


def forked_exports(cluster: Cluster, folder: Path, size_bytes: int) -> dict[str, ExportFactory]:
    """Return exports of the file plugin, and of mirrorlog with a fork to a file of this machine."""
    image = folder / "image"
    make_image(image, size_bytes)

    def forked(through: str, mode: str) -> ExportFactory:
        return lambda: mirrorlog(cluster, folder, size_bytes, through, fork_mode=mode)

    return {
        "file": lambda: nbdkit(folder, "file", str(image)),
        "async": forked("filter", "async"),
        "sync": forked("filter", "sync"),
        "plugin_async": forked("plugin", "async"),
        "plugin_sync": forked("plugin", "sync"),
    }


def sparse_exports(cluster: Cluster, folder: Path, size_bytes: int) -> dict[str, ExportFactory]:
    """Return exports of the file plugin and of mirrorlog, on files of one hole."""
    image = folder / "sparse"
    make_image(image, size_bytes, sparse=True)
    return {
        "file": lambda: nbdkit(folder, "file", str(image)),
        "mirrorlog": lambda: mirrorlog(cluster, folder, size_bytes, "filter", sparse=True),
    }


def make_image(path: Path, size_bytes: int, *, sparse: bool = False) -> None:
    """Create a file of zeros, or of one hole if it is `sparse`."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for start in range(0, 0 if sparse else size_bytes, CHUNK_BYTES):
            file.write(bytes(min(CHUNK_BYTES, size_bytes - start)))


@contextmanager
def mirrorlog(
    cluster: Cluster,
    folder: Path,
    size_bytes: int,
    through: str,
    *,
    sparse: bool = False,
    fork_mode: str = "",
) -> Iterator[str]:
    """Run `mirrorlog host serve`, which publishes to the broker.

    fork_mode: fork the writes to another file, in this mode.
    """
    name = f"{through}-sparse" if sparse else f"{through}-{fork_mode}" if fork_mode else through
    secondary = folder / f"{name}.secondary.img"
    settings = cluster.settings("nbd.", folder / "state", 4)
    cluster.make_topics(settings)
    primary = folder / f"{name}.img"
    if not primary.exists():
        make_image(primary, size_bytes, sparse=sparse)
        ends = [cluster.ends(settings.topics.commands)[number] for number in range(4)]
        publisher = KafkaPublisher(settings.kafka_client())
        volume = new_volume(
            name,
            size_bytes=size_bytes,
            block_size=4096,
            primary=primary.as_uri(),
            ends=ends,
            now_us=1,
        )
        publish_volume(publisher, settings.topics, volume)
        publisher.flush(START_S)
        publisher.close()
        if fork_mode:
            make_image(secondary, size_bytes)
            publish_stand_in(settings, volume, secondary)
    messages: queue.SimpleQueue[ChildMessage] = queue.SimpleQueue()
    command = ["host", "serve", name, "--through", through, "--socket", str(folder / "m.sock")]
    if fork_mode:
        command += ["--fork", f"{SITE}={secondary.as_uri()}", "--fork-mode", fork_mode]
    environment = {**inherited_environment(), **settings.as_environment()}
    part = ChildProcess("host", command, environment, folder / f"{name}.log", messages)
    part.start()
    try:
        while (message := messages.get(timeout=START_S)).message_type != "ready":
            part.check()
        uri = str(message.fields["uri"])
        while fork_mode and message.fields.get("state") != "IN":
            message = messages.get(timeout=START_S)
            part.check()
        yield uri
        part.check()
        _check_stays_in(messages)
    finally:
        part.signal(signal.SIGTERM)
        part.wait()


def _check_stays_in(messages: queue.SimpleQueue[ChildMessage]) -> None:
    """Raise ProgramFailed if a secondary has left the fork."""
    while not messages.empty():
        message = messages.get()
        if message.message_type == "fork":
            raise ProgramFailed(f"the secondary is {message.fields['state']}: {message.fields}")


@contextmanager
def reading_snapshots(uri: str) -> Iterator[None]:
    """Read snapshots of an export of mirrorlog while the context lasts, one after the other."""
    stopped = Event()
    reader = Thread(target=_read_snapshots, args=(parse_nbd_uri(uri), stopped))
    reader.start()
    try:
        yield
    finally:
        stopped.set()
        reader.join()


def _read_snapshots(uri: NbdUri, stopped: Event) -> None:
    random = Random(1)
    while not stopped.is_set():
        name = snapshot_export(str(uuid4()))
        with NbdDevice(replace(uri, export=name), writable=False, reconnects=False) as device:
            until = time.monotonic() + SNAPSHOT_S
            while time.monotonic() < until and not stopped.wait(0.001):
                block = random.randrange(device.size_bytes // BLOCK_BYTES)
                device.pread(offset=block * BLOCK_BYTES, length=BLOCK_BYTES)


def nbdkit(folder: Path, *arguments: str) -> AbstractContextManager[str]:
    """Run nbdkit alone, with these arguments."""
    return _serve(
        folder / "n.sock", ["nbdkit", "--foreground", "--unix", str(folder / "n.sock"), *arguments]
    )


def qemu_nbd(folder: Path, image: Path, image_format: str) -> AbstractContextManager[str]:
    """Run qemu-nbd. It keeps the bitmaps of the image up to date, in memory."""
    command = [
        "qemu-nbd",
        "--persistent",
        "--socket",
        str(folder / "q.sock"),
        "--format",
        image_format,
        str(image),
    ]
    return _serve(folder / "q.sock", command)


def qemu_storage_daemon(folder: Path, image: Path) -> AbstractContextManager[str]:
    """Run qemu-storage-daemon on the raw image, with a dirty bitmap in memory."""
    socket = folder / "d.sock"
    nodes = [f"driver=file,node-name=file,filename={image}", "driver=raw,node-name=disk,file=file"]
    command = [
        *("qemu-storage-daemon", "--chardev", "stdio,id=control", "--monitor", "chardev=control"),
        *(word for node in nodes for word in ("--blockdev", node)),
        *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
    ]
    qmp_commands: list[tuple[str, dict[str, object]]] = [
        ("qmp_capabilities", {}),
        ("block-dirty-bitmap-add", {"node": "disk", "name": "changed"}),
        (
            "block-export-add",
            {"type": "nbd", "id": "disk", "node-name": "disk", "name": "", "writable": True},
        ),
    ]
    return _serve(
        socket, command, [{"execute": name, "arguments": given} for name, given in qmp_commands]
    )


@contextmanager
def _serve(
    socket: Path, command: list[str], qmp_commands: Sequence[Mapping[str, object]] = ()
) -> Iterator[str]:
    """Run a server, and give the URI of its socket.

    qmp_commands: commands of the QEMU Machine Protocol, for the server's standard input.
    """
    socket.unlink(missing_ok=True)
    with subprocess.Popen(
        dies_with_parent(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            for qmp_command in qmp_commands:
                _execute(process, qmp_command)
            until = time.monotonic() + START_S
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise ProgramFailed(f"{command[0]} didn't start to serve")
                time.sleep(0.02)
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()
            process.wait()


def _execute(process: subprocess.Popen[str], qmp_command: Mapping[str, object]) -> None:
    """Execute a command of the QEMU Machine Protocol. Raise ProgramFailed if QEMU refuses it.

    QEMU answers with a line. Lines that aren't an answer are events.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(qmp_command) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        answer = json.loads(line)
        if "return" in answer:
            return
        if "error" in answer:
            raise ProgramFailed(f"QEMU refused {qmp_command['execute']}: {answer['error']['desc']}")
    raise ProgramFailed("QEMU ended")


def requests_per_s(uri: str, count: int, options: Mapping[str, int]) -> float:
    """Return the writes a second of `qemu-img bench`, with these of its own options."""
    option_words = [word for name, value in options.items() for word in (name, str(value))]
    command = [
        "qemu-img",
        "bench",
        "-w",
        "-t",
        "none",
        "-f",
        "raw",
        "-c",
        str(count),
        *option_words,
        uri,
    ]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise ProgramFailed(f"qemu-img bench failed: {completed.stderr.strip()}")
    seconds = completed.stdout.partition("Run completed in")[2].split()[0]
    return count / float(seconds)
