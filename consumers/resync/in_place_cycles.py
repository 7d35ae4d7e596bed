"""InPlaceCycles: cycles that write to their secondaries what they read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from mirrorlog.consumers.resync.copy_pace import CopyPausedError
from mirrorlog.consumers.resync.cycle_calls import CycleCalls
from mirrorlog.consumers.resync.cycle_copier import CopiedCycle, CycleCopier
from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.meetings import SecondaryMeetings
from mirrorlog.consumers.resync.replica_logs import ReplicaLogs
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.snapshot_reads import SnapshotReads
from mirrorlog.consumers.resync.traced_cycles import CycleTraces
from mirrorlog.consumers.state.secondary_state import SecondaryState
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.task_runner import TaskRunner, run_all


class InPlaceCycles:
    """The cycles of one site that go through no journal.

    traces: without cycles; those of one call of run() begin and end in it. flushes: runs flushes of
    secondaries.
    """

    def __init__(
        self,
        copier: CycleCopier,
        meetings: SecondaryMeetings,
        logs: ReplicaLogs,
        traces: CycleTraces,
        calls: CycleCalls,
        snapshots: SnapshotReads,
        flushes: TaskRunner,
    ) -> None:
        self._copier: Final = copier
        self._flushes: Final = flushes
        self._meetings, self._logs = meetings, logs
        self._traces, self._calls, self._snapshots = traces, calls, snapshots

    def run(self, cycles: Sequence[tuple[Secondary, Resync]]) -> None:
        """Run one cycle of each secondary. The order keeps every claim true (invariants 6 and 8):

        1. Check that the primary is the one that it was, and count the cycle in the mark of the
           secondary, durably (meeting.py says why the mark comes first).
        2. Save durably that a cycle runs: from here on the secondary is inconsistent, and every
           report says so. A cycle shorter than the interval of reports may have none.
        3. Read the blocks from the primary and write them to the secondary (restore_changed or
           copy_whole; restoration.py has the order of their steps).
        4. Flush the secondaries, several at once: the blocks are durable.
        5. Save the new applied position durably. Reports from here on name it.
        6. Note that the last read is over. The next round asks for the end of the commands topic
           (Site.run_once, step 2), on which the proof of the cycle stands.
        7. If the secondary wasn't proved consistent for a while, take a snapshot of the primary,
           for the next cycle to read (snapshot_reads.py).

        A copy of everything does the steps 1 to 4 for one chunk by itself, and goes on in the next
        round.

        A crash between any two steps repeats the cycle, but for what a copy of everything has saved
        as done (docs/decisions/resumable-copies.md). If a device fails, or an operator pauses
        the secondary, its cycle ends there; the other cycles go on.
        """
        failed = self._meetings.begin_cycles(cycles, self._logs.changed_since)  # 1
        for secondary, error in failed:
            self._calls.stop(secondary, error)
        unable = {secondary for secondary, _ in failed}
        cycles = [cycle for cycle in cycles if cycle[0] not in unable]
        for secondary, step in cycles:
            self._begin(secondary, step)
        self._calls.save([(secondary, step.running) for secondary, step in cycles])  # 2
        copied: list[tuple[Secondary, CopiedCycle]] = []
        with ExitStack() as devices:
            for secondary, step in cycles:
                if (cycle := self._copy(secondary, step)) is not None:  # 3
                    devices.enter_context(cycle.device)
                    copied.append((secondary, cycle))
            done = self._flush(copied)  # 4
        self._calls.save(done)  # 5
        self._traces.end(done)
        for secondary, state in done:
            self._calls.read(secondary)  # 6
            if state.consistent_position is not None:
                secondary.note_proved()
            self._snapshots.take_if_due(secondary)  # 7

    def _copy(self, secondary: Secondary, step: Resync) -> CopiedCycle | None:
        """Copy the blocks of a cycle. Return None if it is over, or goes on in the next round."""
        copied = None
        self._traces.begin(secondary, self._logs.of(secondary.volume.volume).volume)
        try:
            copied = self._copier.copy(secondary, step, self._snapshots)
        except DeviceFailed as error:
            self._calls.stop(secondary, error)
        except CopyPausedError:
            self._calls.pause(secondary)
        else:
            if copied is None:
                self._calls.go_on_later(secondary)
            else:
                secondary.end_copy()
        self._snapshots.drop(secondary.volume.volume)
        return copied

    def _flush(
        self, copied: Sequence[tuple[Secondary, CopiedCycle]]
    ) -> list[tuple[Secondary, SecondaryState]]:
        """Make cycles durable on their secondaries. Return the states to save."""
        calls = [cycle.device.flush for _, cycle in copied]
        failures = run_all(self._flushes, calls, DeviceFailed)
        done = []
        for (secondary, cycle), failure in zip(copied, failures, strict=True):
            if failure is not None:
                self._calls.stop(secondary, failure)
                continue
            self._traces.note_durable(secondary)
            secondary.end_cycle()
            done.append((secondary, cycle.state))
        return done

    def _begin(self, secondary: Secondary, step: Resync) -> None:
        """Note that a cycle begins, or the next turn of a copy of everything."""
        self._calls.reading(secondary)
        if secondary.goes_on_with(step):
            secondary.begin_cycle(secondary.reason)
            return
        secondary.begin_cycle(step.reason)
        self._calls.began(secondary, step)
