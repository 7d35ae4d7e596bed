"""Measures what tracking costs a host, beside the same writes without tracking.

    python benchmarks/bench_host.py [--cases nbd_4k,…] [--repeat 5] [--short] [--save]

- nbd_4k: `qemu-img bench` does writes of 4 KiB through an NBD export, 16 at a time. Each export is
  of an image of 256 MiB, whose blocks are all allocated and written to once before the clock
  starts. mirrorlog publishes to a live broker. Repeats are interleaved. The ratios are of medians:
  requests a second over those of nbdkit's file plugin. The other contestants are nbdkit with its
  log filter, and QEMU without a bitmap, with a bitmap in a qcow2 image (qemu-nbd), and with a
  bitmap in memory on the raw image (qemu-storage-daemon).
- nbd_4k_regions: a client's worst case. Each write goes to another region, and there are twice as
  many regions as may be hot, in a file of 8 GiB that is one hole. The clock runs for 16 rounds.
- nbd_4k_snapshot: the writes of nbd_4k in two ways, in turn on one export: with nobody else, and
  while a site reads snapshots. Each snapshot is read for a second, a block at a time, and then a
  new one is taken; so most writes are the first to their block. The ratio is of times: with
  snapshots over without.
- nbd_4k_fork: the writes of nbd_4k, and each of them is forked to another file of this machine,
  which stays in the fork: through the filter and through the Python plugin, in both modes.
- pwrite_SIZE_ORDER[_fsync]: TrackedVolume.pwrite beside os.pwrite (pwrite_cases.py). The ratio is
  of times: tracked over plain.

With --cases, --save replaces only these cases in what is kept; each was measured in one run then.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

import pwrite_cases
from bench_node import log_line
from cluster import Cluster
from nbd_exports import (
    exports,
    forked_exports,
    mirrorlog,
    reading_snapshots,
    requests_per_s,
    sparse_exports,
)
from pinned import ProgramFailed
from results import machine, report_result

NBD_BYTES: Final = 256 << 20
SPARSE_BYTES: Final = 8 << 30
REGION_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Bench:
    """The parts that the cases share, and their results."""

    cluster: Cluster
    folder: Path
    repeat: int
    short: bool
    runs: dict[str, tuple[str, list[float]]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def note(self, name: str, unit: str, value: float) -> None:
        """Keep and print the result of one run of one contestant."""
        self.runs.setdefault(name, (unit, []))[1].append(value)
        log_line(f"{name:28} {value:12,.0f} {unit}")

    def median(self, name: str) -> float:
        """Return the median of all runs of a contestant."""
        return median(self.runs[name][1])


Case: TypeAlias = Callable[[Bench], None]


def nbd_4k(bench: Bench) -> None:
    """Run the case nbd_4k (see the module's docstring)."""
    if not _has_tools(bench, "nbd_4k"):
        return
    contestants, skipped = exports(bench.cluster, bench.folder, NBD_BYTES)
    bench.skipped += skipped
    options = {"-d": 16, "-s": 4096}
    sweep = NBD_BYTES // 4096  # Writes that cover the image once.
    for _ in range(bench.repeat):
        for name, open_export in contestants.items():
            is_slow = name == "mirrorlog_plugin"
            count = sweep // 8 if is_slow or bench.short else 2 * sweep
            with open_export() as uri:
                requests_per_s(uri, count if is_slow else sweep, options)
                bench.note(f"nbd_4k_{name}", "requests/s", requests_per_s(uri, count, options))
    plain = bench.median("nbd_4k_file")
    for name in contestants.keys() - {"file"}:
        bench.ratios[f"nbd_4k_{name}"] = round(bench.median(f"nbd_4k_{name}") / plain, 3)
    bench.ratios["nbd_4k"] = bench.ratios.pop("nbd_4k_mirrorlog")


def nbd_4k_fork(bench: Bench) -> None:
    """Run the case nbd_4k_fork (see the module's docstring)."""
    if not _has_tools(bench, "nbd_4k_fork"):
        return
    contestants = forked_exports(bench.cluster, bench.folder, NBD_BYTES)
    options = {"-d": 16, "-s": 4096}
    sweep = NBD_BYTES // 4096
    for _ in range(bench.repeat):
        for name, open_export in contestants.items():
            is_slow = name.startswith("plugin")
            count = sweep // 8 if is_slow or bench.short else 2 * sweep
            with open_export() as uri:
                requests_per_s(uri, count if is_slow else sweep, options)
                bench.note(f"nbd_4k_fork_{name}", "requests/s", requests_per_s(uri, count, options))
    plain = bench.median("nbd_4k_fork_file")
    for contestant in contestants.keys() - {"file"}:
        name = f"nbd_4k_fork_{contestant}"
        bench.ratios[name] = round(bench.median(name) / plain, 3)


def nbd_4k_regions(bench: Bench) -> None:
    """Run the case nbd_4k_regions (see the module's docstring)."""
    if not _has_tools(bench, "nbd_4k_regions"):
        return
    options = {"-d": 16, "-s": 4096, "-S": REGION_BYTES + 4096}
    regions = SPARSE_BYTES // REGION_BYTES
    for _ in range(bench.repeat):
        for name, open_export in sparse_exports(bench.cluster, bench.folder, SPARSE_BYTES).items():
            with open_export() as uri:
                requests_per_s(uri, regions, options)
                count = regions if bench.short else 16 * regions
                bench.note(
                    f"nbd_4k_regions_{name}", "requests/s", requests_per_s(uri, count, options)
                )
    plain, tracked = bench.median("nbd_4k_regions_file"), bench.median("nbd_4k_regions_mirrorlog")
    bench.ratios["nbd_4k_regions"] = round(tracked / plain, 3)


def nbd_4k_snapshot(bench: Bench) -> None:
    """Run the case nbd_4k_snapshot (see the module's docstring)."""
    if not _has_tools(bench, "nbd_4k_snapshot"):
        return
    options = {"-d": 16, "-s": 4096}
    count = NBD_BYTES // 4096 if bench.short else 3 * (NBD_BYTES // 4096)
    with mirrorlog(bench.cluster, bench.folder, NBD_BYTES, "filter") as uri:
        requests_per_s(uri, NBD_BYTES // 4096, options)
        for _ in range(bench.repeat):
            bench.note("nbd_4k_snapshot_none", "requests/s", requests_per_s(uri, count, options))
            with reading_snapshots(uri):
                requests = requests_per_s(uri, count, options)
            bench.note("nbd_4k_snapshot_read", "requests/s", requests)
    without, read = (bench.median(f"nbd_4k_snapshot_{name}") for name in ("none", "read"))
    bench.ratios["nbd_4k_snapshot"] = round(without / read, 3)


def _has_tools(bench: Bench, case: str) -> bool:
    """Return whether the case can run here. Otherwise note it as skipped."""
    has_tools = shutil.which("nbdkit") is not None and shutil.which("qemu-img") is not None
    if not has_tools:
        bench.skipped.append(
            f"{case}: apt install nbdkit nbdkit-plugin-dev nbdkit-plugin-python gcc qemu-utils"
        )
    return has_tools


CASES: Final[Mapping[str, Case]] = {
    "nbd_4k": nbd_4k,
    "nbd_4k_fork": nbd_4k_fork,
    "nbd_4k_regions": nbd_4k_regions,
    "nbd_4k_snapshot": nbd_4k_snapshot,
    **pwrite_cases.CASES,
}


def main() -> int:
    """Return exit code 1 if a contestant failed."""
    parser = argparse.ArgumentParser(description="What tracking costs a host.")
    parser.add_argument("--cases", default=",".join(CASES), help=f"run these of {', '.join(CASES)}")
    parser.add_argument("--repeat", type=int, help="runs of each contestant (default 5)")
    parser.add_argument(
        "--dir", type=Path, help="create the folder for all data here; it is removed afterwards"
    )
    parser.add_argument(
        "--short", action="store_true", help="run each contestant once, for a short time"
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep a complete result without failures for docs/performance.md",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.cases.split(",")) - CASES.keys():
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.dir)
            )
        )
        cluster = cleanup.enter_context(Cluster(folder))
        bench = Bench(
            cluster, folder, arguments.repeat or (1 if arguments.short else 5), arguments.short
        )
        for name in arguments.cases.split(","):
            try:
                CASES[name](bench)
            except ProgramFailed as error:
                log_line(f"FAILED {name}: {error}")
                failures.append(f"{name}: {error}")
    for line in bench.skipped:
        log_line(f"######## not measured here: {line}")
    return report_result(
        _result(bench, failures, short=arguments.short),
        save=arguments.save,
        only_cases=arguments.cases != ",".join(CASES),
    )


def _result(bench: Bench, failures: list[str], *, short: bool) -> dict[str, Any]:
    cases = {
        name: {
            "median": round(median(values)),
            "unit": unit,
            "runs": [round(value) for value in values],
        }
        for name, (unit, values) in bench.runs.items()
    }
    return {
        "bench": "host",
        "cases": cases,
        "ratios": bench.ratios,
        "repeat": bench.repeat,
        "skipped": bench.skipped,
        "failures": failures,
        "short": short,
        "machine": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
