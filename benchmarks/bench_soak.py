"""A soak: all parts under a steady load, and whether what they take stays flat.

    python benchmarks/bench_soak.py [--minutes 30] [--warm-up 15] [--rate 2000] [--save]

A node, `host serve` with an NBD client, a program with a volume of its own, two sites, an archiver,
backups and the broker run together (soak_parts.py). Every 10 s, each process is sampled with its
children: resident memory, what of it no file backs, descriptors and threads; and the disk that
its folder takes. All metrics pages are read, node and dashboard are asked over HTTP what changed,
and a browser's stream of events is opened and closed, so that those ways are part of the load; once
a minute, `mirrorlog check` is run. The warm-up isn't judged. flatness.py says what is flat, and
LIMITS how much is allowed.

At the end, the writers stop, the sites catch up, and each secondary is compared with its primary.
It fails (exit code 1) if something isn't flat, if a part has printed a warning, if a secondary
differs, or if the rate wasn't held. With --save, the result is kept in docs/measured/soak.json, and
soak_report.py draws docs/reliability.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from urllib.request import urlopen

from bench_node import log_line
from case_options import data_folder
from flatness import Limit, Verdict, judge
from process_samples import disk_bytes, sample_process
from results import RESULTS_DIR, machine
from soak_parts import MIB, SITES, VOLUMES, Soak, started_soak, unexpected_lines
from soak_writer import BLOCK_BYTES, COUNT

from mirrorlog.consumers.verify.compare import compare_files

_EVERY_S: Final = 10.0
_ANSWER_S: Final = 60.0
_HELD: Final = 0.999
LIMITS: Final = {
    "rss_bytes": Limit(per_hour=8 * MIB, share_per_hour=0.05, step=8 * MIB, share=0.05),
    "anonymous_bytes": Limit(per_hour=8 * MIB, share_per_hour=0.05, step=8 * MIB, share=0.05),
    "descriptors": Limit(per_hour=4, share_per_hour=0.02, step=8, share=0.1),
    "threads": Limit(per_hour=4, share_per_hour=0.02, step=4, share=0.1),
    "disk_bytes": Limit(per_hour=8 * MIB, share_per_hour=0.05, step=8 * MIB, share=0.1),
}
GROWS_BY_DESIGN: Final = {("archive", "disk_bytes")}
"""An archive keeps history for ever."""

Series = dict[str, dict[str, list[float]]]
"""By part and quantity, the samples."""


class Sampler:
    """Takes the samples.

    began_at: when the soak began, in UTC. times_s: of the samples, from then on. counts: the writes
    until each of them.
    checks: the exit codes of `mirrorlog check`.
    """

    def __init__(self, soak: Soak) -> None:
        self._soak, self._began_s = soak, time.monotonic()
        self.began_at: Final = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.times_s: list[float] = []
        self.counts: list[int] = []
        self.loads: list[float] = []
        self.checks: list[int] = []
        self.series: Series = {name: {} for name in soak.folders}

    def sample(self) -> None:
        """Take one sample of everything."""
        soak = self._soak
        self.times_s.append(round(time.monotonic() - self._began_s, 2))
        self.counts.append(
            sum(
                COUNT.unpack(file.read_bytes().ljust(COUNT.size, b"\0"))[0] if file.exists() else 0
                for file in soak.count_files.values()
            )
        )
        self.loads.append(round(os.getloadavg()[0], 2))
        for name, pid in soak.pids.items():
            of_disk = {"disk_bytes": disk_bytes(soak.folders[name])}
            quantities = asdict(sample_process(pid)) | of_disk
            for quantity, value in quantities.items():
                self.series[name].setdefault(quantity, []).append(value)

    def ask(self) -> None:
        """Read all pages, and the first event of a stream; once a minute run `check`."""
        soak = self._soak
        since = f"since={quote('30s ago')}"
        pages = [*soak.metrics_urls.values(), f"{soak.node_url}/metrics"]
        for name in VOLUMES:
            of_dashboard = f"{soak.dashboard_url}/v1/volumes/{name}"
            pages += [f"{soak.node_url}/v1/volumes/{name}/changed?{since}"]
            pages += [f"{of_dashboard}/{question}?{since}" for question in ("changed", "heat")]
            pages += [f"{of_dashboard}/lag?site=site-a"]
        for url in pages:
            with urlopen(url, timeout=_ANSWER_S) as answer:
                answer.read()
        with urlopen(f"{soak.dashboard_url}/v1/events", timeout=_ANSWER_S) as stream:
            while stream.readline().strip():
                pass
        if len(self.times_s) % 6 == 0:
            code, text = soak.command("check")
            self.checks.append(code)
            if code:
                log_line(f"check: exit code {code}: {text.partition('|')[0]}")


def run_soak(soak: Soak, seconds: float) -> Sampler:
    """Sample for so long."""
    sampler = Sampler(soak)
    until_s = time.monotonic() + seconds
    while (began_s := time.monotonic()) < until_s:
        soak.check()
        sampler.sample()
        sampler.ask()
        if len(sampler.times_s) % 6 == 0:
            rate = sampler.counts[-1] / max(sampler.times_s[-1], 1)
            log_line(f"{sampler.times_s[-1]:6.0f} s, {rate:.0f} writes/s, load {sampler.loads[-1]}")
        time.sleep(max(0.0, _EVERY_S - (time.monotonic() - began_s)))
    sampler.sample()
    return sampler


def after_warm_up(times_s: Sequence[float], warm_up_s: float) -> int:
    """Return the index of the first sample that is judged."""
    return next(index for index, at_s in enumerate(times_s) if at_s >= warm_up_s)


def judge_all(
    times_s: list[float], series: Series, warm_up_s: float
) -> dict[str, dict[str, Verdict]]:
    """Return the verdicts on every part and quantity that is limited."""
    first = after_warm_up(times_s, warm_up_s)
    return {
        name: {
            quantity: judge(times_s[first:], quantities[quantity][first:], limit)
            for quantity, limit in LIMITS.items()
        }
        for name, quantities in series.items()
    }


def grown(verdicts: Mapping[str, Mapping[str, Verdict]]) -> list[str]:
    """Return a line for each quantity that isn't flat although it should be."""
    return [
        f"{name}: {quantity} grows by {verdict.per_hour:.4g} an hour, highs of the thirds "
        + ", ".join(f"{value:.4g}" for value in verdict.highs)
        for name, of_part in verdicts.items()
        for quantity, verdict in of_part.items()
        if not verdict.is_flat and (name, quantity) not in GROWS_BY_DESIGN
    ]


def rate_of(sampler: Sampler, warm_up_s: float) -> float:
    """Return the writes/s behind the warm-up."""
    first = after_warm_up(sampler.times_s, warm_up_s)
    writes = sampler.counts[-1] - sampler.counts[first]
    return writes / (sampler.times_s[-1] - sampler.times_s[first])


def differing_secondaries(soak: Soak) -> list[str]:
    """Stop the writers, wait for the sites, and return a line for each secondary that differs."""
    soak.stop_writers()
    lines = []
    for name in VOLUMES:
        code, text = soak.command("site", "wait", name, "--timeout", "2m")
        if code:
            lines.append(f"{name}: `site wait` ended with {code}: {text.strip()[-300:]}")
    folder = soak.run.folder
    copies = [(site, name) for name, sites in SITES.items() for site in sites]
    for site, name in copies:
        primary, copy = folder / "primaries" / f"{name}.img", folder / site / f"{name}.img"
        if not compare_files(primary, copy, block_size=BLOCK_BYTES).identical:
            lines.append(f"{name}: the secondary at {site} differs")
    return lines


def counted(lines: Sequence[str]) -> list[str]:
    """Return the first of the lines that differ in numbers alone, and how many there are."""
    alike: dict[str, list[str]] = {}
    for line in lines:
        alike.setdefault(re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", line), []).append(line)
    return [
        same[0] if len(same) == 1 else f"{same[0]} (and {len(same) - 1} like it)"
        for same in alike.values()
    ]


def save(result: Mapping[str, Any]) -> Path:
    """Keep the result, with each series on a line. Return its path."""
    series = result["series"]
    text = json.dumps({**result, "series": {}}, indent=1).removesuffix("}").rstrip()
    text = text.removesuffix('"series": {}').rstrip()
    lines = [
        f'  "{name}": {{\n'
        + ",\n".join(f'   "{quantity}": {json.dumps(v)}' for quantity, v in of_part.items())
        + "\n  }"
        for name, of_part in series.items()
    ]
    path = RESULTS_DIR / "soak.json"
    path.write_text(f'{text}\n "series": {{\n' + ",\n".join(lines) + "\n }\n}\n", "utf-8")
    return path


def keep_files(folder: Path, sampler: Sampler, target: Path) -> None:
    """Copy the logs to a folder, with the samples, and a list of all files and what each takes."""
    target.mkdir(parents=True, exist_ok=True)
    for log in [*folder.glob("*.log"), *(folder / "broker" / "log").iterdir()]:
        shutil.copy(log, target)
    series = {"times_s": sampler.times_s, "series": sampler.series}
    (target / "series.json").write_text(json.dumps(series))
    files = [
        f"{path.stat().st_blocks * 512:>12} {path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    (target / "files.txt").write_text("".join(files))


def main() -> int:
    """Return exit code 1 if something failed."""
    parser = argparse.ArgumentParser(description="All parts under a steady load, for long.")
    parser.add_argument("--minutes", type=float, default=30, help="so long it is judged")
    parser.add_argument("--warm-up", type=float, default=15, help="minutes before that")
    parser.add_argument("--rate", type=float, default=2000, help="writes/s (default 2,000)")
    parser.add_argument("--dir", type=Path, help="create the folder for all data here")
    parser.add_argument("--save", action="store_true", help="keep the result")
    parser.add_argument("--keep", type=Path, help="copy logs and samples to this folder")
    arguments = parser.parse_args()
    warm_up_s = arguments.warm_up * 60
    seconds = warm_up_s + arguments.minutes * 60
    with data_folder(arguments) as data:
        folder = data / "soak"
        with started_soak(folder, arguments.rate) as soak:
            sampler = run_soak(soak, seconds)
            failures = differing_secondaries(soak)
        failures += [f"printed by {line}" for line in counted(unexpected_lines(folder))]
        if arguments.keep:
            keep_files(folder, sampler, arguments.keep)
    verdicts = judge_all(sampler.times_s, sampler.series, warm_up_s)
    failures += grown(verdicts)
    rate = rate_of(sampler, warm_up_s)
    if rate < _HELD * arguments.rate:
        failures.append(f"{rate:.0f} writes/s were reached, not {arguments.rate:.0f}")
    result = {
        "bench": "soak",
        "began_at": sampler.began_at,
        "minutes": arguments.minutes,
        "warm_up_s": warm_up_s,
        "wanted_writes_per_s": arguments.rate,
        "writes_per_s": round(rate, 1),
        "writes": sampler.counts[-1],
        "load_1m": [min(sampler.loads), max(sampler.loads)],
        "checks": {str(code): sampler.checks.count(code) for code in sorted(set(sampler.checks))},
        "failures": failures,
        "verdicts": {
            name: {quantity: asdict(verdict) for quantity, verdict in of_part.items()}
            for name, of_part in verdicts.items()
        },
        "machine": machine(),
        "times_s": sampler.times_s,
        "counts": sampler.counts,
        "loads": sampler.loads,
        "series": sampler.series,
    }
    if arguments.save:
        log_line(f"kept as {save(result)}")
    for failure in failures:
        log_line(f"FAILED {failure}")
    print(json.dumps({key: value for key, value in result.items() if key != "series"}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
