"""The right to run a site under its name: one process at a time has it.

A process that runs a site publishes a lease on the progress topic, and a new one every few seconds.
The order in the partition decides between two processes (invariant 10):

1. A starting process reads the topic to its end. The last lease is over, or of a process that is
   proved to be dead (is_own_past), or it listens for a while: a lease of another process that
   comes then is a refusal.
2. It publishes a lease whose term is one higher than the last one, and reads the topic through it.
   If another process has published a lease with that term, or a higher one, below it, that one has
   the site.
3. While it runs, it reads the topic. A lease with a higher term ends it: it was silent for so long
   that another process took the site over. A deleted lease ends it, too: the site was removed. The
   terms begin at 1 after that.

So a process that was paused notices when it goes on, and two that start at once can't both run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from uuid import UUID

from mirrorlog.domain.site_progress import check_site_name


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLease:
    """A process says that it runs a site.

    run: a UUID drawn when the process began to run the site.
    folder: the UUID of its state folder. machine: what is the same for two processes only if they
        run on one machine that hasn't restarted in between; empty if unknown.
    term: counts take-overs; it orders leases.
    host, pid, started_at_us: for people, as the process knows them.
    is_over: the process has ended the site, or given it up.
    caught_up_age_s: the time from the end of the last round in which the site had taken everything
        that the log held to this lease. None before the first, and from older sites.

    Raise BadUse for a site name that is none, ValueError for other values that no lease has.
    """

    site: str
    run: str
    folder: str
    machine: str
    term: int
    host: str
    pid: int
    started_at_us: int
    is_over: bool = False
    caught_up_age_s: float | None = None

    def __post_init__(self) -> None:
        check_site_name(self.site)
        UUID(self.run)
        UUID(self.folder)
        if self.term < 1:
            raise ValueError(f"term can't be {self.term}")

    def describe(self) -> str:
        """Return who has the lease, for people."""
        since = datetime.fromtimestamp(self.started_at_us // 1_000_000, UTC)
        return f"process {self.pid} on {self.host}, since {since:%Y-%m-%dT%H:%M:%SZ}"


def lease_key(site: str) -> bytes:
    """Return the key of a site's lease on the progress topic: no volume has an empty name.

    The keys of the site's reports begin with it, and the volume's name follows.
    """
    return f"{site}/".encode()


class LeaseStep(Enum):
    """What a starting process does."""

    TAKE = auto()
    LISTEN = auto()  # the last process may be alive
    REFUSE = auto()  # it is


def first_step(
    last: SiteLease | None,
    *,
    folder: str,
    machine: str,
    heard: bool,
    silent_s: float,
    limit_s: float,
) -> LeaseStep:
    """Return the next step of a process that wants to run the site, from `folder` on `machine`.

    last: the last lease on the topic. heard: a lease of that run came while this process listened.
    silent_s: for how long none came; from `limit_s` on the run counts as dead.
    """
    if last is None or last.is_over or is_own_past(last, folder=folder, machine=machine):
        return LeaseStep.TAKE
    if heard:
        return LeaseStep.REFUSE
    return LeaseStep.TAKE if silent_s >= limit_s else LeaseStep.LISTEN


def is_own_past(last: SiteLease, *, folder: str, machine: str) -> bool:
    """Return whether the process that had the lease is dead for sure.

    It had this state folder, on this machine since that started. The folder's lock, which this
    process holds now, was free. So a site that was killed gets its name back at once.
    """
    return bool(machine) and (last.folder, last.machine) == (folder, machine)


def has_lost(own: SiteLease, own_position: int, seen: SiteLease, position: int) -> bool:
    """Return whether the lease `seen` at `position` takes the site from the run of `own`.

    own_position: of the first lease of that run with this term.
    """
    if seen.run == own.run or seen.term < own.term:
        return False
    return seen.term > own.term or position < own_position
