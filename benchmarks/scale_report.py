"""Writes the tables of docs/scale.md, and draws docs/pictures/scale.svg.

    python benchmarks/scale_report.py

All of it comes from docs/measured/scale.json, which bench_scale.py has kept. The tables go between
`<!-- scale -->` and `<!-- /scale -->`, and between `<!-- together -->` and `<!-- /together -->`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from report import caption, machine_line, rewritten, table
from results import RESULTS_DIR
from scale_model import Model
from scale_resources import AXIS_TEXTS, RESOURCES

PAGE: Final = RESULTS_DIR.parent / "scale.md"
PICTURE: Final = RESULTS_DIR.parent / "pictures" / "scale.svg"
Result = Mapping[str, Any]
_HOSTS, _VOLUMES, _SITES, _WRITES_S, _YEAR_DAYS = 10_000, 10_000, 100, 1e6, 365.0
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _LEFT, _TOP, _COLUMNS = 220, 84, 26, 54, 8, 30, 4
_SAMPLES: Final = 60
_STYLE: Final = """
text { font: 11px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 9px; fill: #59636e }
.frame { fill: #8c959f18 }
.beyond { fill: #8c959f33 }
path { fill: none; stroke: #0969da; stroke-width: 1.3 }
.dashed { stroke-dasharray: 4 3 }
.limit { stroke: #cf222e; stroke-width: 1 }
.point { fill: #0969da }
.predicted { fill: none; stroke: #bc4c00; stroke-width: 1.3 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  path { stroke: #4493f8 }
  .point { fill: #4493f8 }
  .limit { stroke: #f85149 }
  .predicted { stroke: #f0883e }
}
"""


def short(value: float) -> str:
    """Return a number in three digits, with k, M, G, T or P."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def model_of(case: Mapping[str, Any]) -> Model:
    """Return the model of a resource of a kept result."""
    return Model(case["shape"], case["base"], case["slope"])


def _cases(result: Result) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (axis, resource, case)."""
    for axis, resources in result["cases"].items():
        for name, case in resources.items():
            yield axis, name, case


def scale(result: Result) -> str:
    """Return the table: for each resource the check of its model, and where it runs out."""
    rows, before = [], ""
    for axis, name, case in _cases(result):
        text, held = AXIS_TEXTS[axis], case["held_out"]
        at, limit = case["runs_out_at"], case["limit"]
        rows.append(
            [
                "" if axis == before else text.label,
                RESOURCES[axis][name].label,
                f"{short(held['measured'])} at {short(held['x'])}",
                f"{short(held['predicted'])} ({held['error']:+.0%})",
                f"*{short(case['at_largest'])} at {short(text.largest)}*",
                "–" if limit is None else short(limit),
                "–" if limit is None else f"*{short(at)}*" if at else f"*> {short(text.largest)}*",
            ]
        )
        before = axis
    head = ["axis", "resource", "largest measured", "predicted without it"]
    head += ["*extrapolated*", "there is", "*used up at*"]
    text = (
        f"Medians of {result['repeat']}, load {result['load_1m']:.1f} before. "
        f"{machine_line(result)}"
    )
    return f"{caption(text)}\n\n{table(head, rows)}"


def together(result: Result) -> str:
    """Return the table of 10,000 hosts, 1 PB and 100 sites. All of it is extrapolated."""
    cases = result["cases"]

    def at(axis: str, name: str, x: float) -> float:
        return model_of(cases[axis][name]).at(x)

    changelog = at("writes", "changelog_bytes_s", _WRITES_S)
    commands = at("writes", "commands_bytes_s", _WRITES_S)
    # The axis has a tenth of the writes, to a tenth of the blocks.
    table_bytes = at("days", "table_bytes", _YEAR_DAYS) * _VOLUMES * 10
    rows = [
        ["CPU of all workers of the node, cores", at("writes", "node_cpu_cores", _WRITES_S)],
        ["memory of one worker, bytes", at("volumes", "node_memory_bytes", _VOLUMES)],
        ["commands to Kafka, bytes/s", commands],
        ["commands of a day, bytes, before replication", commands * 86_400],
        ["changelog to Kafka, bytes/s", changelog],
        ["changelog to all sites, bytes/s", changelog * _SITES],
        ["blocks that a site reads and writes, bytes/s, at most", _WRITES_S * 4096],
        ["blocks that all sites read from primaries, bytes/s, at most", _WRITES_S * 4096 * _SITES],
        ["tables of all volumes after a year, bytes", table_bytes],
    ]  # fmt: skip
    shown = [[str(label), f"*{short(float(value))}*"] for label, value in rows]
    return table(["all of it is extrapolated", "takes"], shown)


@dataclass(frozen=True, slots=True)
class _Panel:
    """One chart, with logarithmic scales: where it is, and what its sides stand for."""

    left: float
    top: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        """Return the horizontal place of x."""
        low, high = map(math.log10, self.x)
        return self.left + _WIDTH * (math.log10(x) - low) / (high - low)

    def down(self, y: float) -> float:
        """Return the vertical place of y."""
        low, high = map(math.log10, self.y)
        share = (math.log10(max(y, self.y[0])) - low) / (high - low)
        return self.top + _HEIGHT * (1 - min(share, 1.0))

    def line(self, model: Model, begin: float, end: float) -> str:
        """Return the path of the model between two sizes."""
        sizes = [begin * (end / begin) ** (step / _SAMPLES) for step in range(_SAMPLES + 1)]
        return "M" + " ".join(f"{self.across(x):.1f},{self.down(model.at(x)):.1f}" for x in sizes)


def picture(result: Result) -> str:
    """Return the SVG: a chart for each resource, measured and extrapolated."""
    charts: list[str] = []
    row, column, before = -1, _COLUMNS, ""
    for axis, name, case in _cases(result):
        column = 0 if axis != before else column + 1
        row += axis != before
        before = axis
        left = _LEFT + column * (_WIDTH + _GAP_X)
        charts += _chart(left, _TOP + row * (_HEIGHT + _GAP_Y), axis, name, case)
    width = 2 * _LEFT + _COLUMNS * (_WIDTH + _GAP_X) - _GAP_X
    height = _TOP + (row + 1) * (_HEIGHT + _GAP_Y) + 4
    note = (
        "both scales are logarithmic; dots: measured; ring: predicted for the largest dot without "
        "it; dashed, on the darker ground: extrapolated; red: how much there is"
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        *charts,
        f'<text class="small" x="{_LEFT}" y="{height - 6}">{note}</text>',
    ]
    return "\n".join([*lines, "</svg>", ""])


def _chart(left: float, top: float, axis: str, name: str, case: Mapping[str, Any]) -> list[str]:
    """Return the elements of the chart of one resource."""
    points, model, limit = case["points"], model_of(case), case["limit"]
    first, last = points[0][0], points[-1][0]
    largest = max(AXIS_TEXTS[axis].largest, last)
    values = [y for _, y in points] + [model.at(largest)] + ([limit] if limit else [])
    panel = _Panel(left, top, (first, largest), (min(values) / 2, max(values) * 2))
    beyond, right = panel.across(last), left + _WIDTH
    lines = [
        f'<text x="{left}" y="{top - 6}">{RESOURCES[axis][name].label}</text>',
        f'<rect class="frame" x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<rect class="beyond" x="{beyond:.1f}" y="{top}" width="{right - beyond:.1f}" '
        f'height="{_HEIGHT}"/>',
        f'<path d="{panel.line(model, first, last)}"/>',
    ]
    if largest > last:
        lines.append(f'<path class="dashed" d="{panel.line(model, last, largest)}"/>')
        lines.append(
            f'<text class="small" x="{right - 3}" y="{panel.down(model.at(largest)) - 4:.1f}" '
            f'text-anchor="end">{short(model.at(largest))} extrapolated</text>'
        )
    if limit:
        lines.append(f'<path class="limit" d="M{left},{panel.down(limit):.1f} h{_WIDTH}"/>')
    lines += [
        f'<circle class="point" cx="{panel.across(x):.1f}" cy="{panel.down(y):.1f}" r="2.5"/>'
        for x, y in points
    ]
    held = case["held_out"]
    at = f'cx="{panel.across(held["x"]):.1f}" cy="{panel.down(held["predicted"]):.1f}"'
    label = f"{short(first)} to {short(largest)} {AXIS_TEXTS[axis].label}"
    return [
        *lines,
        f'<circle class="predicted" {at} r="4.5"/>',
        f'<text class="small" x="{left}" y="{top + _HEIGHT + 12}">{label}</text>',
    ]


def main() -> None:
    """Write the tables and the picture."""
    result = json.loads((RESULTS_DIR / "scale.json").read_text("utf-8"))
    page = rewritten(PAGE.read_text("utf-8"), "scale", scale(result))
    PAGE.write_text(rewritten(page, "together", together(result)), "utf-8")
    PICTURE.write_text(picture(result), "utf-8")


if __name__ == "__main__":
    main()
