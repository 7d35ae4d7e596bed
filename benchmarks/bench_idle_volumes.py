"""What volumes cost that nobody writes to: a node with ten volumes beside one with ten thousand, ten of them in use.

    python benchmarks/bench_idle_volumes.py [--volumes 10000] [--rounds 40] [--repeat 5] [--short]

Every volume is written to once. Then, round after round, one command of 500 extents comes for each of the ten volumes in use,
and the round is over when the log holds them. Measured for each round: from the commands' acknowledgement to the last
watermark, CPU time of the node, bytes and messages of changelog. Measured for each node: resident memory, and CPU time and
changelog while nobody writes. The last line of stdout is one JSON object.
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
from bench_node import say
from cluster import Cluster
from contestants import LOG_FILE, START_S, start_node, wait_recorded
from pinned import Pinned, ProgramFailed, split_cores
from results import finish, machine
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
class Measured:
    """What one run of one node took; of rounds, each."""

    resident_bytes: int = 0
    peak_bytes: int = 0
    idle_cpu_s_per_s: float = 0.0
    idle_changelog_bytes_per_s: float = 0.0
    flush_s: list[float] = field(default_factory=list)
    round_cpu_s: float = 0.0
    round_changelog_bytes: float = 0.0
    round_changelog_messages: float = 0.0


class Node:
    """A node with so many volumes, each written to once."""

    def __init__(self, cluster: Cluster, count: int, core: int) -> None:
        self._cluster, self._core = cluster, core
        self._workload = Workload(
            count * _EXTENTS, _EXTENTS, time.time_ns() // 1000, volume_count=count
        )
        self._folder = cluster.folder / f"volumes-{count}"
        self._folder.mkdir()
        self._settings = cluster.settings(
            f"volumes-{count}.", self._folder / "state", self._workload.partitions
        )
        self._topics = self._settings.topics
        cluster.make_topics(self._settings)
        cluster.describe(self._settings, self._workload.volumes())
        cluster.publish(self._topics.commands, self._workload.publications(), "lz4")
        self._in_use: Sequence[Volume] = self._workload.volumes()[:_IN_USE]
        self._sequence = 1
        self._dice = np.random.default_rng(7)
        with self._started() as program:
            wait_recorded(cluster, self._settings, program, self._ends(), _DEADLINE_S)
            _, self.first_peak_bytes = program.resident_bytes()

    def run(self, rounds: int) -> Measured:
        """Starts the node, lets it be idle, then measures the rounds."""
        found = Measured()
        with self._started() as program:
            before, began_s = self._changelog_ends(), time.time()
            time.sleep(_IDLE_S)
            ended_s = time.time()
            found.idle_cpu_s_per_s = (program.cpu_s(ended_s) - program.cpu_s(began_s)) / (
                ended_s - began_s
            )
            found.idle_changelog_bytes_per_s = self._changelog_since(before)[0] / (
                ended_s - began_s
            )
            before, began_s = self._changelog_ends(), time.time()
            found.flush_s = [self._round(program) for _ in range(rounds)]
            found.round_cpu_s = (program.cpu_s(time.time()) - program.cpu_s(began_s)) / rounds
            size_bytes, messages = self._changelog_since(before)
            found.round_changelog_bytes, found.round_changelog_messages = (
                size_bytes / rounds,
                messages / rounds,
            )
            found.resident_bytes, found.peak_bytes = program.resident_bytes()
        return found

    def _started(self) -> Pinned:
        program = start_node(self._settings, self._folder / LOG_FILE, self._core)
        program.wait_said("ready", START_S)
        return program

    def _round(self, program: Pinned) -> float:
        """Seconds from the commands' acknowledgement until the log of every partition holds them."""
        self._sequence += 1
        now_us = time.time_ns() // 1000
        publications = []
        for volume in self._in_use:
            blocks = self._dice.integers(0, volume.blocks, _EXTENTS, dtype=np.uint32)
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
        taken_us = []
        for message in self._cluster.read(self._settings, self._topics.changelog, before):
            if message.value is None or message.key != watermark_key(message.partition):
                continue
            if decode(message.value, Watermark).through >= ends[message.partition] - 1:
                taken_us.append(message.at_us)
        if not taken_us:
            raise ProgramFailed(
                "the commands of a round are committed, and no watermark holds them"
            )
        return max(taken_us) / 1e6 - acknowledged_s

    def _ends(self) -> dict[int, int]:
        return self._cluster.ends(self._topics.commands)

    def _changelog_ends(self) -> dict[int, int]:
        return self._cluster.ends(self._topics.changelog)

    def _changelog_since(self, positions: dict[int, int]) -> tuple[int, int]:
        """Bytes and messages."""
        sizes = [
            len(message.key or b"") + len(message.value or b"")
            for message in self._cluster.read(self._settings, self._topics.changelog, positions)
        ]
        return sum(sizes), len(sizes)


def figures(node: Node, runs: Sequence[Measured]) -> dict[str, Any]:
    """Medians over the runs, of the flush time over all rounds; the most memory of any, the first fold included."""
    return {
        "resident_bytes": max(each.resident_bytes for each in runs),
        "peak_bytes": max(node.first_peak_bytes, *(each.peak_bytes for each in runs)),
        "idle_cpu_s_per_s": round(median(each.idle_cpu_s_per_s for each in runs), 4),
        "idle_changelog_bytes_per_s": round(
            median(each.idle_changelog_bytes_per_s for each in runs), 1
        ),
        "flush_s": round(median(second for each in runs for second in each.flush_s), 4),
        "flush_cpu_s": round(median(each.round_cpu_s for each in runs), 4),
        "flush_changelog_bytes": round(median(each.round_changelog_bytes for each in runs)),
        "flush_changelog_messages": round(
            median(each.round_changelog_messages for each in runs), 1
        ),
    }


def main() -> int:
    """1 where a node failed."""
    parser = argparse.ArgumentParser(description="What volumes cost that nobody writes to.")
    parser.add_argument(
        "--volumes", type=int, help="how many there are beside the ten in use (default 10000)"
    )
    parser.add_argument("--rounds", type=int, help="of writes (default 40)")
    parser.add_argument("--repeat", type=int, help="runs of each node (default 5)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="where the folder with the broker's data is made; removed afterwards",
    )
    parser.add_argument("--short", action="store_true", help="a quick look: one run of 5 rounds")
    parser.add_argument(
        "--save", action="store_true", help="keep a good, full result for docs/performance.md"
    )
    given = parser.parse_args()
    counts = (_IN_USE, given.volumes or 10_000)
    rounds = given.rounds or (5 if given.short else 40)
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    runs: dict[int, list[Measured]] = {count: [] for count in counts}
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=given.dir)
            )
        )
        cluster = cleanup.enter_context(Cluster(folder))
        nodes = {count: Node(cluster, count, core) for count in counts}
        for _ in range(given.repeat or (1 if given.short else 5)):
            for count, node in nodes.items():
                try:
                    runs[count].append(found := node.run(rounds))
                except (ProgramFailed, TimeoutError) as error:
                    say(f"FAILED {count} volumes: {error}")
                    failures.append(f"{count} volumes: {error}")
                    continue
                say(
                    f"{count:6,} volumes: {found.resident_bytes / 1e6:.0f} MB, idle {found.idle_cpu_s_per_s:.1%} of a core; "
                    f"flush {median(found.flush_s):.3f} s, {found.round_cpu_s:.4f} CPU s, "
                    f"{found.round_changelog_bytes:,.0f} bytes"
                )
    cases = (
        {}
        if failures
        else {f"volumes_{count}": figures(nodes[count], each) for count, each in runs.items()}
    )
    result = {
        "bench": "volumes",
        "cases": cases,
        "in_use": _IN_USE,
        "rounds": rounds,
        "failures": failures,
    }
    return finish({**result, "short": given.short, "machine": machine()}, save=given.save)


if __name__ == "__main__":
    sys.exit(main())
