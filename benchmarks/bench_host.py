"""What tracking costs a host, beside the same writes without it.

    python benchmarks/bench_host.py [--cases nbd_4k,…] [--repeat 5] [--short] [--save]

nbd_4k: writes of 4 KiB, 16 at a time, by `qemu-img bench` through an NBD export, each export on an image of 256 MiB whose
blocks are all allocated and written to once before the clock starts; mirrorlog publishes to a live broker. Repeats are
interleaved. Ratios are of medians: requests a second over those of nbdkit's own file plugin. Beside it: nbdkit with its log
filter; QEMU without a bitmap, with one that is kept in a qcow2 image (qemu-nbd), and with one in memory on the raw image
(qemu-storage-daemon).
nbd_4k_regions: the worst that a client can do: each write is in another region, and there are twice as many as may be hot, in a
file of one hole of 8 GiB.
pwrite_SIZE_ORDER[_fsync]: TrackedVolume.pwrite beside os.pwrite (pwrite_cases.py); the ratio is of times, tracked over plain.

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
from bench_node import say
from cluster import Cluster
from nbd_exports import exports, requests_per_s, sparse_exports
from pinned import ProgramFailed
from results import finish, machine

NBD_BYTES: Final = 256 << 20
SPARSE_BYTES: Final = 8 << 30
REGION_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Bench:
    """What the cases share, and what they found."""

    cluster: Cluster
    folder: Path
    repeat: int
    short: bool
    runs: dict[str, tuple[str, list[float]]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def note(self, name: str, unit: str, value: float) -> None:
        """One run of one contestant."""
        self.runs.setdefault(name, (unit, []))[1].append(value)
        say(f"{name:28} {value:12,.0f} {unit}")

    def median(self, name: str) -> float:
        """Of all runs of a contestant."""
        return median(self.runs[name][1])


Case: TypeAlias = Callable[[Bench], None]


def nbd_4k(bench: Bench) -> None:
    """See above."""
    if not _has_tools(bench, "nbd_4k"):
        return
    found, skipped = exports(bench.cluster, bench.folder, NBD_BYTES)
    bench.skipped += skipped
    options = {"-d": 16, "-s": 4096}
    sweep = NBD_BYTES // 4096
    for _ in range(bench.repeat):
        for name, serving in found.items():
            is_slow = name == "mirrorlog_plugin"
            count = sweep // 8 if is_slow or bench.short else 2 * sweep
            with serving() as uri:
                requests_per_s(uri, count if is_slow else sweep, options)
                bench.note(f"nbd_4k_{name}", "requests/s", requests_per_s(uri, count, options))
    plain = bench.median("nbd_4k_file")
    for name in found.keys() - {"file"}:
        bench.ratios[f"nbd_4k_{name}"] = round(bench.median(f"nbd_4k_{name}") / plain, 3)
    bench.ratios["nbd_4k"] = bench.ratios.pop("nbd_4k_mirrorlog")


def nbd_4k_regions(bench: Bench) -> None:
    """See above."""
    if not _has_tools(bench, "nbd_4k_regions"):
        return
    options = {"-d": 16, "-s": 4096, "-S": REGION_BYTES + 4096}
    regions = SPARSE_BYTES // REGION_BYTES
    for _ in range(bench.repeat):
        for name, serving in sparse_exports(bench.cluster, bench.folder, SPARSE_BYTES).items():
            with serving() as uri:
                requests_per_s(uri, regions, options)
                bench.note(
                    f"nbd_4k_regions_{name}", "requests/s", requests_per_s(uri, regions, options)
                )
    plain, tracked = bench.median("nbd_4k_regions_file"), bench.median("nbd_4k_regions_mirrorlog")
    bench.ratios["nbd_4k_regions"] = round(tracked / plain, 3)


def _has_tools(bench: Bench, case: str) -> bool:
    found = shutil.which("nbdkit") is not None and shutil.which("qemu-img") is not None
    if not found:
        bench.skipped.append(
            f"{case}: apt install nbdkit nbdkit-plugin-dev nbdkit-plugin-python gcc qemu-utils"
        )
    return found


CASES: Final[Mapping[str, Case]] = {
    "nbd_4k": nbd_4k,
    "nbd_4k_regions": nbd_4k_regions,
    **pwrite_cases.CASES,
}


def main() -> int:
    """1 where a contestant failed."""
    parser = argparse.ArgumentParser(description="What tracking costs a host.")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--repeat", type=int, help="runs of each contestant (default 5)")
    parser.add_argument(
        "--dir", type=Path, help="where the folder with all data is made; removed afterwards"
    )
    parser.add_argument("--short", action="store_true", help="a quick look: one short run of each")
    parser.add_argument(
        "--save", action="store_true", help="keep a good, full result for docs/performance.md"
    )
    given = parser.parse_args()
    if unknown := set(given.cases.split(",")) - CASES.keys():
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    failures: list[str] = []
    with ExitStack() as cleanup:
        folder = Path(
            cleanup.enter_context(
                tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=given.dir)
            )
        )
        cluster = cleanup.enter_context(Cluster(folder))
        bench = Bench(cluster, folder, given.repeat or (1 if given.short else 5), given.short)
        for name in given.cases.split(","):
            try:
                CASES[name](bench)
            except ProgramFailed as error:
                say(f"FAILED {name}: {error}")
                failures.append(f"{name}: {error}")
    for line in bench.skipped:
        say(f"######## not measured here: {line}")
    return finish(_result(bench, failures, short=given.short), save=given.save)


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
