"""Measures how fast `mirrorlog audit` writes a volume's history to Parquet, on one core.

    python benchmarks/bench_audit_rows.py [--repeat 5] [--rows 2M] [--short]

Cases: `recording` (the 66,898 writes of a vscsi recording in MIRRORLOG_TRACES, imported; without
the recording the benchmark says so, and fails behind the other cases), `batches` (random writes,
500 a command) and `single` (a tenth of them, one a command).
A process with all its threads on one core asks Kafka, whose broker has the other cores: the time
goes from the opening of the question to the file under its name; `rows_cpu_s` is rows a second of
the process's CPU time. In turn with it, the same process writes the same rows to Parquet from an
Arrow table in memory (`limit`), and only reads the rows without a file (`read`). Every repeat is
one of each; the first one counts for nothing. `audit_peak_bytes` is the largest resident memory
that the process had after its first audit.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from bench_node import parse_count
from cluster import Cluster
from pinned import split_cores
from results import machine, report_result
from workload import Publication

from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind, TrackingCommand
from mirrorlog.domain.extents import ExtentColumns
from mirrorlog.domain.volumes import Volume
from mirrorlog.settings import Settings, load_settings

_BLOCK_BYTES: Final = 4096
_VOLUME_BYTES: Final = 1 << 40
_RECORDING: Final = Path("cloudphysics") / "cloudPhysicsIO.vscsi"
_RECORDING_BYTES: Final = 33_584_938_496
_RECORDED_WRITES: Final = 66_898


def main() -> int:
    """Measure, and print the result as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", default="2M", help="random writes of the case `batches`")
    parser.add_argument("--short", action="store_true", help="one repeat with 200k rows")
    parser.add_argument("--measure", nargs=3, metavar=("VOLUME", "ROWS", "REPEAT"))
    options = parser.parse_args()
    if options.measure:
        volume, rows, repeat = options.measure
        print(json.dumps(measure(volume, int(rows), int(repeat))))
        return 0
    repeat = 1 if options.short else options.repeat
    rows = parse_count("200k" if options.short else options.rows)
    core, others = split_cores()
    os.sched_setaffinity(0, others)
    failures: list[str] = []
    cases = {}
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as name, Cluster(Path(name)) as cluster:
        settings = cluster.settings("mirrorlog.", Path(name) / "state", 1)
        cluster.make_topics(settings)
        for case, count in volumes_of(cluster, settings, rows, failures).items():
            figures = run_pinned(settings, core, case, count, repeat, failures)
            if figures:
                cases[case] = figures
                print(f"{case}: {figures['rows_s']:,.0f} rows/s", file=sys.stderr)
    result = {
        "bench": "audit-rows",
        "cases": cases,
        "failures": failures,
        "repeat": repeat,
        "short": options.short,
        "machine": machine(),
    }
    return report_result(result, save=False)


def volumes_of(
    cluster: Cluster, settings: Settings, rows: int, failures: list[str]
) -> dict[str, int]:
    """Make the volumes of the cases, with their history. Return the number of rows of each.

    failures: gets a line if the recording is missing.
    """
    volumes = {case: described(case) for case in ("batches", "single")}
    cluster.describe(settings, volumes.values())
    made = {}
    for case, together in (("batches", 500), ("single", 1)):
        count = rows if together > 1 else rows // 10
        topic = settings.topics.commands
        cluster.publish(topic, publications(volumes[case], count, together), "lz4")
        made[case] = count
    recordings = Path(os.environ.get("MIRRORLOG_TRACES", "../shared/traces"))
    path = recordings / _RECORDING
    if not path.is_file():
        failures.append(f"recording: {path} is missing; MIRRORLOG_TRACES names the folder")
        print(f"NOT MEASURED: {failures[-1]}", file=sys.stderr)
    else:
        create = ["volume", "create", "recording", "--size", f"{_RECORDING_BYTES}B"]
        mirrorlog(settings, *create)
        mirrorlog(settings, "import", "vscsi", "recording", str(path))
        made["recording"] = _RECORDED_WRITES
    return made


def described(name: str) -> Volume:
    """Return a volume whose history begins with the topic."""
    return Volume(
        volume=name,
        generation="11111111-1111-4111-8111-111111111111",
        size_bytes=_VOLUME_BYTES,
        block_size=_BLOCK_BYTES,
        partition=0,
        origin_position=-1,
        initially_zeroed=True,
        primary="memory:none",
    )


def publications(volume: Volume, count: int, together: int) -> Iterator[Publication]:
    """Yield commands of `together` random writes each, as a host sends them."""
    random = np.random.default_rng(7)
    lengths = np.full(together, _BLOCK_BYTES, np.uint64)
    for sequence in range(count // together):
        blocks = random.integers(0, volume.blocks, together, np.uint64)
        command = TrackingCommand(
            volume=volume.volume,
            generation=volume.generation,
            host=f"host-{sequence % 7}",
            session=f"session-{sequence % 7}",
            sequence=sequence // 7,
            kind=CommandKind.WRITES,
            extents=ExtentColumns(blocks * np.uint64(_BLOCK_BYTES), lengths),
            first_at_us=1_700_000_000_000_000 + sequence * 50_000,
            last_at_us=1_700_000_000_000_000 + sequence * 50_000 + 40_000,
        )
        now_ms = int(time.time() * 1000)
        yield Publication(0, volume.volume.encode(), encode(command), now_ms)


def mirrorlog(settings: Settings, *arguments: str) -> None:
    """Run a command of mirrorlog."""
    environment = {**os.environ, **settings.as_environment()}
    command = [sys.executable, "-m", "mirrorlog", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def run_pinned(
    settings: Settings, core: int, volume: str, rows: int, repeat: int, failures: list[str]
) -> Mapping[str, Any] | None:
    """Measure a case in a process of its own, on one core. Return None if it failed."""
    command = [sys.executable, __file__, "--measure", volume, str(rows), str(repeat)]
    done = subprocess.run(
        command,
        env={**os.environ, **settings.as_environment()},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    if done.returncode:
        failures.append(f"{volume}: {done.stderr[-500:]}")
        return None
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(volume: str, rows: int, repeat: int) -> dict[str, Any]:
    """Return the figures of one volume. Raise ValueError if the answer hasn't so many rows."""
    from pyarrow import parquet

    from mirrorlog.changed.points import AtEnd, AtOrigin
    from mirrorlog.consumers.audit.arrow_files import write_parquet
    from mirrorlog.consumers.audit.ask import open_audit
    from mirrorlog.consumers.audit.output_file import whole_file
    from mirrorlog.consumers.audit.question import AuditQuestion
    from mirrorlog.history.arrow_tables import arrow_schema, parquet_options
    from mirrorlog.history.definition import RowKind

    settings = load_settings()
    kinds = frozenset([RowKind.WRITE])
    question = AuditQuestion(volume=volume, since=AtOrigin(), until=AtEnd(), kinds=kinds)

    def audit(path: Path) -> None:
        with open_audit(settings, question, 30.0) as answer, whole_file(path) as part:
            write_parquet(part, answer.batches())

    def read(_: Path) -> None:
        with open_audit(settings, question, 30.0) as answer:
            read_rows = sum(batch.rows for batch in answer.batches())
        if read_rows != rows:
            raise ValueError(f"{read_rows} rows of {rows}")

    with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
        path = Path(folder) / "rows.parquet"
        audit(path)
        # Before the table for `limit` is read, which holds all rows.
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        table = parquet.read_table(path)
        if table.num_rows != rows:
            raise ValueError(f"{table.num_rows} rows of {rows}")

        def limit(into: Path) -> None:
            with parquet.ParquetWriter(into, arrow_schema(), **parquet_options()) as writer:
                writer.write_table(table, row_group_size=1 << 18)

        runs: dict[str, list[float]] = {"audit": [], "read": [], "limit": []}
        cpu_s: list[float] = []
        steps: dict[str, Callable[[Path], None]] = {"audit": audit, "read": read, "limit": limit}
        for number in range(repeat + 1):
            for name, step in steps.items():
                took_s, took_cpu_s = timed(step, path)
                if number:
                    runs[name].append(took_s)
                    cpu_s += [took_cpu_s] if name == "audit" else []
        size_bytes = path.stat().st_size
    seconds = {name: median(taken) for name, taken in runs.items()}
    return {
        "rows": rows,
        "rows_s": round(rows / seconds["audit"]),
        "rows_cpu_s": round(rows / median(cpu_s)),
        "read_rows_s": round(rows / seconds["read"]),
        "limit_rows_s": round(rows / seconds["limit"]),
        "of_limit": round(seconds["limit"] / seconds["audit"], 3),
        "bytes": size_bytes,
        "audit_peak_bytes": peak_bytes,
        "runs_s": {name: [round(s, 4) for s in taken] for name, taken in runs.items()},
    }


def timed(step: Callable[[Path], None], path: Path) -> tuple[float, float]:
    """Return the seconds that a step takes, and those of the process's CPU."""
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    step(path)
    return time.monotonic() - started_s, time.process_time() - started_cpu_s


if __name__ == "__main__":
    sys.exit(main())
