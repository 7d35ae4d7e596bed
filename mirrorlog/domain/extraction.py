"""Extraction: the extents that a command names, clipped to its volume, and their fork outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mirrorlog.domain.commands import (
    LEFT_OUT_SESSIONS,
    CommandKind,
    ForkOutcome,
    TrackingCommand,
)
from mirrorlog.domain.extents import MAX_BYTE, U8, Extent, ExtentColumns
from mirrorlog.domain.volume_states import grown_extents
from mirrorlog.domain.volumes import VOLUME_NAME, Volume
from mirrorlog.domain.wire import Interpretation, Verdict, interpret

Size: TypeAlias = "np.uint64 | npt.NDArray[np.uint64]"
MAX_FORKS: Final = 32
"""How many sites one command may name, and for how many the log keeps a missed log."""
KINDS_WITH_OUTCOMES: Final = (
    CommandKind.WRITES,
    CommandKind.HEARTBEAT,
    CommandKind.BARRIER,
    CommandKind.SESSION_OPEN,
    CommandKind.SESSION_CLOSE,
)
"""The kinds of command whose fork outcomes count."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The extents inside the volume.

    objection: a sentence about the extents outside; None if there are none.
    """

    extents: ExtentColumns
    objection: str | None


def extract(extents: ExtentColumns, volume: Volume) -> Extraction:
    """Return the extents that are addresses of the volume (invariant 11).

    An extent that begins inside the volume and ends behind it is clipped, with an objection. An
    extent that begins behind the volume, or that ends above 2^63 - 1, is refused with an objection.
    Empty extents dirty nothing. In the node, plan_flush folds them next
    (streams/fold/flush_plan.py).
    """
    size = np.uint64(volume.size_bytes)
    offsets, lengths = extents.offsets, extents.lengths
    if not len(offsets):
        return Extraction(extents, None)
    inside = lie_inside(offsets, lengths, size)
    if inside.all():
        return Extraction(extents, None)
    kept = begin_inside(offsets, lengths, size)
    clipped = np.minimum(lengths[kept], size - offsets[kept])
    kinds = None if extents.kinds is None else extents.kinds[kept]
    taken = ExtentColumns(offsets[kept], clipped, kinds)
    return Extraction(
        taken, _objection(extents, ~inside, int((inside & (lengths > 0)).sum()), volume)
    )


def lie_inside(
    offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], size: Size
) -> npt.NDArray[np.bool_]:
    """Return which extents a volume holds whole. size: of the volume, for all or for each."""
    return (offsets <= size) & (lengths <= size - np.minimum(offsets, size))


def begin_inside(
    offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], size: Size
) -> npt.NDArray[np.bool_]:
    """Return which extents begin inside a volume, and end at 2^63 - 1 at most.

    size: as for lie_inside().
    """
    limit = np.uint64(MAX_BYTE)
    # Nothing overflows: both terms are at most 2^63 - 1 wherever the result counts.
    possible = (
        (offsets <= limit) & (lengths <= limit) & (offsets <= limit - np.minimum(lengths, limit))
    )
    return possible & (offsets < size)


def _objection(
    extents: ExtentColumns, outside: npt.NDArray[np.bool_], whole: int, volume: Volume
) -> str:
    first = int(np.flatnonzero(outside)[0])
    return (
        f"{int(outside.sum())} of {len(extents)} extents reach outside volume {volume.volume} of "
        f"{volume.size_bytes} bytes; the first is extent {first}, offset "
        f"{int(extents.offsets[first])}, length {int(extents.lengths[first])}. What lies inside is "
        f"recorded ({whole} extents whole). Send extents inside the volume, or resize it first."
    )


@dataclass(frozen=True, slots=True)
class CommandExtents:
    """The extents of a tracking command and of its raw commands, not clipped yet.

    remark: the raw commands that made the whole volume dirty, and why; empty if there are none.
    malformed: the raw commands that no device can have executed; empty if there are none.
    """

    extents: ExtentColumns
    remark: str = ""
    malformed: str = ""


def command_extents(command: TrackingCommand, volume: Volume, position: int) -> CommandExtents:
    """Return all extents of the command at `position`.

    A raw command that can't be interpreted stands for the whole volume. So does the close of the
    sessions that the head left out: nobody counted their commands. A RESIZE stands for the region
    that it added, whatever its sender named.
    """
    if command.kind is CommandKind.SESSION_CLOSE and command.session == LEFT_OUT_SESSIONS:
        return CommandExtents(
            ExtentColumns.of([*command.extents, Extent(0, volume.size_bytes)]),
            remark="it closes sessions that the volume's head no longer names",
        )
    if grown := grown_extents(volume, command, position):
        return CommandExtents(ExtentColumns.of([*command.extents, *grown]))
    if not command.raw:
        return CommandExtents(command.extents)
    interpreted = [
        interpret(
            r.protocol,
            r.command,
            data=r.data,
            logical_block_bytes=command.logical_block_bytes,
            size_bytes=volume.size_bytes,
        )
        for r in command.raw
    ]
    extents = ExtentColumns.of(
        [*command.extents, *(extent for raw in interpreted for extent in raw.extents)]
    )
    return CommandExtents(
        extents,
        remark=_texts(interpreted, Verdict.WHOLE_VOLUME),
        malformed=_texts(interpreted, Verdict.MALFORMED),
    )


def _texts(interpreted: list[Interpretation], verdict: Verdict) -> str:
    """Return the explanations of the first three raw commands with that verdict."""
    texts = [
        f"raw command {number}: {raw.text}"
        for number, raw in enumerate(interpreted)
        if raw.verdict is verdict
    ]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + more


@dataclass(frozen=True, slots=True, eq=False)
class CommandForks:
    """The fork outcomes of a command: what the secondaries have missed of its extents.

    missed: by site, one bool an extent: whether the secondary has missed it. A site without an
    entry has missed all of them.
    open_sites: the sites, sorted, with an outcome that the session will report later.
    malformed: a text about outcomes that contradict the command; empty if there are none.
    """

    missed: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    open_sites: tuple[str, ...] = ()
    malformed: str = ""

    def missed_by(self, site: str, extents: ExtentColumns) -> ExtentColumns:
        """Return the extents that the secondary of `site` has missed.

        extents: all extents of the command.
        """
        missed = self.missed.get(site)
        if missed is None or missed.all():
            return extents
        kinds = None if extents.kinds is None else extents.kinds[missed]
        return ExtentColumns(extents.offsets[missed], extents.lengths[missed], kinds)


def command_forks(command: TrackingCommand, *, is_whole: bool) -> CommandForks:
    """Return the fork outcomes of a command.

    The secondaries have missed every extent if the command isn't whole or its extents aren't
    writes as the host made them. They have missed an OPEN extent too if no later command will name
    it again: the command belongs to no session, or it closes the session.

    is_whole: no part of the command was refused or clipped.
    """
    if len(command.forks) > MAX_FORKS:
        return CommandForks(
            malformed=f"{len(command.forks)} forks, and at most {MAX_FORKS} are known"
        )
    count, missed, open_sites = len(command.extents), {}, []
    believed = is_whole and not command.raw and command.kind in KINDS_WITH_OUTCOMES
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
