"""SiteGroup: what the workers of a site tell each other, beside their locks.

The first worker takes the site's name, and leaves it here for those that join. Each worker writes
here how far it has taken the log, so that one lease can speak for all of them. Workers of one group
run on one machine, and their monotonic times are of one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from mirrorlog.consumers.name_fence import NameFence, TakenName
from mirrorlog.consumers.workers.worker_locks import WorkerLocks
from mirrorlog.consumers.workers.worker_share import WorkerShare
from mirrorlog.errors import StateDamaged

_RANK_S: Final = 2.0
"""A worker publishes the lease if it was heard from none with a lower slot for so much longer."""


class GroupNotes(Protocol):
    """The notes of a site's workers. group_files.py has them in the site's folder."""

    def load_name(self) -> TakenName | None:
        """Return the name that was taken last; None if there is none, or if it can't be read."""
        ...

    def save_name(self, name: TakenName) -> None:
        """Save the name that was taken. Raise DeviceFailed."""
        ...

    def save_times(self, slot: int, run: str, times: Mapping[int, float]) -> None:
        """Save what save_times() of this slot replaces. A failure is ignored.

        times: by partition, when all of its log had been taken, by the monotonic clock.
        """
        ...

    def load_times(self, run: str) -> dict[int, float]:
        """Return by partition the newest time that any worker of the group `run` has saved."""
        ...


class SiteGroup:
    """The Fellows of one worker. One thread calls it.

    partition_count: returns how many partitions there are.
    """

    def __init__(
        self, notes: GroupNotes, share: WorkerShare, partition_count: Callable[[], int]
    ) -> None:
        self._notes, self._share = notes, share
        self._partition_count: Final = partition_count
        self._run = ""
        self._times: dict[int, float] = {}

    def delay_s(self) -> float:
        """Return by how much more than others this worker waits for the lease of another one."""
        return self._share.rank() * _RANK_S

    def note_caught_up(self, at_s: float) -> None:
        """Note that all log of the partitions that are held had been taken at this time."""
        self._times |= dict.fromkeys(self._share.held, at_s)

    def caught_up_at_s(self) -> float | None:
        """Return when the workers together had taken all of the log; None: it isn't known.

        A partition that nobody has stays at the time at which its last worker had taken it.
        """
        self._notes.save_times(self._share.slot, self._run, self._times)
        times = self._notes.load_times(self._run)
        partitions = range(self._partition_count())
        if not times.keys() >= set(partitions):
            return None
        return min((times[partition] for partition in partitions), default=None)

    def enter(self, locks: WorkerLocks, fence: NameFence) -> None:
        """Take the site's name, or share it with the workers that live. The start is locked.

        Raise BadUse if another process runs the site, KafkaFailed, DeviceFailed, or StateDamaged if
        the others' note can't be read.
        """
        if locks.live_slots() - {self._share.slot}:
            name = self._notes.load_name()
            if name is None:
                raise StateDamaged(
                    "the note by which the workers of a site share its name can't be read",
                    next="Stop all workers of the site, then start them again.",
                )
            fence.join(name)
        else:
            fence.take()
            self._notes.save_name(fence.taken())
        self._run = fence.taken().run
        self._times = self._notes.load_times(self._run)

    def leave(self, locks: WorkerLocks, fence: NameFence) -> None:
        """Unlock the slot; the last worker gives the site's name up. The start is locked."""
        if not locks.live_slots() - {self._share.slot}:
            fence.give_up()
        locks.unlock_slot()
