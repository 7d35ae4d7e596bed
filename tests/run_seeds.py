"""Runs the simulations that draw what happens by a seed, with more seeds than the suite.

`make seeds ARGS='--first 1000 --count 10000'` shares the seeds out evenly among the simulations.
The last line of stdout is a JSON object: by simulation, how many seeds ran and which failed. The
exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
SIMULATIONS: Final = {
    "histories": ("test_histories", "test_no_claim_outlives_the_history_in_which_it_was_made"),
    "site_faults": ("test_site_faults", "run"),
    "redo_journal": ("test_redo_journal", "run_with_faults"),
    "host_rollback": ("test_host_rollback", "run"),
    "host_histories": ("test_host_histories", "run"),
    "log_and_sites": (
        "test_log_and_sites",
        "test_any_order_of_writes_flushes_and_crashes_ends_identical",
    ),
    "cut_off": ("test_cut_off", "run"),
    "device_faults": ("test_device_faults", "run"),
    "failing_over": (
        "test_failing_over",
        "test_any_order_of_promotions_rejoins_and_crashes_ends_with_equal_copies",
    ),
    "forked_writes": (
        "test_forked_writes",
        "test_any_order_of_writes_forks_copies_and_faults_ends_identical",
    ),
    "groups": ("test_consistency_groups", "run_either"),
    "mirrored_site": ("test_mirrored_site", "test_a_mirror_between_node_and_site_changes_nothing"),
    "mirrored_histories": ("test_mirrored_site", "test_histories_end_behind_a_mirror"),
    "site_workers": ("test_site_workers", "run"),
    "snapshots": ("test_snapshots", "run"),
    "snapshots_of_dying_hosts": ("test_snapshots", "run_with_deaths"),
    "verification": ("test_verification", "test_load_is_no_difference"),
    "verification_of_mirrored_sites": (
        "test_verification",
        "test_a_site_on_a_mirror_is_verified_from_the_source",
    ),
}
"""By name: the module in tests/simulation, and its function that takes a seed and raises."""
_TOGETHER: Final = 20


@cache
def simulation(name: str) -> Callable[[int], object]:
    """Return the function of a simulation. Its module finds the helpers in tests/ on sys.path."""
    logging.disable(logging.CRITICAL)
    sys.path[:0] = [str(TESTS), str(TESTS / "simulation")]
    module, function = SIMULATIONS[name]
    return getattr(import_module(module), function)


def run_some(name: str, first: int, count: int) -> tuple[str, int, dict[int, str]]:
    """Run `count` seeds from `first` on; return the name, the count, and the failures by seed."""
    failures = {}
    for seed in range(first, first + count):
        try:
            simulation(name)(seed)
        except Exception as error:  # noqa: BLE001 - it is the result
            failures[seed] = f"{type(error).__name__}: {error}"[:300]
    return name, count, failures


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--count", type=int, default=10_000, help="over all simulations")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=sorted(SIMULATIONS), nargs="*")
    parser.add_argument("--minutes", type=float, help="start no more seeds after this time")
    options = parser.parse_args()
    names = options.only or sorted(SIMULATIONS)
    share = -(-options.count // len(names))
    parts = [
        (name, options.first + start, min(_TOGETHER, share - start))
        for start in range(0, share, _TOGETHER)
        for name in names
    ]
    return run_parts(parts, options.workers, options.minutes)


def run_parts(parts: list[tuple[str, int, int]], workers: int, minutes: float | None) -> int:
    """Run the parts, print each failure at once and the sums at the end; return the exit code."""
    end_s = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    ran: dict[str, int] = {}
    failed: dict[str, list[int]] = {}
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(run_some, *part) for part in parts]
        for future in as_completed(futures):
            if future.cancelled():
                continue
            name, count, failures = future.result()
            ran[name] = ran.get(name, 0) + count
            failed.setdefault(name, []).extend(failures)
            for seed, text in failures.items():
                print(f"{name} seed {seed}: {text}", flush=True)
            if time.monotonic() >= end_s:
                for other in futures:
                    other.cancel()
    print(json.dumps({"seeds": sum(ran.values()), "ran": ran, "failed": failed}))
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
