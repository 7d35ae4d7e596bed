"""Reads the node's statuses, and waits for them (`host_confirm = "recorded"`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from threading import Lock, RLock
from typing import Final

from mirrorlog.domain.commands import CommandStatus
from mirrorlog.errors import KafkaFailed, OutOfRetention
from mirrorlog.ports.clock import Clock
from mirrorlog.producers.batches.hot_regions import HotRegion
from mirrorlog.producers.publishing.acknowledged_positions import AcknowledgedPositions
from mirrorlog.producers.publishing.confirmations import Confirmations, refusals_by_volume
from mirrorlog.producers.publishing.write_gate import WriteGate

_STATUS_S: Final = 0.05


class NodeStatuses:
    """The node's statuses of one session's commands: read, handled and waited for.

    What the node refuses closes the gate. Any number of threads may call read() and the waits;
    one of them reads at a time.
    """

    def __init__(
        self,
        confirmations: Confirmations,
        positions: AcknowledgedPositions,
        gate: WriteGate,
        lock: RLock,
        clock: Clock,
        *,
        away_s: float,
    ) -> None:
        """Create the object. lock: the outbox's; away_s: see PublishLimits."""
        self._confirmations: Final = confirmations
        self._positions: Final = positions
        self._gate: Final = gate
        self._lock: Final = lock
        self._reading: Final = Lock()
        self._clock: Final = clock
        self._away_s: Final = away_s
        self._confirmed_s = clock.monotonic_s()

    @property
    def is_full(self) -> bool:
        """Return whether too many commands wait for the node, so that writes must wait, too."""
        return self._confirmations.is_full

    @property
    def is_away(self) -> bool:
        """Return whether the node has been silent for long although commands wait for it."""
        return self._confirmations.is_waiting and self.silent_s >= self._away_s

    @property
    def silent_s(self) -> float:
        """For how long no status has come, or, if none was awaited, since one is."""
        return self._clock.monotonic_s() - self._confirmed_s

    def watch(self, partition: int) -> None:
        """Read the partition's statuses from now on, before its first command is published."""
        if not self._confirmations.is_watched(partition):
            with self._reading:
                self._confirmations.watch(partition)

    def forget(self, partition: int) -> None:
        """Call Confirmations.forget(). The caller holds the lock."""
        self._confirmations.forget(partition)

    def on_publishing(self, partition: int) -> None:
        """Call Confirmations.on_publishing(). The caller holds the lock."""
        self._confirmations.on_publishing(partition)

    def on_published(
        self, *, partition: int, position: int, regions: Collection[HotRegion]
    ) -> None:
        """Let a command that Kafka has acknowledged, and its regions, wait for its status.

        The caller holds the lock.
        """
        if not self._confirmations.is_waiting:
            self._confirmed_s = self._clock.monotonic_s()
        self._on_refused(
            self._confirmations.on_published(
                partition=partition, position=position, regions=regions
            )
        )

    def read(self, timeout_s: float) -> None:
        """Handle statuses, waiting up to `timeout_s` for one. KafkaFailed if some are gone."""
        try:
            with self._reading:
                messages = self._confirmations.read(timeout_s)
        except OutOfRetention as error:
            refusal = KafkaFailed(
                "statuses are gone, so it can't be told which commands the node has recorded",
                where=error.where,
                next="Start the host again: what isn't confirmed is published again as dirty.",
            )
            self._gate.refuse(refusal)
            raise refusal from error
        if messages:
            with self._lock:
                self._confirmed_s = self._clock.monotonic_s()
                self._on_refused(self._confirmations.handle(messages))

    def wait(self, deadline_s: float, *, until_break: bool) -> None:
        """Wait until the node has answered every command that is published now.

        KafkaFailed after `deadline_s`. until_break: see Outbox.wait().
        """
        through = self._published()
        until_s = self._clock.monotonic_s() + deadline_s
        while count := self._count_unrecorded(through, until_break=until_break):
            if self._clock.monotonic_s() > until_s:
                raise KafkaFailed(
                    f"{count} commands are published, but the node hasn't recorded them within "
                    f"{deadline_s:g} s",
                    where=", ".join(
                        f"partition {number}, up to {last}" for number, last in through.items()
                    ),
                    next="Is a node running? What they name stays in the activity log, and is "
                    "published again as dirty when the host starts again.",
                )
            self._read_next()

    def wait_unless(self, is_away: Callable[[], bool]) -> bool:
        """Wait as wait() does, without a deadline, but return False as soon as `is_away`."""
        through = self._published()
        while self._count_unrecorded(through):
            if is_away():
                return False
            self._read_next()
        return True

    def _read_next(self) -> None:
        self.read(_STATUS_S)
        self._gate.check()

    def _published(self) -> Mapping[int, int]:
        with self._lock:
            return self._confirmations.positions()

    def _count_unrecorded(self, through: Mapping[int, int], *, until_break: bool = False) -> int:
        with self._lock:
            passed_over = self._positions.broken if until_break else ()
            awaited = {
                number: last for number, last in through.items() if number not in passed_over
            }
            return self._confirmations.count_waiting(awaited)

    def _on_refused(self, refused: list[CommandStatus]) -> None:
        """Report what the node refused. A refusal that names no volume ends all writes."""
        for volume, error in refusals_by_volume(refused).items():
            if volume is None:
                self._gate.refuse(error)
            else:
                self._gate.reject(volume, error)
        self._gate.set_accepts_writes(not self._gate.is_refused and not self.is_full)
