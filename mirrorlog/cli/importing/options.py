"""The options that all kinds of `mirrorlog import` have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mirrorlog.changed.points import AtTime
from mirrorlog.changed.worded_times import understand_point
from mirrorlog.errors import BadUse
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers.importers import FitOptions
from mirrorlog.units import parse_size

VolumeName = Annotated[str, typer.Argument(metavar="VOLUME")]
SourceFile = Annotated[
    Path, typer.Argument(metavar="FILE|-", help="The source; - is the standard input.")
]
SourceFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|-…",
        help="The file of each CPU, or one stream of all; - is the standard input.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Import the writes of this device, as the recording names it: 8-0, /dev/vdb"),
]
DiscardZeroesOption = Annotated[
    bool,
    typer.Option(
        "--discard-zeroes",
        help="A discarded range of the device reads as zeros. Otherwise a discard is dirty.",
    ),
]
PartialOption = Annotated[
    bool,
    typer.Option("--partial", help="The map covers a part; the rest of the volume didn't change."),
]
BeganOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="The time of a recording's first write, or since when a map counts. It is written as "
        "for `changed --since`.",
    ),
]
OffsetShiftOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Add this to the source's addresses: -1MiB for a partition that begins at 1 MiB. "
        "Without it, blktrace and blkparse convert the addresses of a recorded partition.",
    ),
]
ClipOption = Annotated[
    bool,
    typer.Option("--clip", help="Leave out what lies outside the volume, and count it."),
]
AllowEmptyOption = Annotated[
    bool,
    typer.Option(
        "--allow-empty",
        help="A source that names nothing says that nothing changed. Otherwise it is an error.",
    ),
]
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        help="Name who wrote, for audits. The default is import:KIND:SESSION.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Read and check everything, and publish nothing.")
]
WaitOption = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Wait this long for the node's statuses."),
]


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The options, as the user wrote them."""

    began: str | None
    offset_shift: str | None
    clip: bool
    host: str | None
    dry_run: bool
    wait: str | None
    allow_empty: bool = False
    partial: bool = False

    def terms(self) -> FitOptions:
        """Return how the source is fitted to its volume.

        Raise BadUse if an option can't be parsed.
        """
        began_us = None
        if self.began is not None:
            point = understand_point(self.began, SystemClock().now_us())
            if not isinstance(point, AtTime):
                raise BadUse(
                    f"'{self.began}' isn't a time", next="Write 2026-11-22T18:30:00Z or '2h ago'."
                )
            began_us = point.at_us
        return FitOptions(
            shift=self._shift_bytes(),
            clip=self.clip,
            partial=self.partial,
            allow_empty=self.allow_empty,
            began_us=began_us,
        )

    def _shift_bytes(self) -> int:
        if self.offset_shift is None:
            return 0
        size = parse_size(self.offset_shift.removeprefix("-"))
        return -size if self.offset_shift.startswith("-") else size
