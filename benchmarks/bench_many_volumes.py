"""Measures a recording of many volumes, from the host's first write until two sites have all of it.

    python benchmarks/bench_many_volumes.py TRACE [--beside FOLDER] [--repeat 5] [--short]

It runs `mirrorlog demo --trace TRACE`: broker, node, a host that replays the recording as fast as
it can, a site that follows it, and a site that begins when the host has ended, on one disk. The
time is `elapsed_s` of the demo's result: it ends when both sites have proved every volume
consistent, and before the files are compared. The demo fails unless they are identical.

--beside: another version of mirrorlog's source, run in turn with this one by the same Python. The
ratio is that of medians: this version over the other. --short: one run, with the first 2,000 lines
of the recording, which then has to be text.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench_node import log_line
from pinned import ProgramFailed
from results import machine, report_result

_HERE: Final = Path(__file__).resolve().parents[1]
_SHORT_LINES: Final = 2_000


def run_demo(source: Path, trace: Path, folder: Path) -> dict[str, Any]:
    """Run the demo of the version in `source`. Return its result. Raise ProgramFailed."""
    command = [sys.executable, "-m", "mirrorlog", "--state-dir", str(folder), "demo", "--json"]
    done = subprocess.run(
        [*command, "--trace", str(trace)],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ProgramFailed(f"the demo of {source} failed: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def shortened(trace: Path, folder: Path) -> Path:
    """Return a recording with the first lines of `trace`, which is text, packed by bzip2 or not."""
    unpack = bz2.decompress if trace.suffix == ".bz2" else bytes
    lines = unpack(trace.read_bytes()).splitlines(keepends=True)
    short = folder / f"short-{trace.stem}"
    short.write_bytes(b"".join(lines[:_SHORT_LINES]))
    return short


def main() -> int:
    """Return exit code 1 if a run failed."""
    parser = argparse.ArgumentParser(description="A recording of many volumes, at two sites.")
    parser.add_argument("trace", type=Path, help="the recording to replay")
    parser.add_argument("--beside", type=Path, help="another version's source")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each version (default 5)")
    parser.add_argument("--dir", type=Path, help="create the folder for all data here")
    parser.add_argument("--short", action="store_true", help="one run of the first lines")
    arguments = parser.parse_args()
    sources = {"this": _HERE}
    if arguments.beside is not None:
        sources["beside"] = arguments.beside.resolve()
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    failures: list[str] = []
    volumes = 0
    with tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.dir) as made:
        folder = Path(made)
        trace = arguments.trace.resolve()
        if arguments.short:
            trace = shortened(trace, folder)
        for _ in range(1 if arguments.short else arguments.repeat):
            for name, source in sources.items():
                try:
                    result = run_demo(source, trace, folder / "state")
                except ProgramFailed as error:
                    log_line(f"FAILED {name}: {error}")
                    failures.append(f"{name}: {error}")
                    continue
                volumes = result["volumes"]
                seconds[name].append(result["elapsed_s"])
                log_line(f"{name:8} {result['elapsed_s']:8.1f} s")
    medians = {name: median(values) for name, values in seconds.items() if values}
    return report_result(
        {
            "bench": "many_volumes",
            "cases": {
                name: {"median": medians[name], "unit": "s", "runs": seconds[name]}
                for name in medians
            },
            "ratio": round(medians["this"] / medians["beside"], 3) if len(medians) == 2 else None,
            "volumes": volumes,
            "failures": failures,
            "short": arguments.short,
            "machine": machine(),
        },
        save=False,
    )


if __name__ == "__main__":
    sys.exit(main())
