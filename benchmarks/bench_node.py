"""How fast commands become a log, side by side: the limits, the node, Kafka Streams and quixstreams.

    python benchmarks/bench_node.py [--extents 100M] [--repeat 5] [--cases node_500,kafka_streams_500] [--short]

Every program folds the same commands from the same topic on the same core, all of its threads on it; the broker and this
bench are on the others. The commands are in the topic before the clock starts. What comes out is compared with an
independent fold, block by block: a difference fails the bench. The last line of stdout is one JSON object; all else is on
stderr. docs/performance.md says what is measured, and report.py writes the table in it.
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
from contestants import Arena, Contestant
from pinned import ProgramFailed, split_cores
from results import Run, figures, finish, machine, ratios
from workload import Blocks, Workload, differences


@dataclass(frozen=True, slots=True)
class Case:
    """What is run under a name."""

    extents_per_command: int
    contestant: Callable[[], Contestant]


CASES: Final[Mapping[str, Case]] = {
    "consume": Case(500, lambda: contestants.Limit("consume")),
    "decode": Case(500, lambda: contestants.Limit("decode")),
    "fold": Case(500, lambda: contestants.Limit("fold")),
    "node_500": Case(500, contestants.NodeUnderTest),
    "node_1": Case(1, contestants.NodeUnderTest),
    "kafka_streams_500": Case(500, lambda: contestants.kafka_streams("plain")),
    "kafka_streams_tuned_500": Case(500, lambda: contestants.kafka_streams("tuned")),
    "quixstreams_500": Case(500, contestants.quixstreams),
    "kafka_streams_windowed_500": Case(500, lambda: contestants.kafka_streams("windowed")),
}
_ONLY_WHEN_ASKED: Final = {"kafka_streams_windowed_500"}
_COMPARED: Final = {
    "node_500": ("fold", "kafka_streams_500", "kafka_streams_tuned_500", "quixstreams_500"),
}


def say(text: str) -> None:
    """For people."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def number(text: str) -> int:
    """`100M` → 100,000,000."""
    units = {"k": 10**3, "M": 10**6, "G": 10**9}
    return round(float(text[:-1]) * units[text[-1]]) if text[-1:] in units else int(text)


@dataclass(frozen=True, slots=True)
class Given:
    """What was asked for."""

    extents: int
    single_extents: int
    repeat: int
    cases: Sequence[str]
    compression: str
    folder: Path | None
    short: bool
    save: bool


def given_by(arguments: Sequence[str]) -> Given:
    """The command line, read."""
    usual = [name for name in CASES if name not in _ONLY_WHEN_ASKED]
    parser = argparse.ArgumentParser(
        description="How fast commands become a log, side by side with peers."
    )
    parser.add_argument(
        "--extents", type=number, help="of the cases with 500 a command (default 100M)"
    )
    parser.add_argument(
        "--single-extents", type=number, help="of those with one a command (default: a fiftieth)"
    )
    parser.add_argument("--repeat", type=int, help="runs of each case (default 5)")
    parser.add_argument("--cases", default=",".join(usual), help=f"some of {','.join(CASES)}")
    parser.add_argument(
        "--compression", default="lz4", help="of the commands (default lz4, as hosts do)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="where the folder with the broker's data is made; removed afterwards",
    )
    parser.add_argument("--short", action="store_true", help="a quick look: 2M extents, once")
    parser.add_argument(
        "--save", action="store_true", help="keep a good, full result for docs/performance.md"
    )
    found = parser.parse_args(arguments)
    cases = found.cases.split(",")
    if unknown := set(cases) - set(CASES):
        parser.error(f"unknown cases: {', '.join(sorted(unknown))}")
    extents = found.extents or (2_000_000 if found.short else 100_000_000)
    single = found.single_extents or max(extents // 50, 16)
    repeat = found.repeat or (1 if found.short else 5)
    return Given(
        extents, single, repeat, cases, found.compression, found.dir, found.short, found.save
    )


class Bench:
    """All runs of all cases on one broker."""

    def __init__(self, given: Given, cluster: Cluster, core: int) -> None:
        self._given, self._cluster, self._core = given, cluster, core
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.failures: list[str] = []
        self._arenas: dict[int, Arena] = {}
        self._expected: dict[int, dict[str, Blocks]] = {}

    def prepare(self, cases: Sequence[str]) -> None:
        """Publishes the commands, of each size that a case asks for."""
        for size in sorted({CASES[name].extents_per_command for name in cases}):
            wanted = self._given.extents if size > 1 else self._given.single_extents
            workload = Workload(wanted, size, ended_at_us=time.time_ns() // 1000)
            settings = self._cluster.settings(
                f"bench-{size}.", self._cluster.folder / f"node-{size}", workload.partitions
            )
            self._cluster.make_topics(settings)
            self._cluster.describe(settings, workload.volumes())
            say(f"publishing {workload.extents:,} extents, {size} a command")
            self._cluster.publish(
                settings.topics.commands, workload.publications(), self._given.compression
            )
            ends = self._cluster.ends(settings.topics.commands)
            assert ends == workload.ends(), f"the topic ends at {ends}, not at {workload.ends()}"
            self._expected[size] = workload.folded()
            self._arenas[size] = Arena(self._cluster, settings, workload, self._core)

    def run(self, cases: Sequence[str]) -> None:
        """Case after case, again and again: what drifts on this machine hits all alike."""
        for repeat in range(self._given.repeat):
            for name in cases:
                try:
                    self._run(name, f"{name}-{repeat + 1}")
                except (ProgramFailed, TimeoutError) as error:
                    self._fail(f"{name}-{repeat + 1}: {error}")

    def _run(self, name: str, run_name: str) -> None:
        case = CASES[name]
        folder = self._cluster.folder / run_name
        folder.mkdir()
        outcome = case.contestant().run(self._arenas[case.extents_per_command], folder)
        run = outcome.run
        say(
            f"{run_name:26} {run.extents_per_s:12,.0f} extents/s {run.cpu_s_per_million:8.4f} CPU s per million; "
            f"{run.elapsed_s:.2f} s, after {run.start_s:.1f} s to start"
        )
        expected = self._expected[case.extents_per_command]
        if outcome.folded is not None and (said := differences(expected, outcome.folded)):
            self._fail(f"{run_name} folded something else than was written: {'; '.join(said[:4])}")
            return
        self.runs[name].append(run)
        shutil.rmtree(folder)

    def _fail(self, what: str) -> None:
        say(f"FAILED {what}")
        self.failures.append(what)


def there(cases: Sequence[str]) -> tuple[list[str], list[str]]:
    """The cases whose programs are there, and those whose aren't; it is said why, loudly."""
    reasons = {name: CASES[name].contestant().missing() for name in cases}
    for name, reason in reasons.items():
        if reason:
            say(f"######## SKIPPED {name}: {reason}")
    return [name for name in cases if not reasons[name]], [name for name in cases if reasons[name]]


def main() -> int:
    """1 where a program failed, or folded something else than was written."""
    given = given_by(sys.argv[1:])
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    cases, skipped = there(given.cases)
    load_before = os.getloadavg()[0]
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=given.folder)
            )
        )
        bench = Bench(given, cleanup.enter_context(Cluster(folder)), core)
        bench.prepare(cases)
        bench.run(cases)
        if bench.failures and (kept := sorted(folder.glob(f"*/{contestants.LOG_FILE}"))):
            say(
                "\n".join(
                    f"--- {path.parent.name}\n{path.read_text('utf-8', 'replace')[-3000:]}"
                    for path in kept
                )
            )
    found = figures(bench.runs)
    compared = [ratios(found, of, to) for of, to in _COMPARED.items()]
    result = {
        "bench": "node",
        "cases": found,
        "ratios": {name: value for each in compared for name, value in each.items()},
        "extents": given.extents,
        "single_extents": given.single_extents,
        "repeat": given.repeat,
        "short": given.short,
        "compression": given.compression,
        "skipped": skipped,
        "failures": bench.failures,
        "load_before": round(load_before, 2),
        "machine": machine(),
    }
    return finish(result, save=given.save)


if __name__ == "__main__":
    sys.exit(main())
