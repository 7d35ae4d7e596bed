"""In which blocks two copies of a volume parted: what the hosts of each side have written since.

A promotion says where two copies parted (docs/decisions/failing-over.md). Commands name the
generation of their host, so they tell the sides apart: those of the former primary name the
generation that the promotion ended, or one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mirrorlog.changed.volume_commands import QueryPorts, VolumeCommand, VolumeCommands
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.promotions import Promotion
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, OutOfRetention


@dataclass(frozen=True, slots=True)
class WrittenRun:
    """Consecutive blocks that one side wrote. hosts: sorted. Times are by the hosts' clocks."""

    first_block: int
    blocks: int
    first_at_us: int
    last_at_us: int
    hosts: tuple[str, ...]


@dataclass(slots=True)
class DivergedSide:
    """What the hosts of one side have written since the copies parted.

    primary: the address of its copy. blocks: that were written. commands: their number.
    """

    primary: str
    generation: str
    blocks: BlockSet = field(default_factory=BlockSet)
    commands: int = 0
    _spans: list[tuple[int, int, int, int, str]] = field(default_factory=list, repr=False)

    def add(self, volume: Volume, command: VolumeCommand) -> None:
        """Add the blocks that a command of this side names."""
        if not command.touches_blocks:
            return
        self.commands += 1
        made = command.command
        for extent in command.extents:
            if extent.length:
                first = extent.offset // volume.block_size
                end = -(-extent.end // volume.block_size)
                self.blocks.add_range(first, end)
                self._spans.append((first, end, made.first_at_us, made.last_at_us, made.host))

    def runs(self) -> Iterator[WrittenRun]:
        """Yield the runs of blocks, ascending. Spans that overlap or touch are one run."""
        self._spans.sort()
        open_run: tuple[int, int, int, int, set[str]] | None = None
        for first, end, first_at_us, last_at_us, host in self._spans:
            if open_run is not None and first <= open_run[1]:
                begun, until, first_us, last_us, hosts = open_run
                hosts.add(host)
                open_run = (
                    begun,
                    max(until, end),
                    min(first_us, first_at_us),
                    max(last_us, last_at_us),
                    hosts,
                )
                continue
            if open_run is not None:
                yield _run(open_run)
            open_run = (first, end, first_at_us, last_at_us, {host})
        if open_run is not None:
            yield _run(open_run)


@dataclass(frozen=True, slots=True)
class Divergence:
    """What both sides have written since two copies parted.

    through: the position of the last command that counts.
    """

    volume: Volume
    promotion: Promotion
    through: int
    former: DivergedSide
    current: DivergedSide


def divergence_of(
    volume: Volume, promotion: Promotion, commands: Iterable[VolumeCommand], through: int
) -> Divergence:
    """Return what both sides wrote, by the commands above the parting position. Pure."""
    ended: set[str] = set()
    for earlier in volume.promotions:
        ended.add(earlier.former_generation)
        if earlier == promotion:
            break
    former = DivergedSide(promotion.former_primary, promotion.former_generation)
    current = DivergedSide(volume.primary, volume.generation)
    for command in commands:
        is_former = command.position <= promotion.position or command.command.generation in ended
        (former if is_former else current).add(volume, command)
    return Divergence(volume, promotion, through, former, current)


def chosen_promotion(volume: Volume, position: int | None) -> Promotion:
    """Return the promotion at a position, the last one for None. Raise BadUse if there is none."""
    if not volume.promotions:
        raise BadUse(
            "no copy of the volume was promoted since its log began: there is no other side",
            where=f"volume {volume.volume}",
        )
    if position is None:
        return volume.promotions[-1]
    for promotion in volume.promotions:
        if promotion.position == position:
            return promotion
    known = ", ".join(str(promotion.position) for promotion in volume.promotions)
    raise BadUse(
        f"no promotion has position {position}",
        where=f"volume {volume.volume}",
        next=f"The description names promotions at {known}.",
    )


def read_divergence(
    name: str, promotion_position: int | None, ports: QueryPorts, patience_s: float
) -> Divergence:
    """Return what both sides wrote since the copies parted, through the last command.

    promotion_position: of the promotion at which they parted; None for the last one.
    Raise UnknownVolume, BadUse as chosen_promotion() and for a mirror of the log, OutOfRetention if
    nobody knows where the copies parted or if commands since then are gone, and KafkaFailed.
    """
    ports.catalog.refresh()
    volume = ports.catalog.volume_named(name)
    promotion = chosen_promotion(volume, promotion_position)
    parted = promotion.parted_position
    if parted is None:
        raise OutOfRetention(
            "nobody knows in which blocks the copies parted: the promoted one wasn't consistent, "
            "or hosts forked their writes to it",
            where=f"volume {name}, promotion at position {promotion.position}",
            next="Compare the two copies themselves, while the former primary is still there.",
        )
    if ports.open_commands is not None:
        raise BadUse(
            "a mirror keeps no positions of the commands, so it doesn't tell which side wrote what",
            where=f"volume {name}, promotion at position {promotion.position}",
            next="Ask the source: say the same with its servers (--bootstrap-servers). Here, "
            f"`mirrorlog changed {name} --since @{parted}` lists what both sides wrote together.",
        )
    commands = VolumeCommands(volume, ports, patience_s)
    if not commands.is_kept(parted):
        raise OutOfRetention(
            "commands since the copies parted are gone, so nobody knows which side wrote what",
            where=f"volume {name}, position {parted}",
            next=f"`mirrorlog changed {name} --since @{parted}` lists what both sides wrote, as "
            "long as the log has it. A rejoin needs no more than that.",
        )
    through = commands.last_position()
    read = commands.read(after=parted, through=through)
    return divergence_of(volume, promotion, read, through)


def _run(spans: tuple[int, int, int, int, set[str]]) -> WrittenRun:
    first, end, first_at_us, last_at_us, hosts = spans
    return WrittenRun(first, end - first, first_at_us, last_at_us, tuple(sorted(hosts)))
