"""Measures how fast the node folds commands into the log, beside the limits and two peers.

    python benchmarks/bench_node.py [--extents 100M] [--repeat 5]
                                    [--cases node_500,kafka_streams_500] [--short]

The peers are Kafka Streams and quixstreams. Every program folds the same commands from the same
topic, with all of its threads on the same core. The broker and this benchmark run on the other
cores. The commands are in the topic before the clock starts. The result is compared with an
independent fold, block by block, and a difference fails the benchmark. The last line of stdout is
one JSON object; all other output is on stderr. docs/performance.md says what is measured, and
report.py writes its table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import contestants
from cluster import Cluster
from contestants import Contestant, TestBed
from pinned import ProgramFailed, split_cores
from results import Run, figures, machine, ratios, report_result
from workload import Blocks, Workload, differences


@dataclass(frozen=True, slots=True)
class Case:
    """A case: a program, and the size of the commands that it folds."""

    extents_per_command: int
    contestant: Callable[[], Contestant]


CASES: Final[Mapping[str, Case]] = {
    "consume": Case(500, lambda: contestants.LimitStep("consume")),
    "decode": Case(500, lambda: contestants.LimitStep("decode")),
    "fold": Case(500, lambda: contestants.LimitStep("fold")),
    "node_500": Case(500, contestants.NodeUnderTest),
    "node_1": Case(1, contestants.NodeUnderTest),
    "node_500_chained": Case(500, lambda: contestants.NodeUnderTest(chained=True)),
    "node_1_chained": Case(1, lambda: contestants.NodeUnderTest(chained=True)),
    "kafka_streams_500": Case(500, lambda: contestants.kafka_streams("plain")),
    "kafka_streams_tuned_500": Case(500, lambda: contestants.kafka_streams("tuned")),
    "quixstreams_500": Case(500, contestants.quixstreams),
    "kafka_streams_windowed_500": Case(500, lambda: contestants.kafka_streams("windowed")),
}
_NOT_BY_DEFAULT: Final = {"kafka_streams_windowed_500", "node_500_chained", "node_1_chained"}
_COMPARED: Final = {
    "node_500_chained": ("node_500",),
    "node_1_chained": ("node_1",),
    "node_500": ("fold", "kafka_streams_500", "kafka_streams_tuned_500", "quixstreams_500"),
}


def log_line(text: str) -> None:
    """Print a line with the time on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def parse_count(text: str) -> int:
    """Return the number that `text` stands for: 100,000,000 for `100M`."""
    units = {"k": 10**3, "M": 10**6, "G": 10**9}
    return round(float(text[:-1]) * units[text[-1]]) if text[-1:] in units else int(text)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of the command line."""

    extents: int
    single_extents: int
    repeat: int
    cases: Sequence[str]
    compression: str
    folder: Path | None
    short: bool
    save: bool


def parse_arguments(arguments: Sequence[str]) -> Arguments:
    """Return the arguments of the command line."""
    default_cases = [name for name in CASES if name not in _NOT_BY_DEFAULT]
    parser = argparse.ArgumentParser(
        description="How fast commands become a log, side by side with peers."
    )
    parser.add_argument(
        "--extents",
        type=parse_count,
        help="extents of the cases with 500 extents a command (default 100M)",
    )
    parser.add_argument(
        "--single-extents",
        type=parse_count,
        help="extents of the cases with one extent a command (default: a fiftieth)",
    )
    parser.add_argument("--repeat", type=int, help="runs of each case (default 5)")
    parser.add_argument(
        "--cases", default=",".join(default_cases), help=f"run these of {','.join(CASES)}"
    )
    parser.add_argument(
        "--compression",
        default="lz4",
        help="compression of the commands (default lz4, as hosts do)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="create the folder for the broker's data here; it is removed afterwards",
    )
    parser.add_argument("--short", action="store_true", help="run once, with 2M extents")
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep a complete result without failures for docs/performance.md",
    )
    parsed = parser.parse_args(arguments)
    cases = parsed.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    extents = parsed.extents or (2_000_000 if parsed.short else 100_000_000)
    single = parsed.single_extents or max(extents // 50, 16)
    repeat = parsed.repeat or (1 if parsed.short else 5)
    return Arguments(
        extents, single, repeat, cases, parsed.compression, parsed.dir, parsed.short, parsed.save
    )


class Bench:
    """Runs all cases on one broker, and keeps the results."""

    def __init__(self, arguments: Arguments, cluster: Cluster, core: int) -> None:
        self._arguments, self._cluster, self._core = arguments, cluster, core
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.failures: list[str] = []
        self._test_beds: dict[int, TestBed] = {}
        self._expected: dict[int, dict[str, Blocks]] = {}

    def prepare(self, cases: Sequence[str]) -> None:
        """Publish commands of each size that the cases need."""
        for size in sorted({CASES[name].extents_per_command for name in cases}):
            wanted = self._arguments.extents if size > 1 else self._arguments.single_extents
            workload = Workload(wanted, size, ended_at_us=time.time_ns() // 1000)
            settings = self._cluster.settings(
                f"bench-{size}.", self._cluster.folder / f"node-{size}", workload.partitions
            )
            self._cluster.make_topics(settings)
            self._cluster.describe(settings, workload.volumes())
            log_line(f"publishing {workload.extents:,} extents, {size} a command")
            self._cluster.publish(
                settings.topics.commands, workload.publications(), self._arguments.compression
            )
            ends = self._cluster.ends(settings.topics.commands)
            assert ends == workload.ends(), f"the topic ends at {ends}, not at {workload.ends()}"
            self._expected[size] = workload.folded()
            self._test_beds[size] = TestBed(self._cluster, settings, workload, self._core)

    def run(self, cases: Sequence[str]) -> None:
        """Run all cases, and repeat that.

        A drift of the machine then affects all cases alike.
        """
        for repeat in range(self._arguments.repeat):
            for name in cases:
                try:
                    self._run(name, f"{name}-{repeat + 1}")
                except (ProgramFailed, TimeoutError) as error:
                    self._fail(f"{name}-{repeat + 1}: {error}")

    def _run(self, name: str, run_name: str) -> None:
        case = CASES[name]
        folder = self._cluster.folder / run_name
        folder.mkdir()
        outcome = case.contestant().run(self._test_beds[case.extents_per_command], folder)
        run = outcome.run
        log_line(
            f"{run_name:26} {run.extents_per_s:12,.0f} extents/s "
            f"{run.cpu_s_per_million:8.4f} CPU s per million; "
            f"{run.elapsed_s:.2f} s, after {run.start_s:.1f} s to start"
        )
        expected = self._expected[case.extents_per_command]
        if outcome.folded is not None and (problems := differences(expected, outcome.folded)):
            self._fail(
                f"{run_name} folded something else than was written: {'; '.join(problems[:4])}"
            )
            return
        self.runs[name].append(run)
        shutil.rmtree(folder)

    def _fail(self, what: str) -> None:
        log_line(f"FAILED {what}")
        self.failures.append(what)


def runnable(cases: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the cases that can run here and those that can't, and print why they can't."""
    reasons = {name: CASES[name].contestant().missing() for name in cases}
    for name, reason in reasons.items():
        if reason:
            log_line(f"######## SKIPPED {name}: {reason}")
    return [name for name in cases if not reasons[name]], [name for name in cases if reasons[name]]


def main() -> int:
    """Return exit code 1 if a program failed, or folded something else than was written."""
    arguments = parse_arguments(sys.argv[1:])
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    cases, skipped = runnable(arguments.cases)
    load_before = os.getloadavg()[0]
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.folder)
            )
        )
        bench = Bench(arguments, cleanup.enter_context(Cluster(folder)), core)
        bench.prepare(cases)
        bench.run(cases)
        if bench.failures and (log_files := sorted(folder.glob(f"*/{contestants.LOG_FILE}"))):
            log_line(
                "\n".join(
                    f"--- {path.parent.name}\n{path.read_text('utf-8', 'replace')[-3000:]}"
                    for path in log_files
                )
            )
    cases_measured = figures(bench.runs)
    all_ratios: dict[str, float] = {}
    for name, others_compared in _COMPARED.items():
        all_ratios |= ratios(cases_measured, name, others_compared)
    result = {
        "bench": "node",
        "cases": cases_measured,
        "ratios": all_ratios,
        "extents": arguments.extents,
        "single_extents": arguments.single_extents,
        "repeat": arguments.repeat,
        "short": arguments.short,
        "compression": arguments.compression,
        "skipped": skipped,
        "failures": bench.failures,
        "load_before": round(load_before, 2),
        "machine": machine(),
    }
    return report_result(result, save=arguments.save)


if __name__ == "__main__":
    sys.exit(main())
