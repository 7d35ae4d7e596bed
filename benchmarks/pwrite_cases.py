"""Cases of bench_host.py: pwrite through a tracked volume beside os.pwrite on the same file.

The writes have 4 KiB or 64 KiB, and are random or sequential, with or without a flush after each 32
writes. The file has 128 MiB and is written once before, so that all of it is in the page cache and
nothing is allocated. A repeat does rounds of plain and tracked writes in turn, with the same data
and addresses. A round's time is divided by its writes, and a repeat's result is the median of its
rounds. A thread ticks each 5 ms, as a host's does, and publishes to a live broker. The figures
include the time in which that thread has the interpreter.

- pwrite_4k_forked, pwrite_64k_forked: random writes to a volume with one secondary, a file of its
  own, in the mode `async`. A round ends when the last write has returned. Before the next one, the
  host drains: the secondary has everything durably, and Kafka has all commands. The time of a write
  with its part of that is a result, too (`_drained`).
- pwrite_4k_regions, pwrite_4k_scattered: each write goes to another region of 4 MiB, and there are
  twice as many regions as may be hot, in a file of 8 GiB that is one hole at first. The regions
  come one after the other, or at random.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Final, Protocol

from cluster import Cluster
from forked_exports import SITE, marked, report_of_all
from pinned import ProgramFailed

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.domain.site_progress import SiteProgress
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.durable.disk_folder import DiskFolder
from mirrorlog.producers.forks.fork_calls import ForkPorts, ThreadWorkers
from mirrorlog.producers.forks.fork_plans import ForkMode, ForkPlan
from mirrorlog.producers.forks.marked_secondary import open_marked_secondary
from mirrorlog.producers.session.host import Host
from mirrorlog.producers.session.host_ports import HostPorts
from mirrorlog.producers.session.opening import OpenRequest
from mirrorlog.producers.writes.background_jobs import ThreadJobs
from mirrorlog.producers.writes.tracked_volume import TrackedVolume
from mirrorlog.reading.catalog import new_volume

FILE_BYTES: Final = 128 << 20
SPARSE_BYTES: Final = 8 << 30
REGION_BYTES: Final = 4 << 20
START_S: Final = 30.0
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
        with self._opened(bench, folder) as opened:
            volume, fd = opened.volume, opened.fd
            for number in range(bench.repeat):
                plain, tracked = self._repeat(Random(number), 4 if bench.short else 12, volume, fd)
                bench.note(f"{self._name}_plain", "ns", plain)
                bench.note(f"{self._name}_tracked", "ns", tracked)
        (folder / "primary").unlink()
        bench.ratios[self._name] = round(
            bench.median(f"{self._name}_tracked") / bench.median(f"{self._name}_plain"), 3
        )

    def _opened(self, bench: Bench, folder: Path) -> AbstractContextManager[OpenedFile]:
        """Open the case's volume."""
        return opened_file(bench.cluster, folder)

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


class ForkedCase(PwriteCase):
    """A case of one size: random writes that go to one secondary, too."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size, is_random=True, flushes=False)

    def __call__(self, bench: Bench) -> None:
        """Measure the nanoseconds of a write: plain, forked, and forked until all is durable."""
        folder = bench.folder / self._name
        folder.mkdir()
        with opened_file(bench.cluster, folder, is_forked=True) as opened:
            opened.wait_until_forked()
            for number in range(bench.repeat):
                self._compare(bench, Random(number), 4 if bench.short else 12, opened)
            opened.check_forked()
        for name in ("primary", "secondary"):
            (folder / name).unlink()
        for label in ("forked", "drained"):
            bench.ratios[self._name.replace("forked", label)] = round(
                bench.median(f"{self._name}_{label}") / bench.median(f"{self._name}_plain"), 3
            )

    def _compare(self, bench: Bench, random: Random, rounds: int, opened: OpenedFile) -> None:
        data = random.randbytes(self._size)
        times: dict[str, list[float]] = {"plain": [], "forked": [], "drained": []}
        for number in range(rounds):
            offsets = self._offsets(random)
            for is_forked in (True, False) if number % 2 else (False, True):
                start_ns = time.perf_counter_ns()
                write = opened.volume.pwrite if is_forked else partial(os.pwrite, opened.fd)
                took_ns = self._timed(write, opened.volume.flush, data, offsets)
                times["forked" if is_forked else "plain"].append(took_ns)
                if is_forked:
                    opened.host.drain()
                    times["drained"].append((time.perf_counter_ns() - start_ns) / len(offsets))
        for label, values in times.items():
            bench.note(f"{self._name}_{label}", "ns", median(values))


class RegionsCase(PwriteCase):
    """A case in which each write of 4 KiB goes to another region."""

    def __init__(self, name: str, *, is_random: bool) -> None:
        super().__init__(name, 4 << 10, is_random=is_random, flushes=False)

    def _opened(self, bench: Bench, folder: Path) -> AbstractContextManager[OpenedFile]:
        return opened_file(bench.cluster, folder, size_bytes=SPARSE_BYTES)

    def _offsets(self, random: Random) -> list[int]:
        regions = list(range(SPARSE_BYTES // REGION_BYTES))
        if self._is_random:
            random.shuffle(regions)
        return [number * REGION_BYTES for number in regions]


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A tracked volume on a file, its host, and a descriptor of the file."""

    host: Host
    volume: TrackedVolume
    fd: int

    def wait_until_forked(self) -> None:
        """Wait until the secondary is in the fork."""
        until_s = time.monotonic() + START_S
        while not self._is_forked and time.monotonic() < until_s:
            time.sleep(TICK_S)
        self.check_forked()

    def check_forked(self) -> None:
        """Raise ProgramFailed if the secondary isn't in the fork."""
        if not self._is_forked:
            raise ProgramFailed("the secondary isn't in the fork")

    @property
    def _is_forked(self) -> bool:
        forks = self.volume.tracker_and_volume[1].forks
        return forks is not None and all(secondary.is_in for secondary in forks.secondaries)


@dataclass
class SiteThatKnows:
    """The reports of a site that has applied everything, whatever is written."""

    report: SiteProgress

    def poll(self) -> None:
        """Do nothing."""

    def of(self, volume: str) -> Sequence[SiteProgress]:
        """Return the report."""
        assert volume == self.report.volume
        return [self.report]


@contextmanager
def opened_file(
    cluster: Cluster, folder: Path, *, size_bytes: int = 0, is_forked: bool = False
) -> Iterator[OpenedFile]:
    """Open a tracked volume on a file, and a descriptor of the file.

    The volume's host publishes to the cluster, and a thread lets it tick.

    size_bytes: of a file that is one hole; 0 for one of FILE_BYTES whose blocks are all allocated.
    is_forked: the writes also go to a file beside it.
    """
    settings = cluster.settings(f"{folder.name}.", folder, 1)
    cluster.make_topics(settings)
    path = folder / "primary"
    _make_file(path, size_bytes)
    described = new_volume(
        "bench",
        size_bytes=size_bytes or FILE_BYTES,
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
        forks, plan = _forks(folder, described) if is_forked else (None, None)
        ports = HostPorts(
            DiskFolder(folder / "host"),
            publisher,
            SystemClock(),
            open_device,
            forks=forks,
            jobs=ThreadJobs(),
        )
        host = stack.enter_context(Host("bench", ports, settings, {"bench": described}))
        request = OpenRequest(described, device, newly_created=True, forks=plan)
        volume = host.open_all([request])["bench"]
        stop = threading.Event()
        ticking = threading.Thread(target=_tick, args=(host, stop))
        ticking.start()
        try:
            yield OpenedFile(host, volume, fd)
        finally:
            stop.set()
            ticking.join()


def _make_file(path: Path, size_bytes: int = 0) -> None:
    """Create a file of random data, or of one hole if a size in bytes is given."""
    with path.open("wb") as file:
        for _ in range(0 if size_bytes else FILE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
        if size_bytes:
            file.truncate(size_bytes)
        file.flush()
        os.fsync(file.fileno())


def _forks(folder: Path, described: Volume) -> tuple[ForkPorts, ForkPlan]:
    """Make a secondary with a site's mark, and return how to fork writes to it."""
    path = folder / "secondary"
    _make_file(path)
    reports = SiteThatKnows(report_of_all(described, marked(path, described)))
    ports = ForkPorts(open_marked_secondary, ThreadWorkers(), reports)
    return ports, ForkPlan({SITE: path.as_uri()}, ForkMode.parse("async"))


def _tick(host: Host, stop: threading.Event) -> None:
    while not stop.wait(TICK_S):
        host.tick(time.monotonic())


def _cases() -> Iterator[tuple[str, PwriteCase]]:
    for flushes in (False, True):
        for size, label in ((4 << 10, "4k"), (64 << 10, "64k")):
            for order in ("random", "sequential"):
                name = f"pwrite_{label}_{order}{'_fsync' if flushes else ''}"
                yield name, PwriteCase(name, size, is_random=order == "random", flushes=flushes)
    for size, label in ((4 << 10, "4k"), (64 << 10, "64k")):
        yield f"pwrite_{label}_forked", ForkedCase(f"pwrite_{label}_forked", size)
    yield "pwrite_4k_regions", RegionsCase("pwrite_4k_regions", is_random=False)
    yield "pwrite_4k_scattered", RegionsCase("pwrite_4k_scattered", is_random=True)


CASES: Final[Mapping[str, PwriteCase]] = dict(_cases())
