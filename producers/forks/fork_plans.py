"""What becomes of forked writes and of secondaries: decided here, done in forks.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from mirrorlog.domain.commands import ForkOutcome
from mirrorlog.domain.extents import ExtentKind
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.producers.batches.batch import InFlightTuple, InFlightWrite, Outcomes
from mirrorlog.producers.forks.fork_states import ForkState

MAX_OPEN_WRITES: Final = 16_384
"""Writes of one secondary whose outcome isn't known: all of them must fit in one command."""
_ALL_SECONDARIES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class ForkMode:
    """When a write is acknowledged to the writer: `waits_for` of the secondaries in the fork have it, or all that there are."""

    name: str
    waits_for: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`sync`, `async` or `quorum N`; BadUse for anything else."""
        words = text.split()
        match words:
            case ["sync"]:
                return cls("sync", _ALL_SECONDARIES)
            case ["async"]:
                return cls("async", 0)
            case ["quorum", count] if count.isdecimal() and 1 <= int(count) < _ALL_SECONDARIES:
                return cls(f"quorum {int(count)}", int(count))
        raise BadUse(
            f"'{text[:100]}' is no mode of forked writes",
            next="Name sync, async or 'quorum N' with N from 1 on.",
        )

    @property
    def blocks_writer(self) -> bool:
        """Whether a secondary that has no room for a write lets the writer wait, instead of going out of the fork."""
        return self.waits_for == _ALL_SECONDARIES


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """Where a volume's writes go, too: addresses by site."""

    secondaries: Mapping[str, str]
    mode: ForkMode


def fork_plans(given: Sequence[str], mode: str, volumes: Collection[Volume]) -> dict[str, ForkPlan]:
    """By volume; none where no fork is given. given: each `SITE` or `SITE=URI`; {volume} in it stands for the volume's name.

    BadUse where a secondary has no address, or two volumes have one.
    """
    parsed = ForkMode.parse(mode)
    plans = {
        each.volume: ForkPlan(dict(_secondary(fork, each) for fork in given), parsed)
        for each in volumes
    }
    addresses = [address for plan in plans.values() for address in plan.secondaries.values()]
    if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise BadUse(
            "two secondaries have one address",
            where=twice[0],
            next="Write {volume} where their names differ.",
        )
    return plans if given else {}


def _secondary(fork: str, volume: Volume) -> tuple[str, str]:
    site, is_given, address = fork.partition("=")
    if not is_given:
        address = volume.secondaries.get(site, "")
    if not site or not address:
        raise BadUse(
            f"volume {volume.volume} has no address for a secondary at '{site[:220]}'",
            next="Name it as SITE=URI, or when the volume is created (--secondary SITE=URI).",
        )
    return site, address.replace("{volume}", volume.volume)


@dataclass(slots=True, eq=False)
class ForkedWrite:
    """A write that has ended on the primary. Its sets hold names of sites.

    open: the outcome isn't known. unreached: those of `open` that the write hasn't reached. hung: the call may still take
    effect. has: the secondary has the write, durably. reached: how many secondaries the write has reached.
    """

    write: InFlightWrite
    open: set[str]
    unreached: set[str]
    hung: set[str] = field(default_factory=set)
    has: set[str] = field(default_factory=set)
    reached: int = 0

    @property
    def is_known(self) -> bool:
        """Whether every outcome is."""
        return not self.open and not self.hung

    def satisfies(self, mode: ForkMode) -> bool:
        """Whether the writer may be told that it has ended: a secondary that is out of the fork holds nobody up."""
        return not self.unreached or self.reached >= mode.waits_for

    def outcomes(self) -> Outcomes:
        """By site, as they are now; whoever isn't there has missed it."""
        return {
            **dict.fromkeys(self.has, ForkOutcome.HAS),
            **dict.fromkeys(self.open, ForkOutcome.OPEN),
        }


def is_queue_full(
    mode: ForkMode, queued_bytes: int, open_writes: int, size_bytes: int, limit_bytes: int
) -> bool:
    """Whether a secondary goes out of the fork rather than take one more write. A single one is taken however large it is."""
    if open_writes >= MAX_OPEN_WRITES:
        return True
    return not mode.blocks_writer and queued_bytes > 0 and queued_bytes + size_bytes > limit_bytes


@dataclass(slots=True)
class MissedWrites:
    """What one secondary has missed, and how much of that its site can know.

    unnamed: there is something that no command names yet. naming: number of the last command that names some of it, until
    that is acknowledged. known_position: whoever has read the log through that position knows of all that was acknowledged.
    last_range: (offset, length) of something missed. held: a block of it, held back: it is named by each command since number
    `holding`, which is acknowledged at or below `held_at`. joined: it is named once more, by the command that names all that
    was missed before.
    """

    known_position: int
    has_unpublished: bool = False
    pending_command: int | None = None
    last_range: tuple[int, int] | None = None
    held_back: tuple[int, int] | None = None
    held_back_command: int | None = None
    held_back_position: int | None = None
    joined: bool = False

    def add(self, flight: InFlightTuple) -> None:
        """One more write."""
        self.has_unpublished, self.last_range = True, (flight[1], flight[2])

    def forget_published(self) -> None:
        """Commands that named some of it are lost."""
        (
            self.has_unpublished,
            self.pending_command,
            self.held_back_command,
            self.held_back_position,
        ) = True, None, None, None

    def hold_back(self, block_size: int) -> None:
        """Something is missed that its site can't know: while writes go on that is always so. So one block of it is held back:
        a site that knows of it proves nothing until it is let go of."""
        if self.has_unpublished and self.held_back is None and self.last_range is not None:
            offset, length = self.last_range
            self.held_back = offset, min(length, block_size)

    def join(self) -> None:
        """Writes go to it from now on."""
        self.joined = True

    def stop_holding_back(self) -> None:
        """Nothing is held back any more."""
        self.held_back = self.held_back_command = self.held_back_position = None
        self.joined = False

    def published(self, number: int, *, with_held_back: bool) -> None:
        """Command `number` names all that was missed until now; and what is held back, or that must begin anew: a site may
        have proved what it has between two commands that name it."""
        if self.has_unpublished:
            self.has_unpublished, self.pending_command = False, number
        if not with_held_back:
            self.held_back_command = self.held_back_position = None
        elif self.joined:
            self.stop_holding_back()
        elif (
            self.held_back is not None
            and self.held_back_command is None
            and self.held_back_position is None
        ):
            self.held_back_command = number

    def acknowledged(self, position: int, is_acknowledged: Callable[[int], bool]) -> None:
        """`position`: the highest of the volume's that is acknowledged; is_acknowledged: asked about a command's number."""
        if self.pending_command is not None and is_acknowledged(self.pending_command):
            self.pending_command, self.known_position = None, position
        if self.held_back_command is not None and is_acknowledged(self.held_back_command):
            self.held_back_command, self.held_back_position = None, position


def may_join(missed: MissedWrites, generation: str, report: SiteProgress | None) -> bool:
    """Whether writes may go to a secondary though it has missed others (docs/decisions/forked-writes.md).

    From then on there may be newer writes on it beside older blocks, and its site may say nothing of any position before that
    is over. That is so where the site has copied all that was missed. While writes go on, some is always missed that it can't
    know; then it is enough that it has begun to copy what is held back: what it claimed before it has withdrawn with that, and
    it proves nothing before the command that names all the rest.
    """
    if report is None or site_starts_over(generation, report):
        return False
    watermark, applied = report.watermark or 0, report.applied_position or 0
    if (
        not missed.has_unpublished
        and missed.pending_command is None
        and applied >= missed.known_position
        and watermark >= missed.known_position
    ):
        return True
    if (
        missed.held_back_position is None
        or watermark < missed.held_back_position
        or report.consistent_position is not None
    ):
        return False
    return report.state is SiteState.SYNCING or applied >= missed.held_back_position


def site_starts_over(generation: str, report: SiteProgress) -> bool:
    """Whether its site begins with the secondary from nothing: what it has by the fork may lie in another file by now."""
    return report.generation != generation or report.applied_position is None


def site_started_over_since(joined: SiteProgress, report: SiteProgress) -> bool:
    """Whether the site has copied all since `joined`. Its applied position tells nothing: it may fall back with a restart."""
    copies = (Rung.ALLOCATED, Rung.FULL)
    return report.rung in copies and joined.rung not in copies


def held_back_writes(held: Iterable[tuple[int, int]], at_us: int) -> list[InFlightTuple]:
    """What is held back, as if it were in flight."""
    return [(ExtentKind.WRITE, offset, length, at_us, ()) for offset, length in held]


def outcomes_of(
    flight: InFlightTuple, writes: Mapping[int, ForkedWrite], sites_in: Collection[str]
) -> Outcomes:
    """Of a flight that hasn't ended; writes: by the identity of their flights. One that is on its way to the primary is open
    for all in the fork."""
    write = writes.get(id(flight))
    return dict.fromkeys(sites_in, ForkOutcome.OPEN) if write is None else write.outcomes()


@dataclass(frozen=True, slots=True)
class ForkStateChange:
    """A secondary's state has changed. text: a line for people, where they need to on_state_change of it."""

    volume: str
    site: str
    state: ForkState
    reason: str | None
    text: str | None


def state_change(
    volume: str,
    site: str,
    before: ForkState,
    state: ForkState,
    reason: str | None,
    told: str | None,
) -> ForkStateChange:
    """What to say of a change; told: the reason that was said last, which isn't said again."""
    text = None
    if state is ForkState.IN:
        text = f"volume {volume}: the secondary at {site} is in the fork"
    elif state in (ForkState.OUT, ForkState.HUNG) and reason is not None:
        if before is ForkState.IN:
            text = f"volume {volume}: the secondary at {site} is out of the fork, and its site copies what it misses: {reason}"
        elif reason != told:
            text = f"volume {volume}: the secondary at {site} can't be in the fork: {reason}"
    return ForkStateChange(volume, site, state, reason, text)


def report_of(site: str, reports: Sequence[SiteProgress]) -> SiteProgress | None:
    """The site's own."""
    return next((report for report in reports if report.site == site), None)
