"""Workers of one site share its name: the first takes it, and any of them keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from mirrorlog.codec.events import decode
from mirrorlog.consumers.name_fence import SILENT_S, FencePorts, NameFence, TakenName
from mirrorlog.consumers.workers.folder_locks import FolderLocks
from mirrorlog.consumers.workers.group_files import GroupFiles
from mirrorlog.consumers.workers.site_group import SiteGroup
from mirrorlog.consumers.workers.worker_share import WorkerShare
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.errors import BadUse, StateDamaged
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryBroker
from mirrorlog.topics import Topics

TOPICS = Topics()
PARTITIONS = 4


@dataclass
class Machine:
    """The broker, the folder and the clock that the workers share."""

    path: Path
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    clock: ManualClock = field(default_factory=lambda: ManualClock(now_s=100.0))
    workers: int = 0

    def __post_init__(self) -> None:
        self.broker.create(TOPICS.specs(single_copy=True), 1)

    def fence(
        self, group: SiteGroup | None = None, *, folder: int = 1, name: str = "m"
    ) -> NameFence:
        self.workers += 1
        lease = SiteLease(
            site="s",
            run=str(UUID(int=1000 + self.workers)),
            folder=str(UUID(int=folder)),
            machine=name,
            term=1,
            host="host",
            pid=self.workers,
            started_at_us=0,
        )
        ports = FencePorts(
            self.broker.reader(),
            self.broker,
            self.broker.publisher(),
            self.clock,
            TOPICS.progress,
            30,
        )
        return NameFence(lease, ports, group)

    def leases(self) -> list[SiteLease]:
        messages = self.broker.messages(TOPICS.progress)
        return [decode(message.value or b"", SiteLease) for message in messages]


class Worker:
    def __init__(self, machine: Machine, *, name: str = "m") -> None:
        """name: the id of the machine on which it runs."""
        self.machine = machine
        self.locks = FolderLocks(machine.path)
        assert self.locks.lock_start()
        self.share = WorkerShare(self.locks, machine.clock, lambda: PARTITIONS)
        self.group = SiteGroup(GroupFiles(machine.path), self.share, lambda: PARTITIONS)
        self.fence = machine.fence(self.group, name=name)
        self.group.enter(self.locks, self.fence)
        self.locks.unlock_start()

    def run(self, *, is_caught_up: bool = True) -> None:
        """Do what a round of the site does for the group."""
        self.fence.keep()
        self.fence._ports.publisher.poll(0)
        self.share.give_back(self.share.surplus())
        self.share.take()
        if is_caught_up:
            self.fence.note_caught_up()

    def leave(self) -> None:
        assert self.locks.lock_start()
        self.group.leave(self.locks, self.fence)
        self.locks.close()

    def kill(self) -> None:
        self.locks.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def run(machine: Machine, *workers: Worker, seconds: int = 20) -> None:
    for _ in range(seconds):
        machine.clock.now_s += 1
        for worker in workers:
            worker.run()


def test_workers_share_one_name_and_publish_one_lease(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, second)
    leases = machine.leases()
    assert {(lease.run, lease.term) for lease in leases} == {(leases[0].run, 1)}
    assert {lease.pid for lease in leases} == {1}
    assert second.fence.taken() == first.fence.taken()


def test_the_lease_goes_on_when_the_worker_that_published_it_is_killed(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, second)
    first.kill()
    before = len(machine.leases())
    run(machine, second)
    later = machine.leases()[before:]
    assert len(later) >= 5
    assert {lease.pid for lease in later} == {2}


def test_the_lease_goes_on_while_the_worker_that_published_it_is_stopped(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, second)
    before = len(machine.leases())
    run(machine, second, seconds=60)
    assert len(machine.leases()) >= before + 60 / SILENT_S * 2
    first.run()  # it goes on, and nobody has taken the name from it
    run(machine, first, second)


def test_a_worker_on_another_machine_is_refused_although_it_has_the_folder(
    machine: Machine,
) -> None:
    """A shared file system has the locks of both, and each has a clock of its own."""
    first = Worker(machine)
    run(machine, first)
    with pytest.raises(BadUse, match="run on another machine: process 1 on host"):
        Worker(machine, name="other")
    run(machine, first)
    assert {lease.pid for lease in machine.leases()} == {1}
    assert not machine.leases()[-1].is_over


def test_a_machine_whose_id_isnt_known_is_no_other_one(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine, name="")
    run(machine, first, second)
    assert second.fence.taken() == first.fence.taken()


def test_the_last_worker_that_ends_gives_the_name_up(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, second)
    first.leave()
    assert not machine.leases()[-1].is_over
    run(machine, second)
    second.leave()
    assert machine.leases()[-1].is_over


def test_workers_that_start_after_all_were_killed_take_the_name_again(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, second)
    first.kill()
    second.kill()
    before_s = machine.clock.now_s
    third = Worker(machine)
    assert machine.clock.now_s == before_s
    assert third.fence.taken().term == 2


def test_workers_and_a_copy_of_their_folder_cannot_run_together(
    machine: Machine, tmp_path: Path
) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, second)
    Worker(Machine(tmp_path / "copy", machine.broker, machine.clock, workers=10))
    for worker in (first, second):
        machine.clock.now_s += 1
        with pytest.raises(BadUse, match="run by another process"):
            worker.run()


def test_the_lease_says_how_far_all_workers_are_and_no_more(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first, seconds=1)
    assert machine.leases()[-1].caught_up_age_s is None  # the second one has said nothing
    run(machine, first, second)
    age_s = machine.leases()[-1].caught_up_age_s
    assert age_s is not None and age_s <= 2
    for _ in range(30):
        machine.clock.now_s += 1
        first.run()
        second.run(is_caught_up=False)
    age_s = machine.leases()[-1].caught_up_age_s
    assert age_s is not None and age_s >= 26
    second.kill()
    run(machine, first, seconds=10)
    age_s = machine.leases()[-1].caught_up_age_s
    assert age_s is not None and age_s <= 2


def test_a_partition_that_nobody_has_taken_since_the_start_is_unknown(machine: Machine) -> None:
    first, second = Worker(machine), Worker(machine)
    run(machine, first)
    assert second.share.held == frozenset()
    assert machine.leases()[-1].caught_up_age_s is None


def test_a_note_that_cannot_be_read_is_an_error_and_not_a_second_name(machine: Machine) -> None:
    Worker(machine)
    (machine.path / "workers" / "name.json").write_text("{}")
    with pytest.raises(StateDamaged, match="Stop all workers"):
        Worker(machine)


def test_notes_are_read_as_they_were_saved(tmp_path: Path) -> None:
    FolderLocks(tmp_path).close()
    notes = GroupFiles(tmp_path)
    assert notes.load_name() is None
    name = TakenName("run", 3, 17)
    notes.save_name(name)
    assert GroupFiles(tmp_path).load_name() == name
    notes.save_times(0, "run", {0: 1.5, 1: 2.25})
    notes.save_times(1, "run", {1: 3.0})
    notes.save_times(2, "another run", {0: 9.0})
    assert notes.load_times("run") == {0: 1.5, 1: 3.0}
    (tmp_path / "workers" / "1.json").write_bytes(b"torn")
    assert notes.load_times("run") == {0: 1.5, 1: 2.25}
