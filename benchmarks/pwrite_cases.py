"""Cases of bench_host.py: pwrite through a tracked volume beside os.pwrite on the same file.

The writes have 4 KiB or 64 KiB, and are random or sequential, with or without a flush after each 32
writes. The file has 128 MiB and is written once before, so that all of it is in the page cache and
nothing is allocated. A repeat does rounds of plain and tracked writes in turn, with the same data
and addresses. A round's time is divided by its writes, and a repeat's result is the median of its
rounds. A thread ticks each 5 ms, as a host's does, and publishes to a live broker. The figures
include the time in which that thread has the interpreter.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Final, Protocol

from cluster import Cluster

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.writes.background_jobs import ThreadJobs
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import new_volume

FILE_BYTES: Final = 128 << 20
ROUND_BYTES: Final = 64 << 20
MAX_WRITES: Final = 4000
TICK_S: Final = 0.005
WRITES_PER_FLUSH: Final = 32

Write = Callable[[bytes, int], object]
Flush = Callable[[], object]


class Bench(Protocol):
    """The input of a case, and the place of its results."""

    cluster: Cluster
    folder: Path
    repeat: int
    short: bool
    ratios: dict[str, float]

    def note(self, name: str, unit: str, value: float) -> None: ...

    def median(self, name: str) -> float: ...


class PwriteCase:
    """A case of one size and one order, with or without flushes."""

    def __init__(self, name: str, size: int, *, is_random: bool, flushes: bool) -> None:
        self._name, self._size, self._is_random = name, size, is_random
        self._writes_per_flush = WRITES_PER_FLUSH if flushes else 0
        self._writes = min(ROUND_BYTES // size, MAX_WRITES) // (8 if flushes else 1)

    def __call__(self, bench: Bench) -> None:
        """Measure the nanoseconds of a write, plain and tracked, in each repeat.

        The ratio is tracked over plain.
        """
        folder = bench.folder / self._name
        folder.mkdir()
        with tracked_file(bench.cluster, folder) as (volume, fd):
            for number in range(bench.repeat):
                plain, tracked = self._repeat(Random(number), 4 if bench.short else 12, volume, fd)
                bench.note(f"{self._name}_plain", "ns", plain)
                bench.note(f"{self._name}_tracked", "ns", tracked)
        (folder / "primary").unlink()
        bench.ratios[self._name] = round(
            bench.median(f"{self._name}_tracked") / bench.median(f"{self._name}_plain"), 3
        )

    def _repeat(
        self, random: Random, rounds: int, volume: TrackedVolume, fd: int
    ) -> tuple[float, float]:
        """Return the nanoseconds of a plain write and of a tracked write."""
        data = random.randbytes(self._size)
        plain: list[float] = []
        tracked: list[float] = []
        for number in range(rounds):
            offsets = self._offsets(random)
            pair = [
                (plain, partial(os.pwrite, fd), partial(os.fdatasync, fd)),
                (tracked, volume.pwrite, volume.flush),
            ]
            for times, write, flush in pair if number % 2 else reversed(pair):
                times.append(self._timed(write, flush, data, offsets))
        return median(plain), median(tracked)

    def _offsets(self, random: Random) -> list[int]:
        """Return the offsets of the writes of a round."""
        count = FILE_BYTES // self._size
        if self._is_random:
            return [random.randrange(count) * self._size for _ in range(self._writes)]
        first = random.randrange(count - self._writes + 1)
        return [(first + number) * self._size for number in range(self._writes)]

    def _timed(self, write: Write, flush: Flush, data: bytes, offsets: Sequence[int]) -> float:
        """Do the writes, and return the nanoseconds of one of them."""
        interval = self._writes_per_flush or len(offsets) + 1
        start_ns = time.perf_counter_ns()
        for number, offset in enumerate(offsets, start=1):
            write(data, offset)
            if number % interval == 0:
                flush()
        return (time.perf_counter_ns() - start_ns) / len(offsets)


@contextmanager
def tracked_file(cluster: Cluster, folder: Path) -> Iterator[tuple[TrackedVolume, int]]:
    """Give a tracked volume on a file, and a descriptor of the file.

    The volume's host publishes to the cluster, and a thread lets it tick.
    """
    settings = cluster.settings(f"{folder.name}.", folder, 1)
    cluster.make_topics(settings)
    path = folder / "primary"
    with path.open("wb") as file:
        for _ in range(FILE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    described = new_volume(
        "bench",
        size_bytes=FILE_BYTES,
        block_size=4096,
        primary=path.as_uri(),
        ends=[0],
        now_us=SystemClock().now_us(),
    )
    cluster.describe(settings, [described])
    with ExitStack() as stack:
        publisher = KafkaPublisher(settings.kafka_client())
        stack.callback(publisher.close)
        device = stack.enter_context(FileDevice(path, writable=True))
        fd = os.open(path, os.O_RDWR)
        stack.callback(os.close, fd)
        ports = HostPorts(
            DiskFolder(folder / "host"), publisher, SystemClock(), open_device, jobs=ThreadJobs()
        )
        host = stack.enter_context(Host("bench", ports, settings, {"bench": described}))
        volume = host.open(described, device, newly_created=True)
        stop = threading.Event()
        ticking = threading.Thread(target=_tick, args=(host, stop))
        ticking.start()
        try:
            yield volume, fd
        finally:
            stop.set()
            ticking.join()


def _tick(host: Host, stop: threading.Event) -> None:
    while not stop.wait(TICK_S):
        host.tick(time.monotonic())


def _cases() -> Iterator[tuple[str, PwriteCase]]:
    for flushes in (False, True):
        for size, label in ((4 << 10, "4k"), (64 << 10, "64k")):
            for order in ("random", "sequential"):
                name = f"pwrite_{label}_{order}{'_fsync' if flushes else ''}"
                yield name, PwriteCase(name, size, is_random=order == "random", flushes=flushes)


CASES: Final[Mapping[str, PwriteCase]] = dict(_cases())
