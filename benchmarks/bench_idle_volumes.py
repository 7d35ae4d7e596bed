"""Measures what idle volumes cost a node: ten volumes beside ten thousand, of which ten are in use.

    python benchmarks/bench_idle_volumes.py [--volumes 10000] [--rounds 40] [--repeat 5] [--short]

Every volume is written to once. Then, in each round, one command of 500 extents is published for
each of the ten volumes in use. The round ends when the log holds them. Measured in each round are
the time from the commands' acknowledgement to the last watermark, the CPU time of the node, and the
bytes and messages of the changelog. Measured for each node are the resident memory, and the CPU
time and the changelog while nobody writes. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from bench_node import log_line
from cluster import Cluster
from contestants import LOG_FILE, START_S, start_node, wait_recorded
from pinned import PinnedProcess, ProgramFailed, split_cores
from results import machine, report_result
from workload import Publication, Workload, writes

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.heads import Watermark
from mirrorlog.tracking_log.keys import watermark_key

_IN_USE: Final = 10
_EXTENTS: Final = 500
_IDLE_S: Final = 10.0
_DEADLINE_S: Final = 300.0


@dataclass(slots=True)
class NodeFigures:
    """The costs of one run of one node. The figures of rounds are for one round."""

    resident_bytes: int = 0
    peak_bytes: int = 0
    idle_cpu_s_per_s: float = 0.0
    idle_changelog_bytes_per_s: float = 0.0
    flush_s: list[float] = field(default_factory=list)
    round_cpu_s: float = 0.0
    round_changelog_bytes: float = 0.0
    round_changelog_messages: float = 0.0


class Node:
    """A node with `count` volumes, each of which was written to once."""

    def __init__(self, cluster: Cluster, count: int, core: int) -> None:
        self._cluster, self._core = cluster, core
        self._workload = Workload(
            count * _EXTENTS, _EXTENTS, time.time_ns() // 1000, volume_count=count
        )
        # Of its own, with topics of its own: another node may have as many volumes.
        self._folder = Path(tempfile.mkdtemp(prefix=f"volumes-{count}-", dir=cluster.folder))
        self._settings = cluster.settings(
            f"{self._folder.name}.", self._folder / "state", self._workload.partitions
        )
        self._topics = self._settings.topics
        cluster.make_topics(self._settings)
        cluster.describe(self._settings, self._workload.volumes())
        cluster.publish(self._topics.commands, self._workload.publications(), "lz4")
        self._in_use: Sequence[Volume] = self._workload.volumes()[:_IN_USE]
        self._sequence = 1
        self._random = np.random.default_rng(7)
        with self._started() as program:
            wait_recorded(cluster, self._settings, program, self._ends(), _DEADLINE_S)
            _, self.first_peak_bytes = program.resident_bytes()

    def run(self, rounds: int) -> NodeFigures:
        """Start the node, measure it while it is idle, then measure the rounds."""
        measured = NodeFigures()
        with self._started() as program:
            before, began_s = self._changelog_ends(), time.time()
            time.sleep(_IDLE_S)
            ended_s = time.time()
            measured.idle_cpu_s_per_s = (program.cpu_s(ended_s) - program.cpu_s(began_s)) / (
                ended_s - began_s
            )
            measured.idle_changelog_bytes_per_s = self._changelog_since(before)[0] / (
                ended_s - began_s
            )
            before, began_s = self._changelog_ends(), time.time()
            measured.flush_s = [self._round(program) for _ in range(rounds)]
            measured.round_cpu_s = (program.cpu_s(time.time()) - program.cpu_s(began_s)) / rounds
            size_bytes, messages = self._changelog_since(before)
            measured.round_changelog_bytes, measured.round_changelog_messages = (
                size_bytes / rounds,
                messages / rounds,
            )
            measured.resident_bytes, measured.peak_bytes = program.resident_bytes()
        return measured

    def _started(self) -> PinnedProcess:
        program = start_node(self._settings, self._folder / LOG_FILE, self._core)
        program.wait_for_line("ready", START_S)
        return program

    def _round(self, program: PinnedProcess) -> float:
        """Publish a command for each volume in use.

        Return the seconds from the acknowledgement until the log of every partition holds them.
        """
        self._sequence += 1
        now_us = time.time_ns() // 1000
        publications = []
        for volume in self._in_use:
            blocks = self._random.integers(0, volume.blocks, _EXTENTS, dtype=np.uint32)
            command = writes(volume, self._sequence, blocks, (now_us, now_us), None)
            publications.append(
                Publication(
                    volume.partition, volume.volume.encode(), encode(command), now_us // 1000
                )
            )
        before = self._changelog_ends()
        self._cluster.publish(self._topics.commands, publications, "lz4")
        acknowledged_s = time.time()
        ends = self._ends()
        wait_recorded(self._cluster, self._settings, program, ends, _DEADLINE_S)
        appended_us = []
        for message in self._cluster.read(self._settings, self._topics.changelog, before):
            if message.value is None or message.key != watermark_key(message.partition):
                continue
            if decode(message.value, Watermark).through >= ends[message.partition] - 1:
                appended_us.append(message.at_us)
        if not appended_us:
            raise ProgramFailed(
                "the commands of a round are committed, and no watermark covers them"
            )
        return max(appended_us) / 1e6 - acknowledged_s

    def _ends(self) -> dict[int, int]:
        return self._cluster.ends(self._topics.commands)

    def _changelog_ends(self) -> dict[int, int]:
        return self._cluster.ends(self._topics.changelog)

    def _changelog_since(self, positions: dict[int, int]) -> tuple[int, int]:
        """Return the bytes and the messages of the changelog since these positions."""
        sizes = [
            message.size_bytes
            for message in self._cluster.read(self._settings, self._topics.changelog, positions)
        ]
        return sum(sizes), len(sizes)


def figures(node: Node, runs: Sequence[NodeFigures]) -> dict[str, Any]:
    """Return the medians of the runs, and for the flush time the median of all rounds.

    Memory is the maximum of all runs. The peak includes the first fold.
    """
    return {
        "resident_bytes": max(run.resident_bytes for run in runs),
        "peak_bytes": max(node.first_peak_bytes, *(run.peak_bytes for run in runs)),
        "idle_cpu_s_per_s": round(median(run.idle_cpu_s_per_s for run in runs), 4),
        "idle_changelog_bytes_per_s": round(
            median(run.idle_changelog_bytes_per_s for run in runs), 1
        ),
        "flush_s": round(median(second for run in runs for second in run.flush_s), 4),
        "flush_cpu_s": round(median(run.round_cpu_s for run in runs), 4),
        "flush_changelog_bytes": round(median(run.round_changelog_bytes for run in runs)),
        "flush_changelog_messages": round(median(run.round_changelog_messages for run in runs), 1),
    }


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Measure what idle volumes cost a node.")
    parser.add_argument(
        "--volumes", type=int, help="volumes of the large node, with the ten in use (default 10000)"
    )
    parser.add_argument("--rounds", type=int, help="rounds of writes (default 40)")
    parser.add_argument("--repeat", type=int, help="runs of each node (default 5)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="create the folder for the broker's data here; it is removed afterwards",
    )
    parser.add_argument("--short", action="store_true", help="do one run of 5 rounds")
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep a complete result without failures for docs/performance.md",
    )
    return parser.parse_args()


def main() -> int:
    """Return exit code 1 if a node failed."""
    arguments = parse_arguments()
    counts = (_IN_USE, arguments.volumes or 10_000)
    rounds = arguments.rounds or (5 if arguments.short else 40)
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    runs: dict[int, list[NodeFigures]] = {count: [] for count in counts}
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.dir)
            )
        )
        cluster = cleanup.enter_context(Cluster(folder))
        nodes = {count: Node(cluster, count, core) for count in counts}
        for _ in range(arguments.repeat or (1 if arguments.short else 5)):
            for count, node in nodes.items():
                try:
                    runs[count].append(run := node.run(rounds))
                except (ProgramFailed, TimeoutError) as error:
                    log_line(f"FAILED {count} volumes: {error}")
                    failures.append(f"{count} volumes: {error}")
                    continue
                log_line(
                    f"{count:6,} volumes: {run.resident_bytes / 1e6:.0f} MB, "
                    f"idle {run.idle_cpu_s_per_s:.1%} of a core; "
                    f"flush {median(run.flush_s):.3f} s, {run.round_cpu_s:.4f} CPU s, "
                    f"{run.round_changelog_bytes:,.0f} bytes"
                )
    cases = (
        {}
        if failures
        else {
            f"volumes_{count}": figures(nodes[count], of_count) for count, of_count in runs.items()
        }
    )
    result = {
        "bench": "volumes",
        "cases": cases,
        "in_use": _IN_USE,
        "rounds": rounds,
        "failures": failures,
    }
    return report_result(
        {**result, "short": arguments.short, "machine": machine()}, save=arguments.save
    )


if __name__ == "__main__":
    sys.exit(main())
