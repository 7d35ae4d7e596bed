"""Reads a primary that hosts write to, until it is proved that the copy was the volume's state.

The copy is made in rounds. Round k brings it to the position P(k), through which the log is
complete when the round begins: P(1) at the beginning.

1. Read the blocks: in the first round those that the point needs, in a later one those that the log
   names in (P(k-1), P(k)].
2. Ask where the commands end (H), after the last read.
3. Wait until the log is settled: each open session has published what it had written before H. Let
   the log then be complete through W.
4. If none of the blocks of this round is named in (P(k), W], the copy is proved: it equals the
   volume as of P(k). Otherwise W is P(k+1).

Why the blocks of earlier rounds need no look: all that was written before they were read is named
through P(k), because the round before settled there. Those that are named above the position of
their own round were read again.

A block that wasn't read in the first round, because it isn't allocated, counts as read as zeros.

After the last round the copy is called inconsistent. What the log names through its position is in
it all the same, so a later point can stand on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mirrorlog.consumers.backup.sources.followed_log import FollowedLog
from mirrorlog.consumers.resync.restoration import CopyPlan, restore_changed
from mirrorlog.consumers.resync.samples import SampleTaker
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import MirrorlogError
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice
from mirrorlog.ports.task_runner import TaskRunner
from mirrorlog.units import format_count

_BATCH_BYTES: Final = 4 << 20
_POLL_S: Final = 0.2


class SourceChanged(MirrorlogError):
    """A volume got another generation, history or size while a point of it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCopy:
    """What live reads came to.

    position: what the log names at or below it is in the copy. reason: why the copy isn't proved to
    be the volume as of it; None if it is.
    read: all blocks that were read. rounds: how many there were.
    """

    position: int
    reason: str | None
    read: BlockSet
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReads:
    """Copies blocks of a primary to a device of the volume's size.

    log: followed since before the first read. commands_end: returns where the partition's commands
    end now. check_same: raises SourceChanged if the volume isn't the one that it was; called after
    the log was read. checkpoint: called again and again while the log is awaited; it may raise.
    rounds: at most so many. settle_s: how long one round waits for the log.
    """

    volume: Volume
    primary: BlockDevice
    copy: BlockDevice
    log: FollowedLog
    commands_end: Callable[[], int]
    check_same: Callable[[], None]
    checkpoint: Callable[[], None]
    clock: Clock
    rounds: int
    settle_s: float
    tasks: TaskRunner

    def run(self, blocks: BlockSet, *, is_whole: bool) -> LiveCopy:
        """Copy `blocks` in rounds, as the top of this file says.

        is_whole: the blocks are all that is allocated, and the copy stands alone.
        Raise DeviceFailed, KafkaFailed and SourceChanged.
        """
        position, read = self.log.watermark, blocks.copy()
        unproved = BlockSet.of_range(0, self.volume.blocks) if is_whole else blocks
        for number in range(1, self.rounds + 1):
            self._read(blocks)
            end = self.commands_end()
            if not self._await_settled(end):
                reason = self.log.unsettled_reason(end)
                break
            watermark = self.log.watermark
            changed = self.log.changed(after=position, through=watermark)
            if changed is None:
                raise SourceChanged(
                    f"the log has a hole behind position {position}, at which the copy began",
                    where=f"volume {self.volume.volume}",
                    next="Begin the backup again. Let the node keep the log for longer.",
                )
            overlap = unproved & changed
            if not overlap:
                return LiveCopy(position=position, reason=None, read=read, rounds=number)
            changed_again = f"{format_count(len(overlap), 'block')} changed again"
            reason = (
                f"the volume was written to while it was read: {changed_again} in the last of "
                f"{number} rounds"
            )
            if number < self.rounds:
                position, blocks, unproved = watermark, changed, changed
                read |= changed
        return LiveCopy(position=position, reason=reason, read=read, rounds=number)

    def _read(self, blocks: BlockSet) -> None:
        plan = CopyPlan(
            batch_bytes=_BATCH_BYTES,
            samples=SampleTaker("backup"),
            on_copied=lambda _: self.checkpoint(),
            tasks=self.tasks,
            is_flushed_later=True,
        )
        restore_changed(self.primary, self.copy, self.volume, blocks, plan)

    def _await_settled(self, end_position: int) -> bool:
        """Return whether the log is settled in time."""
        until_s = self.clock.monotonic_s() + self.settle_s
        while True:
            self.checkpoint()
            self.log.poll(_POLL_S)
            is_settled = self.log.is_settled(end_position)
            if is_settled or self.clock.monotonic_s() > until_s:
                self.check_same()
                return is_settled
