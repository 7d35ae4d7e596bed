"""The ports that a host needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mirrorlog.ports.clock import Clock
from mirrorlog.ports.devices import DeviceOpener
from mirrorlog.ports.folders import StateFolder
from mirrorlog.ports.primary_marks import PrimaryMarks
from mirrorlog.ports.reports import NoReports, ReportSink
from mirrorlog.ports.streams import Publisher
from mirrorlog.ports.task_runner import OneAtATime, TaskRunner
from mirrorlog.producers.batches.lock_free_writes import has_interpreter_lock
from mirrorlog.producers.forks.fork_calls import ForkPorts
from mirrorlog.producers.publishing.confirmations import StatusPorts
from mirrorlog.producers.writes.background_jobs import BackgroundJobs, InlineJobs
from mirrorlog.reading.catalog import Catalog
from mirrorlog.reading.open_sessions import SessionPorts


@dataclass(frozen=True, slots=True)
class HostPorts:
    """The ports that a host needs (wiring.py makes them from the settings).

    folder: keeps the past of one host name. Never give it to a host of another name.
    statuses: the node's answers; needed with `host_confirm = "recorded"`.
    marks: the marks of primaries. Without them nothing tells a primary from another one.
    sessions: finds out who else has a volume open. Without it a host doesn't look for others.
    forks: needed if a volume is forked.
    descriptions: follows the volumes' generations while they are open. Without it a session keeps
        those with which it opened them.
    flushes: runs flushes of primaries for which the host waits.
    jobs: runs what nobody waits for: flushes of primaries. Those of tick() block it by default.
    has_interpreter_lock: asked once; without that lock every write takes the tracker's
        (batches/lock_free_writes.py).
    reports: takes reports for people. The host doesn't close it.
    """

    folder: StateFolder
    publisher: Publisher
    clock: Clock
    open_device: DeviceOpener
    statuses: StatusPorts | None = None
    marks: PrimaryMarks | None = None
    sessions: SessionPorts | None = None
    forks: ForkPorts | None = None
    descriptions: Catalog | None = None
    flushes: TaskRunner = field(default_factory=OneAtATime)
    jobs: BackgroundJobs = field(default_factory=InlineJobs)
    has_interpreter_lock: Callable[[], bool] = has_interpreter_lock
    reports: ReportSink = field(default_factory=NoReports)
