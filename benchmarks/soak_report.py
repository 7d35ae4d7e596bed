"""Writes the soak's table into docs/reliability.md, and draws docs/pictures/soak.svg.

    python benchmarks/soak_report.py

Both come from docs/measured/soak.json, which bench_soak.py has kept. The table goes between `<!--
soak -->` and `<!-- /soak -->`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from report import caption, machine_line, rewritten, table
from results import RESULTS_DIR

PAGE: Final = RESULTS_DIR.parent / "reliability.md"
PICTURE: Final = RESULTS_DIR.parent / "pictures" / "soak.svg"
Result = Mapping[str, Any]
_MB: Final = 1e6
_QUANTITIES: Final = {
    "rss_bytes": ("RSS, MB", _MB),
    "anonymous_bytes": ("anonymous, MB", _MB),
    "descriptors": ("descriptors", 1.0),
    "threads": ("threads", 1.0),
    "disk_bytes": ("disk, MB", _MB),
}
_LEFT, _TOP, _WIDTH, _HEIGHT, _GAP = 70, 34, 150, 38, 14
_STYLE: Final = """
text { font: 11px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 9px; fill: #59636e }
path { fill: none; stroke: #0969da; stroke-width: 1.2 }
.frame { fill: #8c959f22 }
.warm { fill: #8c959f33 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  path { stroke: #4493f8 }
}
"""


def soak(result: Result) -> str:
    """Return the table: for each part and quantity the median, the slope, and the highs."""
    rows = [
        [
            part if quantity == "rss_bytes" else "",
            label,
            f"{verdict['median'] / unit:,.1f}",
            f"{verdict['per_hour'] / unit:+,.2f}",
            *(f"{high / unit:,.1f}" for high in verdict["highs"]),
            f"{verdict['highest'] / unit:,.1f}",
            "yes" if verdict["is_flat"] else "no",
        ]
        for part, of_part in result["verdicts"].items()
        for quantity, (label, unit) in _QUANTITIES.items()
        for verdict in [of_part[quantity]]
    ]
    head = ["process", "of it", "median", "slope, an hour", "90th percentile of the first third"]
    head += ["of the second", "of the last", "highest", "flat"]
    low, high = result["load_1m"]
    text = (
        f"{result['minutes']:g} minutes from {result['began_at']}, the first "
        f"{result['warm_up_s'] / 60:g} of them warm-up; {result['writes']:,} writes, "
        f"{result['writes_per_s']:,.0f}/s of {result['wanted_writes_per_s']:,.0f}/s wanted; load "
        f"{low:.1f} to {high:.1f}. {machine_line(result)}"
    )
    return f"{caption(text)}\n\n{table(head, rows)}"


def picture(result: Result) -> str:
    """Return the SVG: a row for each part, a small chart for each quantity."""
    times_s, warm_up_s = result["times_s"], result["warm_up_s"]
    parts = list(result["series"])
    width = _LEFT + len(_QUANTITIES) * (_WIDTH + _GAP)
    height = _TOP + len(parts) * (_HEIGHT + _GAP) + 14
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
    ]
    for column, (label, _) in enumerate(_QUANTITIES.values()):
        lines.append(f'<text x="{_LEFT + column * (_WIDTH + _GAP)}" y="20">{label}</text>')
    for row, part in enumerate(parts):
        y = _TOP + row * (_HEIGHT + _GAP)
        lines.append(f'<text x="0" y="{y + _HEIGHT / 2 + 4:g}">{part}</text>')
        for column, (quantity, (_, unit)) in enumerate(_QUANTITIES.items()):
            x = _LEFT + column * (_WIDTH + _GAP)
            values = [value / unit for value in result["series"][part][quantity]]
            lines += _chart(x, y, times_s, values, warm_up_s)
    lines.append(
        f'<text class="small" x="{_LEFT}" y="{height - 4}">0 to {times_s[-1] / 60:.0f} minutes; '
        "each chart begins at 0, its number is the highest value; dark: warm-up</text>"
    )
    return "\n".join([*lines, "</svg>", ""])


def _chart(
    x: float, y: float, times_s: Sequence[float], values: Sequence[float], warm_up_s: float
) -> list[str]:
    """Return the elements of one chart."""
    top, end_s = max(*values, 1e-9), times_s[-1]
    points = " ".join(
        f"{x + _WIDTH * at_s / end_s:.1f},{y + _HEIGHT * (1 - value / top):.1f}"
        for at_s, value in zip(times_s, values, strict=True)
    )
    warm = _WIDTH * warm_up_s / end_s
    return [
        f'<rect class="frame" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<rect class="warm" x="{x}" y="{y}" width="{warm:.1f}" height="{_HEIGHT}"/>',
        f'<path d="M{points}"/>',
        f'<text class="small" x="{x + _WIDTH - 2}" y="{y + _HEIGHT - 4}" text-anchor="end">'
        f"{top:,.4g}</text>",
    ]


def main() -> None:
    """Write the table and the picture."""
    result = json.loads((RESULTS_DIR / "soak.json").read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    PAGE.write_text(rewritten(page, "soak", soak(result)), "utf-8")
    PICTURE.write_text(picture(result), "utf-8")


if __name__ == "__main__":
    main()
