"""The ports that a site needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from mirrorlog.consumers.journal.journal_store import JournalStore, NoJournals
from mirrorlog.consumers.resync.command_ends import CommandEnds
from mirrorlog.consumers.resync.partition_share import PartitionShare, WholeSite
from mirrorlog.consumers.resync.primary_comparison import PrimaryComparison
from mirrorlog.consumers.resync.secondaries import Secondaries
from mirrorlog.consumers.resync.state_changes import OnChange
from mirrorlog.consumers.state.pauses import Pauses
from mirrorlog.consumers.state.secondary_state import SecondaryStateStore
from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import BlockDevice, is_remote
from mirrorlog.ports.streams import Publisher, TopicAdmin, TopicReader
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner
from mirrorlog.ports.tracing import Tracer
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.log_reader import LogReader


@dataclass(frozen=True, slots=True)
class SitePorts:
    """The ports that a site needs.

    open_reader: opens a reader of any topic, for one message. The site closes it.
    draw_id: returns a new UUID in canonical form.
    keep_name: called in each round and after each batch of blocks. It raises BadUse if another
        process runs the site (NameFence.keep).
    note_caught_up: called at the end of each round that took everything that the log held so many
        seconds before (NameFence.note_caught_up).
    ask_end: returns where a partition's commands end, soon; None if Kafka doesn't answer.
    ends: says where the commands end, if the site can't ask `admin`: it reads a mirror of the log.
    on_change: takes each change of state of a secondary.
    pauses: returns what an operator has paused, as of now.
    held_for_drills: returns the volumes whose secondaries drills hold, as of now.
    sleep: waits so many seconds.
    task_runner: runs the tasks that copy a cycle's blocks.
    remote_task_runner: the same if a side is on another machine; None for task_runner.
    flushes: runs flushes of secondaries.
    journals: keeps the journals of cycles.
    digests: asks for digests of primaries before a comparison reads them; None: it reads them all.
    share: the partitions for which this process works. LogReader reads the others no more.
    worker_count: returns how many workers of the site live, which share its rates.
    tracer: takes a span for each cycle; None: nothing is traced.
    """

    log: LogReader
    catalog: Catalog
    admin: TopicAdmin
    publisher: Publisher
    states: SecondaryStateStore
    secondaries: Secondaries
    open_reader: Callable[[], TopicReader]
    clock: Clock
    draw_id: Callable[[], str] = lambda: str(uuid4())
    keep_name: Callable[[], None] = lambda: None
    note_caught_up: Callable[[float], None] = lambda _: None
    ask_end: Callable[[int], int | None] = lambda _: None
    ends: CommandEnds | None = None
    on_change: OnChange = lambda _: None
    pauses: Callable[[], Pauses] = Pauses
    held_for_drills: Callable[[], frozenset[str]] = frozenset
    sleep: Callable[[float], None] = time.sleep
    task_runner: TaskRunner = field(default_factory=OneAtATime)
    remote_task_runner: TaskRunner | None = None
    flushes: TaskRunner = field(default_factory=OneAtATime)
    journals: JournalStore = field(default_factory=NoJournals)
    digests: PrimaryComparison | None = None
    tracer: Tracer | None = None
    share: PartitionShare = field(default_factory=WholeSite)
    worker_count: Callable[[], int] = lambda: 1

    def tasks_for(self, device: BlockDevice) -> TaskRunner:
        """Return what writes to a device: more at once if that is on another machine."""
        return (self.remote_task_runner if is_remote(device) else None) or self.task_runner
