"""Extraction: which of a command's extents are addresses of its volume, and what they dirty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.commands import CommandKind, ForkOutcome, TrackingCommand
from mirrorlog.domain.extents import MAX_BYTE, U8, ExtentColumns
from mirrorlog.domain.volume_states import grown_by
from mirrorlog.domain.volumes import VOLUME_NAME, Volume
from mirrorlog.domain.wire import Interpreted, Verdict, interpret

MOST_FORKS: Final = 32
"""Sites that one command may name, and of which the log keeps apart what they have missed."""
_WITH_OUTCOMES: Final = (
    CommandKind.WRITES,
    CommandKind.HEARTBEAT,
    CommandKind.BARRIER,
    CommandKind.SESSION_OPEN,
    CommandKind.SESSION_CLOSE,
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The extents inside the volume, clipped to it, and a sentence about those that aren't; None where all are."""

    extents: ExtentColumns
    objection: str | None


def extract(extents: ExtentColumns, volume: Volume) -> Extraction:
    """Takes every address, refuses what can't be one (invariant 11).

    An extent that begins inside the volume and ends behind it is recorded up to the volume's end and objected to. One
    that begins behind it, or whose end no volume can have (above 2^63 - 1), is refused. Empty extents dirty nothing.
    """
    size, limit = np.uint64(volume.size_bytes), np.uint64(MAX_BYTE)
    offsets, lengths = extents.offsets, extents.lengths
    if not len(offsets):
        return Extraction(extents, None)
    inside = (offsets <= size) & (lengths <= size - np.minimum(offsets, size))
    if inside.all():
        return Extraction(extents, None)
    # Neither sum can overflow: both terms are at most 2^63 - 1 where it is looked at.
    possible = (
        (offsets <= limit) & (lengths <= limit) & (offsets <= limit - np.minimum(lengths, limit))
    )
    kept = possible & (offsets < size)
    clipped = np.minimum(lengths[kept], size - offsets[kept])
    kinds = None if extents.kinds is None else extents.kinds[kept]
    taken = ExtentColumns(offsets[kept], clipped, kinds)
    return Extraction(
        taken, _objection(extents, ~inside, int((inside & (lengths > 0)).sum()), volume)
    )


def _objection(
    extents: ExtentColumns, outside: npt.NDArray[np.bool_], whole: int, volume: Volume
) -> str:
    first = int(np.flatnonzero(outside)[0])
    return (
        f"{int(outside.sum())} of {len(extents)} extents reach outside volume {volume.volume} of "
        f"{volume.size_bytes} bytes; the first is extent {first}, offset {int(extents.offsets[first])}, length "
        f"{int(extents.lengths[first])}. What lies inside is recorded ({whole} extents whole). Send extents inside the "
        "volume, or resize it first."
    )


@dataclass(frozen=True, slots=True)
class CommandExtents:
    """What a tracking command names: its own extents and those of its raw commands, not yet clipped.

    remark: which raw commands made the whole volume dirty, and why. malformed: which no device can have executed.
    """

    extents: ExtentColumns
    remark: str = ""
    malformed: str = ""


def command_extents(command: TrackingCommand, volume: Volume, position: int) -> CommandExtents:
    """All extents of a command at `position`. A raw command that isn't understood names the whole volume, and a RESIZE what
    it made part of the volume, whatever its sender said: never silently nothing."""
    if grown := grown_by(volume, command, position):
        return CommandExtents(ExtentColumns.of([*command.extents, *grown]))
    if not command.raw:
        return CommandExtents(command.extents)
    found = [
        interpret(r.protocol, r.command, r.data, command.logical_block_bytes, volume.size_bytes)
        for r in command.raw
    ]
    extents = ExtentColumns.of(
        [*command.extents, *(extent for each in found for extent in each.extents)]
    )
    return CommandExtents(
        extents, *(_said(found, verdict) for verdict in (Verdict.WHOLE_VOLUME, Verdict.MALFORMED))
    )


def _said(found: list[Interpreted], verdict: Verdict) -> str:
    texts = [
        f"raw command {number}: {each.text}"
        for number, each in enumerate(found)
        if each.verdict is verdict
    ]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


@dataclass(frozen=True, slots=True, eq=False)
class CommandForks:
    """What a command says of the secondaries to which its host sends the writes itself.

    missed: by site, for each extent whether the secondary has missed it; a site that isn't there has missed them all.
    open_sites: those with an outcome that the session will tell later, sorted. malformed: what contradicts itself.
    """

    missed: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    open_sites: tuple[str, ...] = ()
    malformed: str = ""

    def missed_by(self, site: str, extents: ExtentColumns) -> ExtentColumns:
        """Those of the command's extents that the site's secondary has missed."""
        missed = self.missed.get(site)
        if missed is None or missed.all():
            return extents
        kinds = None if extents.kinds is None else extents.kinds[missed]
        return ExtentColumns(extents.offsets[missed], extents.lengths[missed], kinds)


def forks_of(command: TrackingCommand, *, is_whole: bool) -> CommandForks:
    """What a command says of forks. is_whole: nothing of it was refused or clipped.

    Where it isn't, or the extents aren't writes as the host made them, everything is missed. So is what is OPEN when
    nobody will name it again: the command belongs to no session, or ends it.
    """
    if len(command.forks) > MOST_FORKS:
        return CommandForks(
            malformed=f"{len(command.forks)} forks, and at most {MOST_FORKS} are known"
        )
    count, missed, open_sites = len(command.extents), {}, []
    believed = is_whole and not command.raw and command.kind in _WITH_OUTCOMES
    named_again = command.sequence >= 0 and command.kind is not CommandKind.SESSION_CLOSE
    for fork in command.forks:
        if not VOLUME_NAME.fullmatch(fork.site):
            return CommandForks(malformed=f"a fork of '{fork.site[:60]}', which can't be a site")
        if fork.site in missed or len(fork.outcomes) not in (0, count):
            return CommandForks(
                malformed=f"{len(fork.outcomes)} outcomes of site {fork.site} for {count} extents"
            )
        outcomes = np.frombuffer(fork.outcomes or bytes([ForkOutcome.HAS]) * count, U8)
        is_open = (outcomes == ForkOutcome.OPEN) & (believed and named_again)
        missed[fork.site] = ~((outcomes == ForkOutcome.HAS) & believed | is_open)
        open_sites += [fork.site] if is_open.any() else []
    return CommandForks(missed, tuple(sorted(open_sites)))
