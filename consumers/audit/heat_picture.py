"""A heat grid as a picture: SVG 1.1, written plainly (docs/decisions/heat-pictures.md)."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import log1p
from typing import Final

import numpy as np

from mirrorlog.changed.points import format_time
from mirrorlog.consumers.audit.heat import HeatGrid
from mirrorlog.units import format_duration, format_size

_COLORS: Final = (
    *("#fff3d6", "#fee0a3", "#fdc86c", "#fba94a", "#f58237"),
    *("#e35c30", "#c53b2e", "#9a2433", "#651637"),
)
"""From few writes to many. A cell without a write has no color."""
_CELL_PX: Final = 9
_LEFT_PX: Final = 90
_TOP_PX: Final = 40
_BOTTOM_PX: Final = 70
_LABEL_EVERY: Final = 8
_LEAST_WIDTH_PX: Final = 640


def level_of(writes: int, most: int, levels: int) -> int:
    """Return the level of a cell in [0, levels), by the logarithm of its writes. 1 <= writes."""
    if most <= 1:
        return levels - 1
    return min(int(levels * log1p(writes - 1) / log1p(most - 1)), levels - 1)


def heat_svg(grid: HeatGrid, title: str) -> Iterator[str]:
    """Yield the picture in pieces: time goes to the right, addresses go down."""
    ranges, spans = grid.counts.shape
    width = max(_LEFT_PX + spans * _CELL_PX + 20, _LEAST_WIDTH_PX)
    height = _TOP_PX + ranges * _CELL_PX + _BOTTOM_PX
    most = int(grid.counts.max(initial=0))
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>\n'
    )
    yield (
        f'<rect x="{_LEFT_PX}" y="{_TOP_PX}" width="{spans * _CELL_PX}" '
        f'height="{ranges * _CELL_PX}" fill="#f4f4f4"/>\n'
    )
    for row in range(0, ranges, _LABEL_EVERY):
        y = _TOP_PX + row * _CELL_PX + _CELL_PX
        label = format_size(row * grid.range_bytes)
        yield f'<text x="{_LEFT_PX - 6}" y="{y}" text-anchor="end">{label}</text>\n'
    for row, column in np.argwhere(grid.counts > 0).tolist():
        writes = int(grid.counts[row, column])
        color = _COLORS[level_of(writes, most, len(_COLORS))]
        x, y = _LEFT_PX + column * _CELL_PX, _TOP_PX + row * _CELL_PX
        yield (
            f'<rect x="{x}" y="{y}" width="{_CELL_PX}" height="{_CELL_PX}" fill="{color}">'
            f"<title>writes: {writes}</title></rect>\n"
        )
    yield from _legend(grid, most, _TOP_PX + ranges * _CELL_PX)
    yield "</svg>\n"


def _legend(grid: HeatGrid, most: int, bottom: int) -> Iterator[str]:
    """Yield the times below the cells, and what the colors mean."""
    spans = grid.counts.shape[1]
    last_us = grid.first_at_us + spans * grid.span_s * 1_000_000
    right = _LEFT_PX + max(spans * _CELL_PX, _LEAST_WIDTH_PX - _LEFT_PX - 20)
    if spans:
        begins, ends = format_time(grid.first_at_us), format_time(last_us)
        yield f'<text x="{_LEFT_PX}" y="{bottom + 15}">{(begins or "?")[:19]}Z</text>\n'
        yield (
            f'<text x="{right}" y="{bottom + 15}" text-anchor="end">{(ends or "?")[:19]}Z</text>\n'
        )
    for level, color in enumerate(_COLORS):
        x = _LEFT_PX + level * 2 * _CELL_PX
        yield (
            f'<rect x="{x}" y="{bottom + 30}" width="{2 * _CELL_PX}" height="{_CELL_PX}" '
            f'fill="{color}"/>\n'
        )
    yield (
        f'<text x="{_LEFT_PX + len(_COLORS) * 2 * _CELL_PX + 8}" y="{bottom + 39}">'
        f"1 to {most} writes; a cell is {format_size(grid.range_bytes)} of the volume and "
        f"{format_duration(grid.span_s)}</text>\n"
    )
