"""The port to the engine, which makes this process a member of the node's consumer group.

An engine knows the group, the consumer, the producer and the table on the disk. What is done with
commands, it doesn't know. `faust_worker/` implements the port with Faust, and
`mirrorlog/simulation/memory_engine.py` implements it in memory. Only `wiring.py` names an engine.

The node tells the engine once, with `Engine.connect`, whom to call:

| event or need                 | call                                                         |
|-------------------------------|--------------------------------------------------------------|
| partitions are taken away     | `PartitionListener.release`                                  |
| partitions are assigned       | `PartitionListener.release`, `TableRecovery.catch_up`,       |
|                               | `PartitionListener.start`, in this order                     |
| standby copies are assigned   | `TableRecovery.stand_by`, cancelled by the next rebalance    |
| where to read from (seek)     | `CommitPositions.expected_position`, after `start`           |
| commands were fetched         | `BatchSink.put`                                              |
| may more be fetched? (pause)  | `BatchSink.has_room`                                         |
| what may be committed         | `CommitPositions.committable_offset`, at each commit         |
| the worker stops in order     | `PartitionListener.stop`, while messages can still be sent   |
| an error that isn't handled   | `EngineWork.abort`, which doesn't return                     |

The node calls the engine for the rest: `send`, `seen_end`, `health`, `worker_urls` and the rows of
the table (`store`). Every call in either direction is made on the engine's event loop, except that
views of the table are opened and read from any thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeAlias

from mirrorlog.streams.fold.batch import EventBatch
from mirrorlog.streams.table.local_store import FollowedStore, LocalStore, TableView
from mirrorlog.streams.table.outgoing import Outgoing

AbortProcess: TypeAlias = Callable[[BaseException], NoReturn]
"""Ends the process at once, so that nothing more is acknowledged."""


@dataclass(frozen=True, slots=True)
class FetchedBatch:
    """A batch as it was fetched.

    acknowledge: called once the log holds the batch's commands.
    """

    batch: EventBatch
    size_bytes: int
    acknowledge: Callable[[], Awaitable[None]]


class PartitionListener(Protocol):
    """Learns which partitions of the commands topic the worker has."""

    def release(self, partitions: Collection[int]) -> None:
        """Stop the work on partitions that are being taken away or assigned.

        Called in each rebalance, also with no partition. Nothing of these partitions is handed on
        or committed from now on until `start`.
        """

    async def start(self, partitions: Sequence[int]) -> None:
        """Start the work on the worker's partitions: all that it has now, ascending.

        Their tables are open and hold all that the changelog held.
        """

    def stop(self) -> None:
        """Stop all work, for good. Messages that were sent before are still acknowledged."""


class TableRecovery(Protocol):
    """Brings the tables up to the changelog."""

    async def catch_up(self, partitions: Sequence[int]) -> None:
        """Return when the tables of `partitions` hold all that the changelog held at the call."""

    async def stand_by(self, partitions: Sequence[int]) -> None:
        """Let the tables of `partitions` follow the changelog, until cancelled."""


class CommitPositions(Protocol):
    """Knows where the commands of each partition begin, and which of them may be committed."""

    topic: str

    def is_assigned(self, partition: int) -> bool:
        """Return whether the work on the partition has started."""

    def expected_position(self, partition: int) -> int:
        """Return the position of the next command to hand on. KeyError unless assigned."""

    def committable_offset(self, partition: int) -> int | None:
        """Return the offset to commit, None to commit nothing."""


class BatchSink(Protocol):
    """Takes the commands that were fetched."""

    @property
    def has_room(self) -> asyncio.Event:
        """The event that is set while more may be fetched."""

    def put(self, fetched: FetchedBatch) -> None:
        """Take a batch. The batches of a partition come in the order of its positions."""


class EngineService(Protocol):
    """Runs on the engine's event loop for as long as the engine does, also in a rebalance."""

    async def start(self) -> None:
        """Begin to serve."""

    async def stop(self) -> None:
        """Stop serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """What the engine calls. listeners: in this order."""

    listeners: Sequence[PartitionListener]
    recovery: TableRecovery
    positions: CommitPositions
    batches: BatchSink
    services: Sequence[EngineService]
    abort: AbortProcess


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """What is wrong with the engine now.

    stuck: by partition, which step makes no progress although it has work to do.
    held_back_s: for how long the broker hasn't acknowledged what was sent; 0 if it does.
    held_back_reason: why; None if it does.
    """

    stuck: Mapping[int, str]
    held_back_s: float
    held_back_reason: str | None


class WorkerStore(LocalStore, FollowedStore, Protocol):
    """The rows of the worker's partitions on its disk."""

    def open_view(self, partition: int) -> TableView:
        """Open a view of a partition's table. NodeUnavailable if the table isn't open.

        The call may come from any thread, and never opens a table.
        """

    def size_bytes(self, partition: int) -> int | None:
        """Return about how much the partition's table takes, None if it isn't open."""


class Engine(Protocol):
    """A member of the node's consumer group. It calls what `connect` was given."""

    @property
    def store(self) -> WorkerStore:
        """The table."""

    def connect(self, work: EngineWork) -> None:
        """Call `work` from now on. Call it once, before `run`."""

    def run(self) -> None:
        """Run until a signal stops the process, then stop in order and return.

        Call it from the main thread.
        """

    async def send(self, messages: Sequence[Outgoing]) -> list[int]:
        """Send in order; return the offsets once every in-sync replica has every message.

        A message may be there twice. Raise ChangelogRefused if the broker refuses a message, or if
        it hasn't acknowledged them all within the patience of the settings.
        """

    def seen_end(self, partition: int) -> int | None:
        """Return where a partition of the commands ended at its last fetch, None if unknown."""

    def health(self) -> EngineHealth:
        """Return what is wrong now."""

    def worker_urls(self) -> Mapping[int, str]:
        """Return the address of each partition's worker, as the group's assignment tells it."""
