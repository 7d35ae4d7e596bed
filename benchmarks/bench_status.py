"""Measures `mirrorlog --json status` of ten thousand volumes at two sites, as a whole process.

    python benchmarks/bench_status.py [--volumes 10000] [--sites 2] [--repeat 5]

A real broker holds a description of each volume and a report of each secondary. Measured are the
time from the start of the process to its end, and the most memory that it had resident. The last
line of stdout is one JSON object.
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
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final
from uuid import uuid4

from cluster import Cluster
from results import machine, report_result
from workload import Publication

from mirrorlog.codec.events import encode
from mirrorlog.domain.site_leases import SiteLease
from mirrorlog.domain.site_progress import Rung, SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.settings import Settings

_PARTITIONS: Final = 4
_BLOCK: Final = 4096


def volumes(count: int) -> list[Volume]:
    """Return the descriptions."""
    return [
        Volume(
            volume=f"volume-{number:05}",
            generation=str(uuid4()),
            size_bytes=1 << 40,
            block_size=_BLOCK,
            partition=number % _PARTITIONS,
            origin_position=-1,
            initially_zeroed=True,
            primary=f"file:///srv/primary/volume-{number:05}.img",
            created_at_us=time.time_ns() // 1000,
        )
        for number in range(count)
    ]


def reports(described: list[Volume], sites: int) -> Iterator[Publication]:
    """Yield a lease of each site, and a report of each secondary."""
    now_us = time.time_ns() // 1000
    for site in (f"site-{number}" for number in range(sites)):
        for volume in described:
            report = SiteProgress(
                site=site,
                volume=volume.volume,
                generation=volume.generation,
                state=SiteState.CONSISTENT,
                rung=Rung.CHANGED,
                applied_position=1_000_000,
                consistent_position=1_000_000,
                watermark=1_000_000,
                behind_blocks=0,
                behind_bytes=0,
                lag_s=0.0,
                blocks_copied=12_345,
                bytes_copied=12_345 * _BLOCK,
                at_us=now_us,
                last_applied_at_us=now_us,
                secondary_id=str(uuid4()),
            )
            key = f"{site}/{volume.volume}".encode()
            yield Publication(0, key, encode(report), now_us // 1000)
        lease = SiteLease(
            site=site,
            run=str(uuid4()),
            folder=str(uuid4()),
            machine="m",
            term=1,
            host="h",
            pid=1,
            started_at_us=now_us,
            caught_up_age_s=0.1,
        )
        yield Publication(0, f"{site}/".encode(), encode(lease), now_us // 1000)


def run_status(settings: Settings) -> tuple[float, float, int]:
    """Run the command. Return its seconds, its CPU seconds, and the number of rows."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mirrorlog", "--json", "status"],
        env={**os.environ, **settings.as_environment()},
        stdout=subprocess.PIPE,
        check=True,
    )
    elapsed_s = time.monotonic() - began_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return elapsed_s, cpu_s, len(json.loads(done.stdout)["volumes"])


def peak_bytes(settings: Settings) -> int:
    """Return the most memory that one process of the command had resident."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'mirrorlog', '--json', 'status'], check=True,"
        " stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    environment = {**os.environ, **settings.as_environment()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
    )
    return int(done.stdout) * 1024


def main() -> int:
    """Return exit code 1 if a run showed too few rows."""
    parser = argparse.ArgumentParser(description="Measure `mirrorlog --json status`.")
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mirrorlog-bench-") as folder,
        Cluster(Path(folder)) as cluster,
    ):
        settings = cluster.settings("status.", Path(folder) / "state", _PARTITIONS)
        cluster.make_topics(settings)
        described = volumes(arguments.volumes)
        cluster.describe(settings, described)
        cluster.publish(settings.topics.progress, reports(described, arguments.sites), "none")
        runs = [run_status(settings) for _ in range(arguments.repeat)]
        peaks = [peak_bytes(settings) for _ in range(arguments.repeat)]
    expected = arguments.volumes * arguments.sites
    failures = [f"{rows} rows of {expected}" for _, _, rows in runs if rows != expected]
    cases = {
        "status_json": {"median": round(median(run[0] for run in runs), 3), "unit": "s"},
        "status_json_cpu": {"median": round(median(run[1] for run in runs), 3), "unit": "s"},
        "status_json_peak": {"median": median(peaks), "unit": "bytes"},
    }
    result = {"bench": "status", "cases": cases, "ratios": {}, "failures": failures}
    return report_result({**result, "short": True, "machine": machine()}, save=False)


if __name__ == "__main__":
    sys.exit(main())
