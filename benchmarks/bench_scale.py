"""Measures growth on five axes, each on its own, and models what doesn't fit on this machine.

    python benchmarks/bench_scale.py [--cases writes,volumes,size,sites,days] [--repeat 1] [--short]

- writes: hosts of 100 writes/s each, in commands of 10 extents, publish to a node for some seconds.
- volumes: a node whose volumes were all written to once, and ten of which are in use.
- size: the records of a volume of that size, of random writes: of a flush, and of a day.
- sites: readers follow the changelog of 20 hosts, as sites do; they copy nothing.
- days: records of so many days of one volume, and the union of all of them.

scale_axes.py has the sizes. For each resource, a model is fitted to the medians (scale_model.py).
The same model without the largest point predicts that point, and the error is reported. Whatever
lies beyond the largest point is extrapolated: no machine here has done it. The hosts' own requests
to Kafka aren't measured: one client publishes for all of them.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench_node import log_line
from case_options import add_case_options, chosen_cases, data_folder
from cluster import Cluster
from pinned import ProgramFailed, split_cores
from results import machine, report_result
from scale_axes import AXES, Stage
from scale_model import Point, check, fit
from scale_resources import AXIS_TEXTS, RESOURCES, Resource


def modelled(resource: Resource, points: Sequence[Point], largest: float) -> dict[str, Any]:
    """Return the points of a resource, its model, the model's check, and where it runs out.

    largest: the size up to which the model is asked.
    """
    model, checked = fit(points, resource.shape), check(points, resource.shape)
    limit = resource.limit
    return {
        "points": [list(point) for point in points],
        "shape": model.shape,
        "base": model.base,
        "slope": model.slope,
        "held_out": {
            "x": checked.point.x,
            "measured": checked.point.y,
            "predicted": checked.predicted,
            "error": round(checked.error, 4),
        },
        "limit": limit,
        "runs_out_at": None if limit is None else model.reaches(limit, up_to=largest),
        "at_largest": model.at(largest),
    }


def measure(stage: Stage, name: str, sizes: Sequence[float], repeat: int) -> dict[str, list[Point]]:
    """Return the medians of an axis: the points of each resource."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(repeat):
        for size in sizes:
            figures = AXES[name].measure(Stage(stage.cluster, stage.core, number), size)
            for resource, value in figures.items():
                values[resource][size].append(value)
            shown = "  ".join(f"{key} {value:,.4g}" for key, value in figures.items())
            log_line(f"{name} {size:,.0f}: {shown}")
    return {
        resource: [Point(size, median(of_size)) for size, of_size in by_size.items()]
        for resource, by_size in values.items()
    }


def _told(name: str, cases: Mapping[str, Any]) -> None:
    """Print what the models of an axis say."""
    for resource, case in cases.items():
        held = case["held_out"]
        log_line(
            f"{name} {resource}: {held['measured']:,.4g} at {held['x']:,.0f}, predicted "
            f"{held['predicted']:,.4g} without it ({held['error']:+.1%})"
        )


def main() -> int:
    """Return exit code 1 if an axis failed."""
    parser = argparse.ArgumentParser(description="Measure growth, and model what doesn't fit here.")
    add_case_options(parser, AXES, short="three small sizes of each axis, once")
    parser.set_defaults(repeat=1)
    arguments = parser.parse_args()
    names = chosen_cases(parser, arguments, AXES)
    repeat = 1 if arguments.short else arguments.repeat
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    load = os.getloadavg()[0]
    failures: list[str] = []
    cases: dict[str, dict[str, Any]] = {}
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(data_folder(arguments))
        stage = Stage(cleanup.enter_context(Cluster(folder)), core)
        for name in names:
            sizes = AXES[name].short if arguments.short else AXES[name].sizes
            try:
                points = measure(stage, name, sizes, repeat)
            except (ProgramFailed, TimeoutError) as error:
                log_line(f"FAILED {name}: {error}")
                failures.append(f"{name}: {error}")
                continue
            cases[name] = {
                resource: modelled(RESOURCES[name][resource], of, AXIS_TEXTS[name].largest)
                for resource, of in points.items()
            }
            _told(name, cases[name])
    result = {
        "bench": "scale",
        "cases": cases,
        "repeat": repeat,
        "load_1m": round(load, 2),
        "failures": failures,
        "short": arguments.short,
        "machine": machine(),
    }
    return report_result(result, save=arguments.save and set(names) == set(AXES))


if __name__ == "__main__":
    sys.exit(main())
