"""Workers of one site: what each has locked, and what its site does with the volumes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from notation import volume
from scraping import scrape

from mirrorlog.codec.events import decode, encode
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.worker_metrics import worker_samples
from mirrorlog.consumers.workers.worker_share import WorkerShare
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.metric_samples import ExportingRole
from mirrorlog.ports.devices import Data
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.simulation.memory_devices import MemoryDevice
from mirrorlog.simulation.memory_locks import LockTable, MemoryLocks
from mirrorlog.simulation.memory_secondaries import MemorySecondaries
from mirrorlog.simulation.memory_secondary_states import MemorySecondaryStates
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

SETTINGS = Settings(site_copy_bytes=64 << 10, site_chunk_bytes=256 << 10)
TOPICS = SETTINGS.topics
VOLUMES = {
    name: volume(name, partition=partition, initially_zeroed=False)
    for partition, names in enumerate(("ab", "cd", "ef"))
    for name in names
}


class HeldSecondaries(MemorySecondaries):
    """Secondaries that one worker at a time holds, as the locks of files do. worker: who asks."""

    def __init__(
        self,
        devices: Mapping[str, MemoryDevice],
        primaries: Mapping[str, MemoryDevice],
        worker: Callable[[], object],
    ) -> None:
        super().__init__(devices, primaries)
        self._worker = worker
        self._holders: dict[str, object] = {}

    def hold(self, volume: Volume) -> None:
        if self._holders.setdefault(volume.volume, self._worker()) is not self._worker():
            raise DeviceFailed("another process writes to the secondary", where=volume.volume)

    def release(self, volume: Volume) -> None:
        if self._holders.get(volume.volume) is self._worker():
            del self._holders[volume.volume]


@dataclass
class Folder:
    """What the workers of a site share: the topics, the locks, the states and the devices.

    running: the worker that runs now.
    """

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    table: LockTable = field(default_factory=LockTable)
    states: MemorySecondaryStates = field(default_factory=MemorySecondaryStates)
    running: Worker | None = None

    def __post_init__(self) -> None:
        self.broker.create(TOPICS.specs(single_copy=True), 3)
        publisher = self.broker.publisher()
        for described in VOLUMES.values():
            publish_volume(publisher, TOPICS, described)
        publisher.flush(0)
        for partition in range(3):
            watermark = Watermark(partition=partition, through=-1, at_us=0)
            self.broker.append(
                TOPICS.changelog, partition, watermark_key(partition), encode(watermark)
            )
        sizes = {name: described.size_bytes for name, described in VOLUMES.items()}
        primaries = {name: MemoryDevice(size_bytes) for name, size_bytes in sizes.items()}
        for device in primaries.values():
            device.pwrite(0, b"p" * device.size_bytes)
        self.secondaries = HeldSecondaries(
            {name: MemoryDevice(size_bytes) for name, size_bytes in sizes.items()},
            primaries,
            lambda: self.running,
        )

    def reports(self) -> list[SiteProgress]:
        messages = self.broker.messages(TOPICS.progress)
        return [decode(message.value or b"", SiteProgress) for message in messages]

    def states_reported(self) -> dict[str, SiteState]:
        return {report.volume: report.state for report in self.reports()}


class Worker:
    """One worker of the site, in this process."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.locks: MemoryLocks = folder.table.open()
        self.clock = ManualClock(look_s=0.3)
        self.share = WorkerShare(
            self.locks, self.clock, lambda: folder.broker.partitions(TOPICS.changelog)
        )
        self.log = LogReader(folder.broker.reader(), folder.broker, TOPICS.changelog, [], site="a")
        ports = SitePorts(
            log=self.log,
            catalog=Catalog(folder.broker.reader(), folder.broker, TOPICS, self.clock),
            admin=folder.broker,
            publisher=folder.broker.publisher(),
            states=folder.states,
            secondaries=folder.secondaries,
            open_reader=folder.broker.reader,
            clock=self.clock,
            ask_end=lambda partition: folder.broker.end_position(TOPICS.commands, partition),
            share=self.share,
            worker_count=self.share.worker_count,
        )
        self.site = Site("a", ports, SETTINGS)

    def run(self, rounds: int = 20) -> None:
        self._folder.running = self
        for _ in range(rounds):
            self.site.run_once(0)

    def kill(self) -> None:
        """End as the kernel ends a process: all its locks are free."""
        self._folder.running = self
        for described in VOLUMES.values():
            self._folder.secondaries.release(described)
        self.locks.close()

    def volumes(self) -> str:
        return "".join(sorted(self.site.secondaries))


def run(workers: Sequence[Worker], rounds: int = 30) -> None:
    for _ in range(rounds):
        for worker in workers:
            worker.run(1)


def test_one_worker_has_everything_and_a_second_one_gets_its_part() -> None:
    folder = Folder()
    first = Worker(folder)
    first.run(60)
    assert first.volumes() == "abcdef"
    assert set(folder.states_reported().values()) == {SiteState.CONSISTENT}
    second = Worker(folder)
    run([first, second])
    assert (first.share.held, second.share.held) == ({0, 1}, {2})
    assert (first.volumes(), second.volumes()) == ("abcd", "ef")
    assert first.share.worker_count() == second.share.worker_count() == 2


def metrics_of(worker: Worker) -> dict[str, float]:
    """Return the metrics of a worker, by the end of their names."""
    page = scrape(
        ExportingRole.SITE,
        lambda: worker_samples("a", worker.share, len(worker.site.secondaries)),
    )
    labels = {("a",), ("a", str(worker.share.slot))}
    values = dict[str, float]()
    for name, series in page.items():
        if name.startswith("mirrorlog_site_"):
            assert series.keys() <= labels
            (values[name.removeprefix("mirrorlog_site_")],) = series.values()
    return values


def test_the_metrics_of_workers_say_who_has_what_and_what_has_moved() -> None:
    folder = Folder()
    first = Worker(folder)
    assert "partitions" not in metrics_of(first)  # nobody has looked how many there are
    first.run(60)
    second = Worker(folder)
    run([first, second])
    assert metrics_of(first) == {
        "workers": 2,
        "partitions": 3,
        "partitions_without_worker": 0,
        "worker_partitions": 2,
        "worker_volumes": 4,
        "worker_taken_partitions_total": 3,
        "worker_given_back_partitions_total": 1,
    }
    second.kill()
    first.run(60)
    metrics = metrics_of(first)
    assert (metrics["workers"], metrics["worker_partitions"]) == (1, 3)
    assert metrics["worker_taken_partitions_total"] == 4
    assert metrics["worker_given_back_partitions_total"] == 1


def test_a_partition_whose_worker_never_takes_it_is_seen_by_the_others() -> None:
    """The worker of a slot has started, and hangs before it locks its share."""
    folder = Folder()
    first = Worker(folder)
    first.run(60)
    hanging = Worker(folder)
    first.run(5)
    assert first.share.held == {0, 1}
    assert metrics_of(first)["partitions_without_worker"] == 0  # it may only be late
    first.run(60)
    assert first.share.without_worker == {2}
    assert metrics_of(first)["partitions_without_worker"] == 1
    hanging.run(60)
    first.run(60)
    assert metrics_of(first)["partitions_without_worker"] == 0


def test_what_a_worker_left_is_loaded_and_not_copied_again() -> None:
    folder = Folder()
    first = Worker(folder)
    first.run(60)
    second = Worker(folder)
    run([first, second])
    moved = second.site.secondaries["e"]
    assert moved.state is SiteState.CONSISTENT
    assert moved.blocks_copied == 0
    assert set(folder.states_reported().values()) == {SiteState.CONSISTENT}


def test_a_worker_that_dies_hands_over_and_one_that_only_stopped_does_not() -> None:
    folder = Folder()
    first, second = Worker(folder), Worker(folder)
    run([first, second])
    first.run(60)  # the second one is stopped, and keeps what it has
    assert (first.volumes(), second.volumes()) == ("abcd", "ef")
    second.kill()
    first.run(60)
    assert first.volumes() == "abcdef"
    assert first.share.worker_count() == 1
    assert all(
        secondary.state is SiteState.CONSISTENT for secondary in first.site.secondaries.values()
    )


def test_a_worker_reports_on_the_volumes_of_its_partitions_only() -> None:
    folder = Folder()
    first, second = Worker(folder), Worker(folder)
    run([first, second])
    before = len(folder.reports())
    first.run(60)
    assert {report.volume for report in folder.reports()[before:]} <= set("abcd")
    assert {reported.progress.volume for reported in first.site.reported()} == set("abcd")
    assert first.site.summary().volumes == 4


def test_a_worker_reads_the_log_of_its_partitions_only() -> None:
    folder = Folder()
    first = Worker(folder)
    first.run()
    assert first.log.watermarks.keys() == {0, 1, 2}
    second = Worker(folder)
    run([first, second])
    assert first.log.watermarks.keys() == {0, 1}
    assert second.log.watermarks.keys() == {2}


def test_a_copy_that_runs_ends_its_turn_when_another_worker_is_to_have_a_partition() -> None:
    folder = Folder()
    first = Worker(folder)
    joined: list[Worker] = []
    unlocked: list[str] = []

    def watch(name: str, operation: str, *_: object) -> None:
        """Let a second worker join at the first write. Note writes without a lock."""
        if operation != "pread" and not joined:
            joined.append(Worker(folder))
        owner = folder.table.owner_of_partition(VOLUMES[name].partition)
        if operation != "pread" and (folder.running is None or owner is not folder.running.locks):
            unlocked.append(name)

    for name, device in folder.secondaries.devices.items():
        device.hook = partial(watch, name)
    first.run(1)
    while not joined:
        first.run(1)
    assert first.site.summary().bytes_copied < SETTINGS.site_chunk_bytes
    run([first, *joined], 60)
    assert unlocked == []
    assert (first.volumes(), joined[0].volumes()) == ("abcd", "ef")
    assert set(folder.states_reported().values()) == {SiteState.CONSISTENT}
    for name, device in folder.secondaries.devices.items():
        content: Data = device.reopen().pread(offset=0, length=VOLUMES[name].size_bytes)
        assert bytes(content) == b"p" * VOLUMES[name].size_bytes, name


def test_a_partition_is_unlocked_only_when_its_reports_are_acknowledged() -> None:
    folder = Folder()
    first = Worker(folder)
    first.run(60)
    Worker(folder)
    flushed: list[bool] = []
    publisher = first.site._ports.publisher

    def flush(deadline_s: float) -> None:
        del deadline_s
        flushed.append(folder.table.owner_of_partition(2) is first.locks)
        assert "e" not in first.site.secondaries

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "flush", flush)
        first.run()
    assert flushed == [True]
    assert folder.table.owner_of_partition(2) is None


def test_a_partition_that_is_added_is_taken_by_one_worker() -> None:
    folder = Folder()
    first, second = Worker(folder), Worker(folder)
    run([first, second])
    for topic in (TOPICS.commands, TOPICS.changelog):
        folder.broker.add_partitions(topic, 4)
    run([first, second])
    assert sorted(first.share.held | second.share.held) == [0, 1, 2, 3]
    assert not first.share.held & second.share.held
