"""Measures how long the command line takes to answer, beside native tools and Python itself.

    python benchmarks/bench_cli.py [--repeat 7] [--save]

Every repeat starts each program once, one after the other: all medians are of the same minutes. A
case `NAME` is the time until the program has ended, and `NAME_cpu` its CPU time. The broker is a
new one, with one volume. `broker_answer` is the time in which a Kafka client that is loaded already
connects and gets the cluster's metadata; `NAME_beyond_broker` is what a command takes longer than
that. Commands that this release doesn't have, and tools that aren't installed, are skipped.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

from results import machine, report_result

from mirrorlog.adapters.kafka import KafkaAdmin
from mirrorlog.broker.embedded import EmbeddedBroker
from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.cli.main import COMMANDS
from mirrorlog.settings import load_settings

ASK_BROKER: Final = ("volume_list", "changed", "status")
NATIVE: Final = ("qemu-img", "nbdinfo", "drbdadm")
VOLUME: Final = "vol1"


def main() -> int:
    """Measure, and print the result as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="keep the result for the docs")
    options = parser.parse_args()
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="bench-cli-") as folder:
        broker = EmbeddedBroker(Path(folder) / "broker", prepare_runtime(settings.cache_dir))
        with broker:
            environment = os.environ | {
                "MIRRORLOG_STATE_DIR": folder,
                "MIRRORLOG_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            }
            for line in ("topics create", f"volume create {VOLUME} --size 1GiB"):
                subprocess.run(_mirrorlog(line), env=environment, check=True, capture_output=True)
            runs = measure(_programs(), environment, options.repeat, broker.bootstrap_servers)
    cases, failures = _cases(runs)
    result = {
        "bench": "cli",
        "cases": cases,
        "ratios": _ratios(cases),
        "skipped": _skipped(),
        "failures": failures,
        "repeat": options.repeat,
        "short": options.repeat < 5,
        "machine": machine(),
    }
    return report_result(result, save=options.save)


def measure(
    programs: Mapping[str, Sequence[str]], environment: Mapping[str, str], repeat: int, servers: str
) -> dict[str, list[float]]:
    """Return by case the seconds of each repeat, NaN for a program that failed."""
    runs: dict[str, list[float]] = {}
    for number in range(repeat + 1):
        for name, command in programs.items():
            elapsed_s, cpu_s = _timed(command, environment)
            if number:  # the first one fills the page cache
                runs.setdefault(name, []).append(elapsed_s)
                runs.setdefault(f"{name}_cpu", []).append(cpu_s)
        if number:
            runs.setdefault("broker_answer", []).append(_broker_answer_s(servers))
    for name in ASK_BROKER:
        if name in runs:
            pairs = zip(runs[name], runs["broker_answer"], strict=True)
            runs[f"{name}_beyond_broker"] = [own_s - broker_s for own_s, broker_s in pairs]
    return runs


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a program; return the seconds until it has ended, and of its CPU."""
    started_s = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.monotonic() - started_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and Path(command[0]).name not in NATIVE:
        print(f"{' '.join(command)} ended with {process.returncode}", file=sys.stderr)
        return float("nan"), float("nan")
    return elapsed_s, usage.ru_utime + usage.ru_stime


def _broker_answer_s(servers: str) -> float:
    started_s = time.monotonic()
    with closing(KafkaAdmin({"bootstrap.servers": servers})) as admin:
        admin.wait_ready(30)
        return time.monotonic() - started_s


def _programs() -> dict[str, list[str]]:
    """Return the command lines to measure, by the name of their case."""
    lines = {
        "help": "--help",
        "version": "--version",
        "volume_list": "volume list",
        "changed": f"changed {VOLUME}",
        "status": "status",
    }
    known = {command.name for command in COMMANDS}
    programs = {
        name: _mirrorlog(line)
        for name, line in lines.items()
        if line.startswith("-") or line.split()[0] in known
    }
    programs["python_pass"] = [sys.executable, "-c", "pass"]
    for tool in NATIVE:
        if path := shutil.which(tool):
            programs[f"{tool}_help"] = [path, "--help"]
    return programs


def _mirrorlog(line: str) -> list[str]:
    """Return the command as users start it: the script that the installation made."""
    return [str(Path(sys.executable).with_name("mirrorlog")), *line.split()]


def _skipped() -> list[str]:
    commands = {command.name for command in COMMANDS}
    return [f"{tool} --help" for tool in NATIVE if not shutil.which(tool)] + [
        name for name in ("status",) if name not in commands
    ]


def _cases(runs: Mapping[str, Sequence[float]]) -> tuple[dict[str, Any], list[str]]:
    """Return the medians, and the cases of which a run failed."""
    failed = [name for name, values in runs.items() if any(math.isnan(value) for value in values)]
    cases = {
        name: {
            "median": round(median(values), 4),
            "unit": "s",
            "runs": [round(value, 4) for value in values],
        }
        for name, values in runs.items()
        if name not in failed
    }
    return cases, failed


def _ratios(cases: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratio of each command's CPU time to that of `python -c pass`."""
    base_s = cases["python_pass_cpu"]["median"]
    return {
        f"{name}_to_python_pass": round(case["median"] / base_s, 2)
        for name, case in cases.items()
        if name.endswith("_cpu") and name != "python_pass_cpu" and base_s
    }


if __name__ == "__main__":
    sys.exit(main())
