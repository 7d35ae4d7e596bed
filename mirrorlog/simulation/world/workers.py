"""A world whose site has several workers: they share its folder, and locks say who works.

A worker is killed, stopped and continued, joins and leaves. While one is stopped between two of its
steps, the others go on. Every change of a secondary, its mark, its state or its journal checks that
the worker that makes it has the lock of the partition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from mirrorlog.consumers.name_fence import NameFence
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.workers.site_group import SiteGroup
from mirrorlog.consumers.workers.worker_share import WorkerShare
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.errors import DeviceFailed
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.simulation.manual_clock import ManualClock
from mirrorlog.simulation.memory_broker import MemoryPublisher
from mirrorlog.simulation.memory_group import MemoryGroup
from mirrorlog.simulation.memory_locks import LockTable, MemoryLocks
from mirrorlog.simulation.world.crashes import Crash
from mirrorlog.simulation.world.site import SITE, SiteModel, SlowReader
from mirrorlog.simulation.world.world import World

_CLOCK_STEP_S: Final = 0.3
_PARTITION: Final = 0
_MOST_WORKERS: Final = 3
_ROUNDS: Final = 200
_READS: Final = frozenset({"pread", "journal pread", "volumes"})


@dataclass(slots=True, eq=False)
class WorkerModel:
    """One worker. is_stopped: it got SIGSTOP, and no SIGCONT since."""

    locks: MemoryLocks
    share: WorkerShare
    group: SiteGroup
    fence: NameFence
    publisher: MemoryPublisher
    site: Site
    is_stopped: bool = False


class WorkersModel(SiteModel):
    """A site with workers. `site` is that of the worker that has the partition, or had it last.

    workers: those that live. failing: the volume whose secondary fails at each step; None: none.
    handovers: how often the partition was locked by another worker than before.
    """

    handovers = 0

    def start(self, folder: UUID | None = None) -> None:
        """Start one worker on the folder, as after a crash of the machine."""
        assert folder is None
        self.table, self.notes = LockTable(), MemoryGroup()
        self.clock = ManualClock(look_s=_CLOCK_STEP_S)
        self.workers: list[WorkerModel] = []
        self._running: list[WorkerModel] = []
        self._owner: MemoryLocks | None = None
        self.failing: str | None = None
        self._started = 0
        self.while_stopped: Callable[[], None] = lambda: None
        for name, device in self.secondaries.devices.items():
            device.hook = self._checked(name)
        self.secondaries.hook = self._checked("a mark")
        self.states.hook = self._checked("a state")
        self.journals.hook = self._checked("a journal")
        self.site = self.join().site

    def join(self) -> WorkerModel:
        """Start one more worker."""
        self._started += 1
        locks, publisher = self.table.open(), self._broker.publisher()
        share = WorkerShare(locks, self.clock, lambda: 1)
        group = SiteGroup(self.notes, share, lambda: 1)
        fence = self._fence(self._folder, self.clock, group, pid=self._started)
        group.enter(locks, fence)
        reader = SlowReader(self._broker, self._random)
        log = LogReader(reader, self._broker, self._settings.topics.changelog, [], site=SITE)
        ports = replace(
            self._ports(log, publisher, fence),
            note_caught_up=fence.note_caught_up,
            share=share,
            worker_count=share.worker_count,
        )
        site = Site(SITE, ports, self._settings)
        worker = WorkerModel(locks, share, group, fence, publisher, site)
        self.workers.append(worker)
        return worker

    def run(self, worker: WorkerModel) -> None:
        """Run one round of a worker."""
        self._running.append(worker)
        try:
            worker.site.run_once(0)
        finally:
            self._running.pop()
        owner = self.table.owner_of_partition(_PARTITION)
        if owner is worker.locks:
            self.site = worker.site
            self.handovers += self._owner not in (None, owner)
            self._owner = owner

    def kill(self, worker: WorkerModel) -> None:
        """Kill a worker with -9: what it wrote stays, what it had locked is free."""
        self.workers.remove(worker)
        worker.publisher.close()
        worker.locks.close()

    def end(self, worker: WorkerModel) -> None:
        """Let a worker end."""
        self.workers.remove(worker)
        worker.group.leave(worker.locks, worker.fence)
        worker.publisher.flush(1)
        worker.locks.close()

    @property
    def running_worker(self) -> WorkerModel | None:
        """The worker between whose steps the others are; None between two rounds."""
        return self._running[-1] if self._running else None

    def is_running(self, worker: WorkerModel) -> bool:
        """Return whether a worker is between two steps of a round."""
        return worker in self._running

    def is_consistent(self) -> bool:
        """Return whether the worker that has the partition calls all consistent."""
        owner = self.table.owner_of_partition(_PARTITION)
        is_owned = any(worker.locks is owner for worker in self.workers)
        known = {
            name: secondary
            for name, secondary in self.site.secondaries.items()
            if name != self.failing
        }
        wanted = set(self.volumes) - {self.failing}
        return (
            is_owned
            and known.keys() == wanted
            and all(
                secondary.state is SiteState.CONSISTENT and secondary.staged is None
                for secondary in known.values()
            )
        )

    def _checked(self, name: str) -> Callable[..., None]:
        """Return the hook of a secondary, or of what belongs to secondaries."""

        def step(operation: str, *_: object) -> None:
            if self._running and operation not in _READS:
                owner = self.table.owner_of_partition(_PARTITION)
                assert owner is self._running[-1].locks, f"{operation} of {name} without the lock"
            if self._running and name == self.failing:
                raise DeviceFailed("the device fails", where=f"{name}, offset 0")
            self._step()

        return step

    def _step(self) -> None:
        """Count a step of the worker that runs. The world may stop it here for a while."""
        if self._running:
            self.fuse.step()
            self.while_stopped()


class WorkersWorld(World):
    """A world whose site has workers."""

    site: WorkersModel

    def _open_site(self, mirror_of: str | None) -> WorkersModel:
        assert mirror_of is None
        site = WorkersModel(
            self.site_broker, self.host, self.settings, self._site_fuse, self._random
        )
        site.while_stopped = self._stop_now_and_then
        return site

    def run_site(self) -> None:
        """Run one round of a worker that isn't stopped. It may be killed in it."""
        ready = [worker for worker in self.site.workers if not worker.is_stopped]
        if not ready:
            return
        worker = self._random.choice(ready)
        self._site_fuse.light(self._random)
        try:
            self.site.run(worker)
        except Crash:
            self.site.kill(worker)
        self._site_fuse.put_out()
        if not self.site.workers:
            self.site.join()

    def _stop_now_and_then(self) -> None:
        """Stop the worker that runs between two steps, let another one run, and continue it."""
        if self._random.random() > 0.1:
            return
        others = [worker for worker in self.site.workers if not self.site.is_running(worker)]
        if others:
            fuse_left = self._site_fuse.pause()
            for _ in range(self._random.randint(1, 6)):
                self.site.run(self._random.choice(others))
            self._site_fuse.go_on(fuse_left)

    def _other_acts(self) -> dict[Callable[[], object], float]:
        return {
            self.run_site: 60,
            self._join: 10,
            self._end: 3,
            self._kill: 3,
            self._stop_or_continue: 2,
            self._lose_power: 0.3,
        }

    def _join(self) -> None:
        if len(self.site.workers) < _MOST_WORKERS:
            self.site.join()

    def _end(self) -> None:
        if len(self.site.workers) > 1:
            self.site.end(self._random.choice(self.site.workers))

    def _kill(self) -> None:
        if len(self.site.workers) > 1:
            self.site.kill(self._random.choice(self.site.workers))

    def _stop_or_continue(self) -> None:
        worker = self._random.choice(self.site.workers)
        worker.is_stopped = not worker.is_stopped

    def _lose_power(self) -> None:
        self.site.crash()
        self.site.while_stopped = self._stop_now_and_then

    def run_round(self) -> None:
        """Continue all workers, and run one round of each."""
        for worker in self.site.workers:
            worker.is_stopped = False
            self.site.run(worker)
