"""How fast a worker whose disk is lost comes back: its table is read again from the changelog, all of it.

    python benchmarks/bench_recovery.py [--extents 10M,40M,160M] [--repeat 5] [--short]

For each size a node folds that many random writes; then it is started again and again without its disk, on one core, with
nothing to fold. Starting, joining the group and opening the tables takes its time whatever the state's size: so a state of
next to nothing is recovered beside the others, and what they take more is their recovery. After each recovery the table is
held against the changelog, key by key: a difference fails the bench. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench_node import number, say
from cluster import Cluster
from contestants import LOG_FILE, START_S, start_node, wait_recorded
from pinned import ProgramFailed, split_cores
from results import finish, machine
from rocksdict import AccessType, Options, Rdict
from workload import Workload

from mirrorlog.settings import Settings
from mirrorlog.streams.table.table_files import table_partitions

_FOLD_S: Final = 600.0
_RECOVER_S: Final = 600.0
_NEXT_TO_NOTHING: Final = 8000
"""Extents: a command for each volume."""
_FAUST_OWN: Final = b"__faust\0"
Rows = dict[tuple[int, bytes], int]
"""By partition and key, the value's checksum."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start: how long until it was ready, the CPU time until then, the most memory that it had."""

    ready_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(slots=True)
class State:
    """A log of some size, and how the worker that has it started."""

    settings: Settings
    folder: Path
    extents: int
    rows: Rows
    changelog_bytes: int
    kept: list[Start] = field(default_factory=list)
    lost: list[Start] = field(default_factory=list)


def start(state: State, core: int) -> Start:
    """Starts the node, and stops it when it is ready."""
    with start_node(state.settings, state.folder / LOG_FILE, core) as program:
        ready = program.wait_said("ready", _RECOVER_S)
        _, peak_bytes = program.resident_bytes()
        return Start(ready.at_s - program.started_at_s, program.cpu_s(ready.at_s), peak_bytes)


def rows_of_changelog(cluster: Cluster, settings: Settings) -> tuple[Rows, int]:
    """The newest value of every key that wasn't removed; and the bytes of all messages, keys and values."""
    rows: Rows = {}
    size_bytes = 0
    for message in cluster.read(settings, settings.topics.changelog):
        assert message.key is not None
        size_bytes += len(message.key) + len(message.value or b"")
        if message.value is None:
            rows.pop((message.partition, message.key), None)
        else:
            rows[message.partition, message.key] = zlib.crc32(message.value)
    return rows, size_bytes


def rows_of_table(settings: Settings) -> Rows:
    """What is in the node's table."""
    rows: Rows = {}
    for partition, path in table_partitions(settings.state_dir).items():
        table = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
        for key, value in table.items():
            assert isinstance(key, bytes)  # raw mode
            if not key.startswith(_FAUST_OWN):
                rows[partition, key] = zlib.crc32(value)
        table.close()
    return rows


def fold(cluster: Cluster, extents: int, core: int) -> State:
    """Lets a node fold so many writes."""
    workload = Workload(extents, 500, time.time_ns() // 1000)
    folder = cluster.folder / f"recovery-{extents}"
    folder.mkdir()
    settings = cluster.settings(f"recovery-{extents}.", folder / "state", workload.partitions)
    cluster.make_topics(settings)
    cluster.describe(settings, workload.volumes())
    cluster.publish(settings.topics.commands, workload.publications(), "lz4")
    with start_node(settings, folder / LOG_FILE, core) as program:
        program.wait_said("ready", START_S)
        wait_recorded(cluster, settings, program, workload.ends(), _FOLD_S)
    rows, size_bytes = rows_of_changelog(cluster, settings)
    say(f"{workload.extents:,} extents: {size_bytes / 1e6:.1f} MB of changelog, {len(rows):,} keys")
    return State(settings, folder, workload.extents, rows, size_bytes)


def recover(state: State, core: int) -> None:
    """Starts the node with its disk, and without."""
    state.kept.append(start(state, core))
    shutil.rmtree(state.settings.state_dir)
    state.lost.append(start(state, core))
    kept, lost = state.kept[-1], state.lost[-1]
    say(
        f"{state.extents:,} extents: ready after {kept.ready_s:.2f} s with its disk, {lost.ready_s:.2f} s without; "
        f"CPU {lost.cpu_s:.2f} s, at most {lost.peak_bytes / 1e6:.0f} MB resident"
    )
    if (found := rows_of_table(state.settings)) != state.rows:
        differing = {key for key in {*found, *state.rows} if found.get(key) != state.rows.get(key)}
        raise ProgramFailed(
            f"{len(differing)} rows of the recovered table differ from the changelog"
        )


def figures(state: State, nothing: State) -> dict[str, Any]:
    """What recovery took, beyond a start with nothing to recover."""
    base_s = median(each.ready_s for each in nothing.lost)
    base_cpu_s = median(each.cpu_s for each in nothing.lost)
    runs_s = [each.ready_s - base_s for each in state.lost]
    return {
        "extents": state.extents,
        "changelog_bytes": state.changelog_bytes,
        "keys": len(state.rows),
        "ready_with_disk_s": round(median(each.ready_s for each in state.kept), 3),
        "ready_without_disk_s": round(median(each.ready_s for each in state.lost), 3),
        "recovery_s": round(median(runs_s), 3),
        "recovery_runs_s": [round(each, 3) for each in runs_s],
        "recovery_mb_s": round(state.changelog_bytes / 1e6 / median(runs_s), 1),
        "recovery_cpu_s": round(median(each.cpu_s for each in state.lost) - base_cpu_s, 3),
        "peak_bytes": max(each.peak_bytes for each in state.lost),
    }


def main() -> int:
    """1 where a recovered table differs from the changelog."""
    parser = argparse.ArgumentParser(description="How fast a worker whose disk is lost comes back.")
    parser.add_argument(
        "--extents", help="sizes of the state, in random writes (default 10M,40M,160M)"
    )
    parser.add_argument("--repeat", type=int, help="recoveries of each size (default 5)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="where the folder with the broker's data is made; removed afterwards",
    )
    parser.add_argument("--short", action="store_true", help="a quick look: 4M extents, once")
    parser.add_argument(
        "--save", action="store_true", help="keep a good, full result for docs/performance.md"
    )
    given = parser.parse_args()
    sizes = [
        number(each)
        for each in (given.extents or ("4M" if given.short else "10M,40M,160M")).split(",")
    ]
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=given.dir)
            )
        )
        cluster = cleanup.enter_context(Cluster(folder))
        states = [fold(cluster, size, core) for size in (_NEXT_TO_NOTHING, *sizes)]
        for _ in range(given.repeat or (1 if given.short else 5)):
            for state in states:
                try:
                    recover(state, core)
                except (ProgramFailed, TimeoutError) as error:
                    say(f"FAILED {state.extents}: {error}")
                    failures.append(f"{state.extents}: {error}")
    cases = (
        {}
        if failures
        else {f"extents_{each.extents}": figures(each, states[0]) for each in states[1:]}
    )
    result = {
        "bench": "recovery",
        "cases": cases,
        "failures": failures,
        "short": given.short,
        "machine": machine(),
    }
    return finish(result, save=given.save)


if __name__ == "__main__":
    sys.exit(main())
