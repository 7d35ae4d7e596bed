"""What tracking costs the one who writes: a tracked volume beside the same writes without it, publishing to a live broker.

    python benchmarks/bench_host.py [--cases pwrite_4k_random,…] [--repeat 5] [--short] [--save] [--dir FOLDER]

pwrite_SIZE_ORDER[_fsync]: TrackedVolume.pwrite beside os.pwrite on the same descriptor's file, 4 KiB or 64 KiB, random or
sequential, with _fsync a flush after each 32 writes. The file is 256 MiB, written once before, so that all is in the page cache
and nothing is allocated. A repeat is some rounds of each in turn, plain and tracked, with the same data and addresses; a
round's time is divided by its writes, and a repeat is the medians of its rounds. A thread ticks each 5 ms, as a host's does;
its time on the CPU is in the figures, for it takes the interpreter away from the writer.

The last line of stdout is one JSON object: by case the microseconds a write, plain and tracked, their ratio (tracked over
plain) and their difference, medians over the repeats.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from cluster import Cluster
from results import finish, machine

from mirrorlog.adapters.devices import FileDevice, open_device
from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.catalog import describe
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.host import Host, HostPorts
from mirrorlog.producers.state_folder import DiskFolder
from mirrorlog.producers.tracked_volume import TrackedVolume
from mirrorlog.volumes import Volume

_FILE_BYTES: Final = 256 << 20
_BYTES_A_ROUND: Final = 64 << 20
_MOST_WRITES: Final = 4000
_TICK_S: Final = 0.005
_FLUSH_EACH: Final = 32
_KIB: Final = 1024
LIMITS: Final = {"64k": ("ratio", 1.10), "4k": ("more_us", 5.0)}
"""What a case of that size may cost: tracked over plain, or microseconds more a write."""

Round = Callable[[Sequence[int], bytes], None]


@dataclass(frozen=True, slots=True)
class Written:
    """Microseconds a write in one repeat."""

    plain_us: float
    tracked_us: float


@dataclass(frozen=True, slots=True)
class World:
    """What the cases write to: the same file, as a tracked volume and as a descriptor. rounds: of each kind in a repeat."""

    volume: TrackedVolume
    fd: int
    rounds: int


class PwriteCase:
    """One size, one order, with or without a flush after each 32 writes."""

    def __init__(self, size: int, random: bool, flushes: bool) -> None:
        self._size, self._random, self._flushes = size, random, flushes
        self._writes = min(_BYTES_A_ROUND // size, _MOST_WRITES) // (8 if flushes else 1)

    def run(self, world: World, seed: int) -> Written:
        """One repeat."""
        random = Random(seed)
        data = random.randbytes(self._size)
        plain: list[float] = []
        tracked: list[float] = []
        for number in range(world.rounds):
            offsets = self._offsets(random)
            pair = [(plain, self._plain(world.fd)), (tracked, self._tracked(world.volume))]
            for times, write in pair if number % 2 else reversed(pair):
                times.append(_timed(write, offsets, data))
        return Written(median(plain), median(tracked))

    def _offsets(self, random: Random) -> list[int]:
        places = _FILE_BYTES // self._size
        if self._random:
            return [random.randrange(places) * self._size for _ in range(self._writes)]
        first = random.randrange(places - self._writes + 1)
        return [(first + number) * self._size for number in range(self._writes)]

    def _plain(self, fd: int) -> Round:
        def write(offsets: Sequence[int], data: bytes) -> None:
            pwrite = os.pwrite
            for offset in offsets:
                pwrite(fd, data, offset)

        def write_and_flush(offsets: Sequence[int], data: bytes) -> None:
            for number, offset in enumerate(offsets, start=1):
                os.pwrite(fd, data, offset)
                if number % _FLUSH_EACH == 0:
                    os.fdatasync(fd)

        return write_and_flush if self._flushes else write

    def _tracked(self, volume: TrackedVolume) -> Round:
        def write(offsets: Sequence[int], data: bytes) -> None:
            pwrite = volume.pwrite
            for offset in offsets:
                pwrite(data, offset)

        def write_and_flush(offsets: Sequence[int], data: bytes) -> None:
            for number, offset in enumerate(offsets, start=1):
                volume.pwrite(data, offset)
                if number % _FLUSH_EACH == 0:
                    volume.flush()

        return write_and_flush if self._flushes else write


CASES: Final[Mapping[str, PwriteCase]] = {
    f"pwrite_{size}k_{order}{'_fsync' if flushes else ''}": PwriteCase(size * _KIB, order == "random", flushes)
    for flushes in (False, True)
    for size in (4, 64)
    for order in ("random", "sequential")
}


def _timed(write: Round, offsets: Sequence[int], data: bytes) -> float:
    began = time.perf_counter()
    write(offsets, data)
    return (time.perf_counter() - began) / len(offsets) * 1e6


@contextmanager
def tracked_file(cluster: Cluster, folder: Path, rounds: int) -> Iterator[World]:
    """A volume on a file of a host that publishes to the cluster, and a thread that ticks."""
    settings = cluster.settings("bench.", folder, 1)
    cluster.make_topics(settings)
    path = folder / "primary.img"
    with path.open("wb") as file:
        for _ in range(_FILE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    volume = describe("bench", _FILE_BYTES, 4096, path.as_uri(), [0], SystemClock().now_us())
    cluster.describe(settings, [volume])
    with ExitStack() as stack:
        publisher = KafkaPublisher(settings.kafka_client())
        stack.callback(publisher.close)
        device = stack.enter_context(FileDevice(path, writable=True))
        fd = os.open(path, os.O_RDWR)
        stack.callback(os.close, fd)
        ports = HostPorts(DiskFolder(folder / "host"), publisher, SystemClock(), open_device)
        known: dict[str, Volume] = {volume.volume: volume}
        host = stack.enter_context(Host("bench", ports, settings, known))
        tracked = host.open(volume, device, newly_created=True)
        stop = threading.Event()
        ticking = threading.Thread(target=_tick, args=(host, stop))
        ticking.start()
        try:
            yield World(tracked, fd, rounds)
        finally:
            stop.set()
            ticking.join()


def _tick(host: Host, stop: threading.Event) -> None:
    while not stop.wait(_TICK_S):
        host.tick(time.monotonic())


def figures(runs: Sequence[Written]) -> dict[str, Any]:
    """Medians over the repeats; the ratio and the difference are of one repeat each."""
    return {
        "plain_us": round(median(run.plain_us for run in runs), 2),
        "tracked_us": round(median(run.tracked_us for run in runs), 2),
        "ratio": round(median(run.tracked_us / run.plain_us for run in runs), 3),
        "more_us": round(median(run.tracked_us - run.plain_us for run in runs), 2),
        "runs": [[round(run.plain_us, 2), round(run.tracked_us, 2)] for run in runs],
    }


def failures(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cases that cost more than they may."""
    found = []
    for name, case in cases.items():
        what, limit = LIMITS[name.split("_")[1]]
        if case[what] > limit:
            found.append(f"{name}: {what} is {case[what]}, above {limit}")
    return found


def main() -> int:
    """Runs the cases in turn, repeat by repeat."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--cases", default=",".join(CASES), help="names, separated by commas")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10, help="of each kind in a repeat")
    parser.add_argument("--short", action="store_true", help="a quick look: nothing is kept")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--dir", type=Path, help="where the file and the state lie; a temporary folder otherwise")
    arguments = parser.parse_args()
    names = arguments.cases.split(",")
    if unknown := sorted(set(names) - CASES.keys()):
        parser.error(f"there is no case {', '.join(unknown)}")
    repeat, rounds = (2, 4) if arguments.short else (arguments.repeat, arguments.rounds)
    runs: dict[str, list[Written]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder, Cluster(Path(folder)) as cluster:
        with tracked_file(cluster, Path(folder), rounds) as world:
            for number in range(repeat):
                for name in names:
                    runs[name].append(CASES[name].run(world, number))
                    print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    cases = {name: figures(each) for name, each in runs.items()}
    result = {
        "bench": "host",
        "short": arguments.short,
        "repeat": repeat,
        "machine": machine(),
        "cases": cases,
        "ratios": {name: case["ratio"] for name, case in cases.items()},
        "failures": failures(cases),
    }
    return finish(result, save=arguments.save)


if __name__ == "__main__":
    sys.exit(main())
