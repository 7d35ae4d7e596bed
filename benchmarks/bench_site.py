"""Measures how fast a site copies what the log names, beside a bare loop and other tools.

    python benchmarks/bench_site.py [--cases loop,mirrorlog,…] [--repeat 5] [--short] [--save]

A volume of 4 GiB, of which 187 MB in 20,285 runs of blocks have changed. Primary and secondary are
files of one file system, and the primary is in the page cache. Each run of a case ends when the
secondary is durable. Cases take turns, and the ratios are those of medians to the case `loop` of
the same runs. Tools that look at the whole volume run after the other cases, once each by default
(--tool-repeat): each of them may write 4 GiB.

- loop: pread, pwrite for each run of blocks, then fdatasync. It is the limit of one thread.
- copy_file_range: the same with copy_file_range(2).
- mirrorlog: what a site calls for a cycle (consumers/resync), with its count of what was copied.
- journal: the same with `--consistency crash`: the blocks are staged in a journal on the same disk,
  sealed, and then applied. Without the time of the proof, which is the hosts' heartbeats.
- rsync, nbdcopy, qemu_img, cp, blocksync: they have no list of changed blocks, so they look at the
  whole volume. The time includes a sync of the secondary.
- sparse_loop, sparse_mirrorlog: the same runs of blocks, spread over a volume of 4 TiB that is
  otherwise a hole. Their ratios to `loop` and `mirrorlog` are in the result, too.

blocksync (MIT, from PyPI) has an environment of its own, which `make bench-site` makes.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench_node import log_line
from case_options import add_case_options, chosen_cases, data_folder
from changed_files import (
    VOLUME_BYTES,
    Pair,
    change_secondary,
    check_equal,
    draw_runs,
    make_pair,
)
from pinned import ProgramFailed
from results import machine, report_result
from site_cycle import copy_between, site_settings, stage_and_apply
from tool_commands import run_command

from mirrorlog.adapters.file_device import FileDevice

SPARSE_BYTES: Final = 4 << 40
RUNS: Final = 20_285
DIRTY_BYTES: Final = 187_000_000


@dataclass(slots=True)
class Bench:
    """The pairs of files, and the seconds of each run."""

    dense: Pair
    sparse: Pair | None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def copy_by_loop(pair: Pair) -> None:
    """Copy the runs one after the other."""
    with pair.primary.open("rb", 0) as primary, pair.secondary.open("r+b", 0) as secondary:
        source, target = primary.fileno(), secondary.fileno()
        for offset, length in pair.runs:
            os.pwrite(target, os.pread(source, length, offset), offset)
        os.fdatasync(target)


def copy_in_kernel(pair: Pair) -> None:
    """Copy the runs by copy_file_range(2)."""
    with pair.primary.open("rb", 0) as primary, pair.secondary.open("r+b", 0) as secondary:
        source, target = primary.fileno(), secondary.fileno()
        for offset, length in pair.runs:
            done = 0
            while done < length:
                done += os.copy_file_range(
                    source, target, length - done, offset + done, offset + done
                )
        os.fdatasync(target)


def copy_as_site(pair: Pair) -> None:
    """Copy the runs as a site does."""
    with (
        FileDevice(pair.primary, writable=False) as primary,
        FileDevice(pair.secondary, writable=True) as secondary,
    ):
        copy_between(primary, secondary, pair)


def copy_through_journal(pair: Pair) -> None:
    """Copy the runs as a site does that stages its cycles in a journal."""
    with FileDevice(pair.primary, writable=False) as primary:
        stage_and_apply(primary, pair)


def by_tool(*command: str) -> Callable[[Pair], None]:
    """Return a case that runs `command` with PRIMARY and SECONDARY replaced, then syncs."""

    def copy(pair: Pair) -> None:
        names = {"PRIMARY": str(pair.primary), "SECONDARY": str(pair.secondary)}
        line = [names.get(word, word) for word in command]
        run_command(line)
        with pair.secondary.open("r+b", 0) as secondary:
            os.fsync(secondary.fileno())

    return copy


OWN_CASES: Final[Mapping[str, Callable[[Pair], None]]] = {
    "loop": copy_by_loop,
    "copy_file_range": copy_in_kernel,
    "mirrorlog": copy_as_site,
    "journal": copy_through_journal,
}
_BLOCKSYNC: Final = Path(__file__).parent / "peers/blocksync/.venv/bin/python"
_BLOCKSYNC_LINES: Final = """
import sys
from blocksync import LocalFile, Syncer
source, target = (LocalFile(path=path) for path in sys.argv[1:])
Syncer(src=source, dest=target).start_sync(wait=True, sync_interval=0)
"""
TOOLS: Final[Mapping[str, Sequence[str]]] = {
    "rsync": ("rsync", "--inplace", "--no-whole-file", "--ignore-times", "PRIMARY", "SECONDARY"),
    "nbdcopy": ("nbdcopy", "--flush", "PRIMARY", "SECONDARY"),
    "qemu_img": ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "PRIMARY", "SECONDARY"),
    "cp": ("cp", "PRIMARY", "SECONDARY"),
    "blocksync": (str(_BLOCKSYNC), "-c", _BLOCKSYNC_LINES, "PRIMARY", "SECONDARY"),
}
SPARSE_CASES: Final = ("loop", "mirrorlog")
CASES: Final = (*OWN_CASES, *TOOLS, *(f"sparse_{name}" for name in SPARSE_CASES))


def run_case(bench: Bench, name: str) -> None:
    """Run a case once, with a secondary that differs in the runs, and note its seconds."""
    own_name = name.removeprefix("sparse_")
    pair = bench.sparse if own_name != name else bench.dense
    if pair is None:
        return
    copy = OWN_CASES.get(own_name) or by_tool(*TOOLS[own_name])
    change_secondary(pair)
    began_s = time.perf_counter()
    copy(pair)
    elapsed_s = time.perf_counter() - began_s
    check_equal(pair)
    bench.seconds.setdefault(name, []).append(elapsed_s)
    log_line(f"{name:18} {elapsed_s:8.3f} s")


def main() -> int:
    """Return exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description="How fast a site copies what the log names.")
    add_case_options(parser, CASES, short="run each case once, with a sixteenth of everything")
    parser.add_argument("--tool-repeat", type=int, default=1, help="runs of each tool (default 1)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="begin no tool after so many; it is noted as skipped",
    )
    arguments = parser.parse_args()
    names = chosen_cases(parser, arguments, CASES)
    scale, repeat = (16, 1) if arguments.short else (1, arguments.repeat)
    began_s = time.monotonic()
    site_settings()
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(data_folder(arguments))
        bench = _prepare(folder, names, scale)
        names = [name for name in names if _is_installed(bench, name)]
        tools = [name for name in names if name in TOOLS]
        for _ in range(repeat):
            for name in names:
                if name not in tools:
                    _run_noting_failure(bench, name)
        for _ in range(1 if arguments.short else arguments.tool_repeat):
            for name in tools:
                if arguments.seconds and time.monotonic() - began_s > arguments.seconds:
                    bench.skipped.append(f"{name}: no time was left")
                else:
                    _run_noting_failure(bench, name)
    for line in bench.skipped:
        log_line(f"######## not measured here: {line}")
    is_part = set(arguments.cases.split(",")) != set(CASES)
    return report_result(
        _result(bench, repeat, short=arguments.short), save=arguments.save and not is_part
    )


def _run_noting_failure(bench: Bench, name: str) -> None:
    try:
        run_case(bench, name)
    except ProgramFailed as error:
        log_line(f"FAILED {name}: {error}")
        bench.failures.append(f"{name}: {error}")


def _prepare(folder: Path, names: Sequence[str], scale: int) -> Bench:
    log_line("writing the volumes")
    runs, dirty_bytes, size_bytes = RUNS // scale, DIRTY_BYTES // scale, VOLUME_BYTES // scale
    dense = make_pair(folder / "dense", size_bytes, draw_runs(size_bytes, runs, dirty_bytes))
    sparse = None
    if any(name.startswith("sparse_") for name in names):
        sparse_runs = draw_runs(SPARSE_BYTES, runs, dirty_bytes)
        sparse = make_pair(folder / "sparse", SPARSE_BYTES, sparse_runs)
    return Bench(dense, sparse)


def _is_installed(bench: Bench, name: str) -> bool:
    """Return whether the case can run here. Otherwise note it as skipped."""
    tool = TOOLS.get(name)
    if tool is None or shutil.which(tool[0]) is not None:
        return True
    how = "make bench-site" if name == "blocksync" else "apt install rsync libnbd-bin qemu-utils"
    bench.skipped.append(f"{name}: {how}")
    return False


def _result(bench: Bench, repeat: int, *, short: bool) -> dict[str, Any]:
    medians = {name: median(values) for name, values in bench.seconds.items()}
    for name, value in medians.items():
        log_line(f"{name:18} {value:8.3f} s")
    loop_s = medians.get("loop")
    ratios = (
        {}
        if loop_s is None
        else {name: round(value / loop_s, 3) for name, value in medians.items()}
    )
    for name in SPARSE_CASES:
        if loop_s is not None and {name, f"sparse_{name}"} <= medians.keys():
            ratio = medians[f"sparse_{name}"] / medians[name]
            ratios[f"sparse_{name}_to_{name}"] = round(ratio, 3)
    return {
        "bench": "site",
        "cases": {
            name: {
                "median": round(medians[name], 4),
                "unit": "s",
                "runs": [round(value, 4) for value in values],
            }
            for name, values in bench.seconds.items()
        },
        "ratios": ratios,
        "volume_bytes": bench.dense.size_bytes,
        "dirty_bytes": sum(length for _, length in bench.dense.runs),
        "dirty_runs": len(bench.dense.runs),
        "repeat": repeat,
        "skipped": bench.skipped,
        "failures": bench.failures,
        "short": short,
        "machine": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
