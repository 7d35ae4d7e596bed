"""The axes of growth: the sizes that are measured on each, and how.

Each measurement is of the real code: a node as a process of its own on one core, an embedded broker
on the other. What a volume's size and the days of the log cost doesn't depend on processes, and is
measured in this one.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import psutil
from bench_idle_volumes import Node
from cluster import Cluster
from contestants import LOG_FILE, START_S, start_node, wait_recorded
from scale_model import RECORD_WRITES
from workload import Publication, Workload

from mirrorlog.adapters.kafka import KafkaReader
from mirrorlog.codec.events import decode
from mirrorlog.domain.bitmaps import BlockSet, pack, union, unpack
from mirrorlog.ports.streams import Message
from mirrorlog.settings import Settings
from mirrorlog.tracking_log.keys import key_kind
from mirrorlog.tracking_log.records import LogRecord

BLOCK: Final = 4096
WRITES_A_HOST: Final = 100
"""The writes a second of one host. Each host writes to a volume of its own."""
_LINGER_S: Final = 0.1
"""How often a host publishes a command (host_linger_s)."""
_WARM_S: Final = 2.0
_WINDOW_S: Final = 8.0
_SITES_HOSTS: Final = 20
_DEADLINE_S: Final = 120.0
_DAY_BLOCKS: Final = 10 * (1 << 30) // BLOCK
_DAY_WRITES: Final = 86_400 * 10
_DIRTY: Final = 0.1
_SETTLE_S: Final = 1.0

Figures: TypeAlias = Mapping[str, float]
"""What each resource took, by the resource's name (scale_resources.py)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where an axis is measured. core: the node's. repeat: the number of the pass, for names."""

    cluster: Cluster
    core: int
    repeat: int = 0


@dataclass(slots=True)
class _Sites:
    """Readers that follow the changelog as sites do, each with a client and a thread of its own.

    The time between two polls isn't measured: a reader waits for the broker.
    """

    settings: Settings
    ends: Mapping[int, int]
    count: int
    received_bytes: int = 0
    named_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> _Sites:
        self._threads = [threading.Thread(target=self._follow) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _follow(self) -> None:
        reader = KafkaReader(self.settings.kafka_client())
        reader.assign(self.settings.topics.changelog, self.ends)
        while not self._stopped.is_set():
            messages = reader.poll(0.2)
            received = sum(message.size_bytes for message in messages)
            named = _named_bytes(messages)
            with self._lock:
                self.received_bytes += received
                self.named_bytes += named
        reader.close()


def _named_bytes(messages: Iterable[Message]) -> int:
    """Return the bytes of the blocks that the records among these messages name."""
    return sum(
        len(decode(message.value, LogRecord).changed) * BLOCK
        for message in messages
        if message.key is not None
        and message.value is not None
        and key_kind(message.key) is LogRecord
    )


def _paced(publications: Sequence[Publication], hosts: int) -> Iterator[Publication]:
    """Yield one command of each host every _LINGER_S, with the openings of sessions at once."""
    yield from publications[:hosts]
    began_s = time.monotonic()
    for tick, start in enumerate(range(hosts, len(publications), hosts)):
        time.sleep(max(began_s + tick * _LINGER_S - time.monotonic(), 0))
        yield from publications[start : start + hosts]


def _run_hosts(stage: Stage, hosts: int, *, sites: int = 0) -> dict[str, float]:
    """Let hosts write for some seconds beside sites; return what everything took in a second."""
    cluster, ticks = stage.cluster, round((_WARM_S + _WINDOW_S + _SETTLE_S) / _LINGER_S)
    extents = round(WRITES_A_HOST * _LINGER_S)
    workload = Workload(
        hosts * extents * ticks, extents, time.time_ns() // 1000,
        volume_count=hosts, volume_bytes=16 << 30, writes_per_s=WRITES_A_HOST,
    )  # fmt: skip
    name = f"hosts-{hosts}-{sites}-{stage.repeat}"
    folder = cluster.folder / name
    folder.mkdir()
    settings = cluster.settings(f"{name}.", folder / "state", workload.partitions)
    topics = settings.topics
    cluster.make_topics(settings)
    cluster.describe(settings, workload.volumes())
    publications = list(workload.publications())
    broker = psutil.Process(cluster.broker_pid)
    with ExitStack() as stack:
        program = stack.enter_context(start_node(settings, folder / LOG_FILE, stage.core))
        program.wait_for_line("ready", START_S)
        followers = stack.enter_context(_Sites(settings, cluster.ends(topics.changelog), sites))
        publisher = threading.Thread(
            target=cluster.publish,
            args=(topics.commands, _paced(publications, hosts), "lz4"),
        )
        publisher.start()
        time.sleep(_WARM_S)
        before, began_s = cluster.ends(topics.changelog), time.time()
        commands_before = cluster.ends(topics.commands)
        broker_s = sum(broker.cpu_times()[:2])
        received, named = followers.received_bytes, followers.named_bytes
        time.sleep(_WINDOW_S)
        after, elapsed_s = cluster.ends(topics.changelog), time.time() - began_s
        broker_s = sum(broker.cpu_times()[:2]) - broker_s
        received = followers.received_bytes - received
        named = followers.named_bytes - named
        commands_after = cluster.ends(topics.commands)
        node_s = program.cpu_s(began_s + elapsed_s) - program.cpu_s(began_s)
        publisher.join()
        wait_recorded(cluster, settings, program, workload.ends(), _DEADLINE_S)
    return {
        "node_cpu_cores": node_s / elapsed_s,
        "broker_cpu_cores": broker_s / elapsed_s,
        "commands_bytes_s": _size(
            cluster, settings, topics.commands, commands_before, commands_after
        )
        / elapsed_s,
        "changelog_bytes_s": _size(cluster, settings, topics.changelog, before, after) / elapsed_s,
        "sites_bytes_s": received / elapsed_s,
        "primary_bytes_s": named / elapsed_s,
    }


def _size(
    cluster: Cluster,
    settings: Settings,
    topic: str,
    before: Mapping[int, int],
    after: Mapping[int, int],
) -> int:
    """Return the bytes of keys and values in [before, after) of each partition."""
    return sum(
        message.size_bytes
        for message in cluster.read(settings, topic, before)
        if message.position < after[message.partition]
    )


def measure_writes(stage: Stage, writes_per_s: float) -> Figures:
    """Measure hosts of WRITES_A_HOST each, which make so many writes together."""
    taken = _run_hosts(stage, round(writes_per_s / WRITES_A_HOST))
    return {
        name: taken[name] for name in ("node_cpu_cores", "commands_bytes_s", "changelog_bytes_s")
    }


def measure_sites(stage: Stage, sites: float) -> Figures:
    """Measure sites that follow the log of _SITES_HOSTS hosts."""
    taken = _run_hosts(stage, _SITES_HOSTS, sites=round(sites))
    names = ("node_cpu_cores", "broker_cpu_cores", "sites_bytes_s", "primary_bytes_s")
    return {name: taken[name] for name in names}


def measure_volumes(stage: Stage, volumes: float) -> Figures:
    """Measure a node whose volumes were all written to once, and ten of which are in use."""
    run = Node(stage.cluster, round(volumes), stage.core).run(3)
    return {
        "node_memory_bytes": run.resident_bytes,
        "node_idle_cores": run.idle_cpu_s_per_s,
        "flush_cpu_s": run.round_cpu_s,
    }


def _random_blocks(random: np.random.Generator, blocks: int, count: int) -> BlockSet:
    return BlockSet(array("Q", random.integers(0, blocks, count, dtype=np.uint64).tobytes()))


def measure_size(_: Stage, size_bytes: float) -> Figures:
    """Measure the records of a volume of that size: of a flush, and of a day."""
    random, blocks = np.random.default_rng(11), int(size_bytes) // BLOCK
    flush = pack(_random_blocks(random, blocks, RECORD_WRITES)).size_bytes
    figures = {"bytes_a_write": flush / RECORD_WRITES}
    if size_bytes <= _LARGEST_DAY:
        day = pack(_random_blocks(random, blocks, int(blocks * _DIRTY)))
        figures["day_record_bytes"] = day.size_bytes
    return figures


_LARGEST_DAY: Final = 256 << 30
"""The largest volume whose day is measured: its blocks are drawn in memory."""


def measure_days(_: Stage, days: float) -> Figures:
    """Measure the records of as many days: their size, and the union of all of them."""
    random = np.random.default_rng(12)
    packed = [pack(_random_blocks(random, _DAY_BLOCKS, _DAY_WRITES)) for _ in range(round(days))]
    began_s = time.process_time()
    union(unpack(record.bitmap, record.runs) for record in packed)
    return {
        "table_bytes": sum(record.size_bytes for record in packed),
        "question_cpu_s": time.process_time() - began_s,
    }


Measure: TypeAlias = Callable[[Stage, float], Figures]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: the sizes that are measured, and those of --short."""

    sizes: Sequence[float]
    short: Sequence[float]
    measure: Measure


AXES: Final[Mapping[str, Axis]] = {
    "writes": Axis((1_000, 4_000, 16_000, 64_000), (1_000, 2_000, 4_000), measure_writes),
    "volumes": Axis((100, 1_000, 3_000, 10_000), (20, 100, 200), measure_volumes),
    "size": Axis(
        [float(1 << power) for power in (30, 32, 34, 36, 38, 41, 44, 47, 50)],
        [float(1 << power) for power in (28, 30, 32)],
        measure_size,
    ),
    "sites": Axis((1, 4, 12, 36), (1, 2, 4), measure_sites),
    "days": Axis((1, 3, 10, 30), (1, 2, 4), measure_days),
}
