"""What a secondary has missed, and when it may join the fork (docs/decisions/forked-writes.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.producers.batches.batch import InFlightTuple


@dataclass(slots=True)
class MissedWrites:
    """The writes that one secondary has missed, and how much of them its site can know.

    known_position: a site that has read the log through this position knows of every missed write
    that was published and acknowledged.
    has_unpublished: no command names some missed write yet.
    pending_command: the number of the last command that names missed writes, until it is
    acknowledged.
    last_range: (offset, length) of one missed write.
    held_back: (offset, length) of one missed block. Each command names it as missed from number
    `held_back_command` on, which is acknowledged at or below `held_back_position`.
    joined: the secondary is in the fork again. The next command that names all missed writes names
    the held-back block for the last time.
    """

    known_position: int
    has_unpublished: bool = False
    pending_command: int | None = None
    last_range: tuple[int, int] | None = None
    held_back: tuple[int, int] | None = None
    held_back_command: int | None = None
    held_back_position: int | None = None
    joined: bool = False

    def add(self, write: InFlightTuple) -> None:
        """Add a missed write."""
        self.has_unpublished, self.last_range = True, (write[1], write[2])

    def forget_published(self) -> None:
        """Count nothing as published: commands that named missed writes may be lost."""
        self.has_unpublished = True
        self.pending_command = self.held_back_command = self.held_back_position = None

    def hold_back(self, block_size: int) -> None:
        """Hold back one missed block if something is unpublished.

        While writes go on, the site can't know of everything that was missed. A site that knows
        of the held-back block proves nothing until the host stops naming it.
        """
        if self.has_unpublished and self.held_back is None and self.last_range is not None:
            offset, length = self.last_range
            self.held_back = offset, min(length, block_size)

    def join(self) -> None:
        """Note that the secondary is in the fork from now on."""
        self.joined = True

    def stop_holding_back(self) -> None:
        """Hold back no block any more."""
        self.held_back = self.held_back_command = self.held_back_position = None
        self.joined = False

    def published(self, number: int, *, with_held_back: bool) -> None:
        """Note that command `number` names everything that was missed before it.

        with_held_back: it names the held-back block too. Where it doesn't, holding back starts
        again: between two commands that name the block, a site may have proved what it has.
        """
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
        """Take what was acknowledged since the last call.

        position: the highest acknowledged position of the volume. is_acknowledged: tells this of
        a command's number.
        """
        if self.pending_command is not None and is_acknowledged(self.pending_command):
            self.pending_command, self.known_position = None, position
        if self.held_back_command is not None and is_acknowledged(self.held_back_command):
            self.held_back_command, self.held_back_position = None, position


def is_other_secondary(secondary_id: str | None, report: SiteProgress | None) -> bool:
    """Return True if the report is about another secondary than the one with this id."""
    return (
        secondary_id is not None
        and report is not None
        and report.secondary_id is not None
        and report.secondary_id != secondary_id
    )


def may_join(
    missed: MissedWrites,
    generation: str,
    report: SiteProgress | None,
    *,
    secondary_id: str | None,
) -> bool:
    """Return True if writes may go to a secondary that has missed others.

    secondary_id: of the secondary that was opened. report: the last one of its site, which must
    have met this very secondary. From the first write on, the secondary may hold newer writes
    beside older blocks, so its site must claim no position until that is over. Either of these is
    enough:

    - The site has copied everything that was missed.
    - While writes go on, it always misses something that it can't know. Then it is enough that
      the site has begun to copy the held-back block: with that it has withdrawn its earlier
      claims, and it proves nothing before the command that names everything else.
    """
    if report is None or site_starts_over(generation, report):
        return False
    if secondary_id is None or report.secondary_id != secondary_id:
        return False
    watermark, applied = report.watermark or 0, report.applied_position or 0
    if (
        not missed.has_unpublished
        and missed.pending_command is None
        and applied >= missed.known_position
        and watermark >= missed.known_position
    ):
        return True
    return knows_held_back(missed, report)


def knows_held_back(missed: MissedWrites, report: SiteProgress) -> bool:
    """Return True if the site knows of the held-back block, and claims no position."""
    if (
        missed.held_back_position is None
        or (report.watermark or 0) < missed.held_back_position
        or report.consistent_position is not None
    ):
        return False
    applied = report.applied_position or 0
    return report.state is SiteState.SYNCING or applied >= missed.held_back_position


def site_starts_over(generation: str, report: SiteProgress) -> bool:
    """Return True if the site starts the secondary from nothing.

    What came by the fork may then lie in another file.
    """
    return report.generation != generation or report.applied_position is None


def site_started_over_since(joined: SiteProgress, report: SiteProgress) -> bool:
    """Return True if the site has begun to copy everything since the report `joined`.

    Its applied position tells nothing about that: a restart may set it back.
    """
    copies = (Rung.ALLOCATED, Rung.FULL)
    return report.rung in copies and joined.rung not in copies


def report_of(site: str, reports: Sequence[SiteProgress]) -> SiteProgress | None:
    """Return the report of this site, or None."""
    return next((report for report in reports if report.site == site), None)
