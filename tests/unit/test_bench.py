"""The benchmarks compute rightly: the workload, the check of a fold, and the medians."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mirrorlog.codec.events import decode
from mirrorlog.domain.commands import CommandKind, TrackingCommand

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Yield the modules of benchmarks/, which is no package: its scripts are run by path."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report
    import results
    import workload

    yield SimpleNamespace(report=report, results=results, workload=workload)


def test_commands_are_a_hosts_and_name_what_the_independent_fold_holds(
    bench: SimpleNamespace,
) -> None:
    work = bench.workload.Workload(
        600, 10, 10**15, partitions=3, volume_count=4, volume_bytes=1 << 20
    )
    sent = [
        (publication.partition, decode(publication.value, TrackingCommand))
        for publication in work.publications()
    ]
    positions = dict.fromkeys(range(3), 0)
    named: dict[str, set[int]] = {}
    for partition, command in sent:
        assert (command.acknowledged_position or -1) < positions[partition]
        positions[partition] += 1
        named.setdefault(command.volume, set()).update((command.extents.offsets // 4096).tolist())
    assert positions == work.ends()
    assert {volume: sorted(blocks) for volume, blocks in named.items()} == {
        volume: blocks.tolist() for volume, blocks in work.folded().items()
    }
    first = [command for _, command in sent if command.volume == "vol-00"]
    assert [command.sequence for command in first] == list(range(work.commands_per_volume + 1))
    assert [command.kind for command in first[:2]] == [CommandKind.SESSION_OPEN, CommandKind.WRITES]
    assert sum(len(command.extents) for _, command in sent) == work.extents == 600


def test_a_wrong_fold_is_found(bench: SimpleNamespace) -> None:
    blocks = np.array([1, 5, 9], np.uint32)
    differences = bench.workload.differences
    assert differences({"a": blocks}, {"a": blocks.copy()}) == []
    assert differences({"a": blocks}, {"a": blocks[1:]}) == ["a: 1 blocks missing, 0 too many"]
    assert differences({"a": blocks[1:]}, {"a": blocks}) == ["a: 0 blocks missing, 1 too many"]
    assert differences({"a": blocks}, {}) == ["a: 3 blocks missing, 0 too many"]
    assert differences({}, {"b": blocks}) == ["b: a volume that isn't there"]


def test_figures_are_medians_and_ratios_of_medians(bench: SimpleNamespace) -> None:
    def run(elapsed_s: float, cpu_s: float) -> object:
        return bench.results.Run(extents=2_000_000, elapsed_s=elapsed_s, cpu_s=cpu_s, start_s=1)

    cases = bench.results.figures({"a": [run(1, 1), run(4, 3), run(2, 2)], "b": [run(4, 1)]})
    assert cases["a"] == {"median": 1e6, "unit": "extents/s", "runs": [2e6, 5e5, 1e6]}
    assert cases["a_cpu_s_per_million"] == {"median": 1.0, "unit": "s", "runs": [0.5, 1.5, 1.0]}
    assert bench.results.ratios(cases, "a", ["b", "c"]) == {
        "a_to_b": 2.0,
        "a_to_b_cpu_s_per_million": 2.0,
    }


def test_the_report_replaces_its_part_and_nothing_else(bench: SimpleNamespace) -> None:
    page = "before\n<!-- node -->\nold\n<!-- /node -->\nafter\n"
    assert (
        bench.report.rewritten(page, "node", r"new \1")
        == "before\n<!-- node -->\nnew \\1\n<!-- /node -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no part <!-- other -->"):
        bench.report.rewritten(page, "other", "x")
