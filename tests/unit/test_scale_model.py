"""The model of growth: it finds known coefficients, and is checked by a point it hasn't seen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mirrorlog.domain.bitmaps import BlockSet, pack

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the modules of bench_scale.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_scale
    import scale_model
    import scale_report
    import scale_resources

    return SimpleNamespace(
        bench=bench_scale, model=scale_model, report=scale_report, resources=scale_resources
    )


@pytest.mark.parametrize("shape", ["linear", "containers"])
def test_known_coefficients_are_found(scale: SimpleNamespace, shape: str) -> None:
    known = scale.model.Model(shape, 2.0, 8.0)
    points = [scale.model.Point(x, known.at(x)) for x in (1e9, 1e10, 1e11, 1e13)]
    model = scale.model.fit(points, shape)
    assert (model.base, model.slope) == pytest.approx((2.0, 8.0))
    assert scale.model.check(points, shape).error == pytest.approx(0)


# the base would be below zero | the resource would get cheaper
@pytest.mark.parametrize("values", [(1, 3, 5), (9, 9, 1)])
def test_no_coefficient_is_negative(scale: SimpleNamespace, values: tuple[int, ...]) -> None:
    points = [scale.model.Point(x + 1.0, y) for x, y in enumerate(values)]
    model = scale.model.fit(points, "linear")
    assert min(model.base, model.slope) == 0
    assert max(model.base, model.slope) > 0


def test_the_largest_point_is_predicted_by_the_others_alone(scale: SimpleNamespace) -> None:
    points = [scale.model.Point(x, y) for x, y in [(4, 80), (1, 10), (2, 20)]]
    checked = scale.model.check(points, "linear")
    assert (checked.point, checked.predicted) == ((4, 80), pytest.approx(40))
    assert checked.error == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="two sizes"):
        scale.model.check(points[1:], "linear")


def test_where_a_resource_is_used_up(scale: SimpleNamespace) -> None:
    model = scale.model.Model("linear", 10.0, 2.0)
    assert model.reaches(50, up_to=100) == pytest.approx(20)
    assert model.reaches(500, up_to=100) is None


def test_the_shape_of_a_bitmap_is_that_of_real_ones(scale: SimpleNamespace) -> None:
    random, writes = np.random.default_rng(3), scale.model.RECORD_WRITES
    for size_bytes in (1 << 34, 1 << 38, 1 << 42):
        blocks = random.integers(0, size_bytes // 4096, writes, dtype=np.uint64)
        in_bytes = pack(BlockSet(blocks.tolist())).size_bytes / writes
        assert 2 + 8 * scale.model.containers(size_bytes) == pytest.approx(in_bytes, rel=0.02)


def test_the_report_says_what_is_extrapolated(scale: SimpleNamespace) -> None:
    points = [scale.model.Point(x, 3 + x / 1e4) for x in (1e3, 1e4, 1e5)]
    cases = {
        axis: {
            name: scale.bench.modelled(resource, points, scale.resources.AXIS_TEXTS[axis].largest)
            for name, resource in resources.items()
        }
        for axis, resources in scale.resources.RESOURCES.items()
    }
    software = ("kafka", "java", "python", "numpy", "pyroaring", "aiokafka")
    on = dict.fromkeys([*software, "cpu", "cores", "memory_gib", "system"], "x")
    result = json.loads(json.dumps({"cases": cases, "repeat": 1, "load_1m": 0.5, "machine": on}))
    row = next(line for line in scale.report.scale(result).splitlines() if "node, cores" in line)
    assert "13 at 100 k | 13 (+0%) | *103 at 1 M*" in row
    picture = scale.report.picture(result)
    assert picture.count('class="point"') == 3 * sum(map(len, cases.values()))
    assert "103 extrapolated" in picture and "nan" not in picture
    together = scale.report.together(result)
    assert all(line.rstrip(" |").endswith("*") for line in together.splitlines()[2:])
