"""How `audit --heat` shows writes by range and time: in the terminal, as JSON, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mirrorlog.changed.points import format_time
from mirrorlog.cli.support.output import Output
from mirrorlog.consumers.audit.heat import HeatGrid, HeatMap
from mirrorlog.consumers.audit.heat_picture import heat_svg, level_of
from mirrorlog.consumers.audit.output_file import whole_file
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse
from mirrorlog.history.batches import HistoryBatch
from mirrorlog.units import format_duration, format_size

_SHADES: Final = "·░▒▓█"
_TERMINAL_RANGES: Final = 32
_PICTURE_RANGES: Final = 64
_MAX_SPANS: Final = 240
_LABEL_WIDTH: Final = 10
_DEFAULT_WIDTH: Final = 100


def print_heat(
    output: Output, volume: Volume, batches: Iterable[HistoryBatch], path: Path | None
) -> None:
    """Show the writes of the batches: as a picture in the file, otherwise where text goes.

    Raise BadUse for a file that is no .svg; what whole_file and the batches raise.
    """
    if path is not None and path.suffix.lower() != ".svg":
        raise BadUse(
            "a heat map is written as SVG", where=str(path), next="Name a file that ends in .svg."
        )
    ranges = _TERMINAL_RANGES if path is None else _PICTURE_RANGES
    heat = HeatMap(volume, max_ranges=ranges, max_spans=_MAX_SPANS)
    for batch in batches:
        heat.add(batch)
    grid = heat.grid()
    if path is not None:
        with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(heat_svg(grid, f"Writes to volume {volume.volume}"))
    output.print_message("heat", _fields(volume, grid))
    if path is None and not output.json:
        for line in heat_lines(grid, output.width or _DEFAULT_WIDTH):
            output.print_text(line)


def heat_lines(grid: HeatGrid, width: int) -> Iterator[str]:
    """Yield a line a range, whose characters are spans of time; the darker, the more writes.

    width: of the lines, in characters; at least 20.
    """
    if not grid.counts.size:
        yield "no writes"
        return
    shown = grid.narrowed(max(width, 20) - _LABEL_WIDTH - 1)
    most = int(shown.counts.max())
    for number, counts in enumerate(shown.counts.tolist()):
        label = format_size(number * shown.range_bytes).rjust(_LABEL_WIDTH)
        yield f"{label} {''.join(_shade(writes, most) for writes in counts)}".rstrip()
    last_us = shown.first_at_us + shown.counts.shape[1] * shown.span_s * 1_000_000
    yield (
        f"from {format_time(shown.first_at_us)} to {format_time(last_us)}: a character is "
        f"{format_duration(shown.span_s)} and {format_size(shown.range_bytes)}; {_SHADES} is 1 to "
        f"{most} writes, by the logarithm"
    )


def _shade(writes: int, most: int) -> str:
    return _SHADES[level_of(writes, most, len(_SHADES))] if writes else " "


def _fields(volume: Volume, grid: HeatGrid) -> dict[str, object]:
    """Return the grid as --json prints it."""
    has_writes = bool(grid.counts.size)
    return {
        "schema_version": 1,
        "volume": volume.volume,
        "range_bytes": grid.range_bytes,
        "span_s": grid.span_s,
        "first_at": format_time(grid.first_at_us) if has_writes else None,
        "writes": grid.counts.tolist(),
    }
