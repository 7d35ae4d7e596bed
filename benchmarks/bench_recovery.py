"""Measures how fast a worker recovers after it lost its disk, by reading the whole changelog.

    python benchmarks/bench_recovery.py [--extents 10M,40M,160M] [--repeat 5] [--short]
        [--beside FOLDER]

For each size a node folds that many random writes. Then it is started repeatedly without its disk,
on one core, with nothing to fold. Starting, joining the group and opening the tables takes time for
every size. Therefore a tiny state is recovered too, and what the others take beyond that is their
recovery. After each recovery the table is compared with the changelog, key by key, and a difference
fails the benchmark. With --beside, the worker of another version's source recovers the same log in
turn. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench_node import log_line, parse_count
from cluster import Cluster
from contestants import LOG_FILE, START_S, start_node, wait_recorded
from pinned import ProgramFailed, split_cores
from results import machine, report_result
from rocksdict import AccessType, Options, Rdict
from workload import Workload

from mirrorlog.settings import Settings
from mirrorlog.streams.table.table_files import table_partitions

_FOLD_S: Final = 600.0
_RECOVER_S: Final = 600.0
_BASELINE_EXTENTS: Final = 8000
"""The extents of the tiny state: a command for each volume."""
_FAUST_KEY_PREFIX: Final = b"__faust\0"
"""The prefix of the keys that Faust keeps in the table for itself."""
Rows = dict[tuple[int, bytes], int]
"""The checksums of values by partition and key."""


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """One start of a worker.

    ready_s, cpu_s: the time and the CPU time until it was ready.
    peak_bytes: its maximum of resident memory.
    """

    ready_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(slots=True)
class FoldedLog:
    """A log of some size, and the starts of the worker that has it.

    with_disk, without_disk: the starts with and without the worker's disk.
    beside: the starts of the other version without its disk.
    """

    settings: Settings
    folder: Path
    extents: int
    rows: Rows
    changelog_bytes: int
    with_disk: list[WorkerStart] = field(default_factory=list)
    without_disk: list[WorkerStart] = field(default_factory=list)
    beside: list[WorkerStart] = field(default_factory=list)


def start(log: FoldedLog, core: int, source: Path | None = None) -> WorkerStart:
    """Start the node, and stop it when it is ready. source: of another version."""
    with start_node(log.settings, log.folder / LOG_FILE, core, source) as program:
        ready = program.wait_for_line("ready", _RECOVER_S)
        _, peak_bytes = program.resident_bytes()
        return WorkerStart(ready.at_s - program.started_at_s, program.cpu_s(ready.at_s), peak_bytes)


def rows_of_changelog(cluster: Cluster, settings: Settings) -> tuple[Rows, int]:
    """Return the newest rows of the changelog, and the bytes of all its keys and values."""
    rows: Rows = {}
    size_bytes = 0
    for message in cluster.read(settings, settings.topics.changelog):
        assert message.key is not None
        size_bytes += message.size_bytes
        if message.value is None:
            rows.pop((message.partition, message.key), None)
        else:
            rows[message.partition, message.key] = zlib.crc32(message.value)
    return rows, size_bytes


def rows_of_table(settings: Settings) -> Rows:
    """Return the rows of the node's table."""
    rows: Rows = {}
    for partition, path in table_partitions(settings.state_dir).items():
        table = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only())
        for key, value in table.items():
            assert isinstance(key, bytes)  # The table is open in raw mode.
            if not key.startswith(_FAUST_KEY_PREFIX):
                rows[partition, key] = zlib.crc32(value)
        table.close()
    return rows


def fold(cluster: Cluster, extents: int, core: int) -> FoldedLog:
    """Let a node fold `extents` writes."""
    workload = Workload(extents, 500, time.time_ns() // 1000)
    folder = cluster.folder / f"recovery-{extents}"
    folder.mkdir()
    settings = cluster.settings(f"recovery-{extents}.", folder / "state", workload.partitions)
    cluster.make_topics(settings)
    cluster.describe(settings, workload.volumes())
    cluster.publish(settings.topics.commands, workload.publications(), "lz4")
    with start_node(settings, folder / LOG_FILE, core) as program:
        program.wait_for_line("ready", START_S)
        wait_recorded(cluster, settings, program, workload.ends(), _FOLD_S)
    rows, size_bytes = rows_of_changelog(cluster, settings)
    log_line(
        f"{workload.extents:,} extents: {size_bytes / 1e6:.1f} MB of changelog, {len(rows):,} keys"
    )
    return FoldedLog(settings, folder, workload.extents, rows, size_bytes)


def recover(log: FoldedLog, core: int, beside: Path | None) -> None:
    """Start the node with its disk and without. Raise ProgramFailed if its table is wrong then.

    beside: the source of another version, which recovers first.
    """
    log.with_disk.append(start(log, core))
    if beside is not None:
        shutil.rmtree(log.settings.state_dir)
        log.beside.append(start(log, core, beside))
        _told(log, "the other version", log.beside[-1])
        _check_table(log)
    shutil.rmtree(log.settings.state_dir)
    log.without_disk.append(start(log, core))
    _told(log, "this version", log.without_disk[-1])
    _check_table(log)


def _told(log: FoldedLog, version: str, lost: WorkerStart) -> None:
    """Print one recovery."""
    log_line(
        f"{log.extents:,} extents, {version}: ready after {lost.ready_s:.2f} s without its disk, "
        f"{log.with_disk[-1].ready_s:.2f} s with it; CPU {lost.cpu_s:.2f} s, "
        f"at most {lost.peak_bytes / 1e6:.0f} MB resident"
    )


def _check_table(log: FoldedLog) -> None:
    """Raise ProgramFailed if the node's table differs from the changelog."""
    if (rows := rows_of_table(log.settings)) != log.rows:
        differing = {key for key in {*rows, *log.rows} if rows.get(key) != log.rows.get(key)}
        raise ProgramFailed(
            f"{len(differing)} rows of the recovered table differ from the changelog"
        )


def figures(log: FoldedLog, baseline: FoldedLog) -> dict[str, Any]:
    """Return the figures of recovery, less those of a start with a tiny log (`baseline`)."""
    return {
        "extents": log.extents,
        "changelog_bytes": log.changelog_bytes,
        "keys": len(log.rows),
        "ready_with_disk_s": round(median(start.ready_s for start in log.with_disk), 3),
        "peak_with_disk_bytes": max(start.peak_bytes for start in log.with_disk),
        **_recovery(log.changelog_bytes, log.without_disk, baseline.without_disk),
        "beside": _recovery(log.changelog_bytes, log.beside, baseline.beside),
    }


def _recovery(
    changelog_bytes: int, starts: Sequence[WorkerStart], tiny: Sequence[WorkerStart]
) -> dict[str, Any]:
    """Return the figures of starts without a disk, less those of a tiny log."""
    if not starts:
        return {}
    base_s = median(start.ready_s for start in tiny)
    runs_s = [start.ready_s - base_s for start in starts]
    cpu_s = median(start.cpu_s for start in starts) - median(start.cpu_s for start in tiny)
    return {
        "ready_without_disk_s": round(median(start.ready_s for start in starts), 3),
        "recovery_s": round(median(runs_s), 3),
        "recovery_runs_s": [round(seconds, 3) for seconds in runs_s],
        "recovery_mb_s": round(changelog_bytes / 1e6 / median(runs_s), 1),
        "recovery_cpu_s": round(cpu_s, 3),
        "peak_bytes": max(start.peak_bytes for start in starts),
    }


def main() -> int:
    """Return exit code 1 if a recovered table differs from the changelog."""
    parser = argparse.ArgumentParser(
        description="Measure how fast a worker recovers after it lost its disk."
    )
    parser.add_argument(
        "--extents", help="sizes of the log, in random writes (default 10M,40M,160M)"
    )
    parser.add_argument("--repeat", type=int, help="recoveries of each size (default 5)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="create the folder for the broker's data here; it is removed afterwards",
    )
    parser.add_argument("--beside", type=Path, help="another version's source, run in turn")
    parser.add_argument("--short", action="store_true", help="run once, with 4M extents")
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep a complete result without failures for docs/performance.md",
    )
    arguments = parser.parse_args()
    sizes = [
        parse_count(size)
        for size in (arguments.extents or ("4M" if arguments.short else "10M,40M,160M")).split(",")
    ]
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.dir)
            )
        )
        cluster = cleanup.enter_context(Cluster(folder))
        logs = [fold(cluster, size, core) for size in (_BASELINE_EXTENTS, *sizes)]
        for _ in range(arguments.repeat or (1 if arguments.short else 5)):
            for log in logs:
                try:
                    recover(log, core, arguments.beside)
                except (ProgramFailed, TimeoutError) as error:
                    log_line(f"FAILED {log.extents}: {error}")
                    failures.append(f"{log.extents}: {error}")
    cases = (
        {} if failures else {f"extents_{log.extents}": figures(log, logs[0]) for log in logs[1:]}
    )
    result = {
        "bench": "recovery",
        "cases": cases,
        "failures": failures,
        "short": arguments.short,
        "machine": machine(),
    }
    return report_result(result, save=arguments.save)


if __name__ == "__main__":
    sys.exit(main())
