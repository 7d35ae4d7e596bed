"""What the soak samples, and what it calls flat: planted leaks are found, noise is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MIB = 1 << 20
TIMES_S = np.arange(0, 1500, 10.0)
"""25 minutes, which are what is judged of half an hour."""


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the modules of the soak."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_soak
    import flatness
    import process_samples

    return SimpleNamespace(bench=bench_soak, flatness=flatness, samples=process_samples)


def test_the_slope_is_that_of_the_samples_and_a_peak_does_not_move_it(
    soak: SimpleNamespace,
) -> None:
    values = 5.0 + TIMES_S * 2
    values[70] = 1e9
    assert soak.flatness.slope_per_hour(TIMES_S, values) == pytest.approx(7200)
    with pytest.raises(ValueError, match="too few"):
        soak.flatness.judge([0, 1], [1, 1], soak.bench.LIMITS["threads"])


NOISE = np.random.default_rng(1).normal(0, 1, len(TIMES_S))
FLAT: dict[str, tuple[str, Callable[[], np.ndarray]]] = {
    "memory that goes up and down by some MiB": ("rss_bytes", lambda: (150 + NOISE) * MIB),
    "connections that come and go": ("descriptors", lambda: 100 + np.round(NOISE * 2)),
    "one thread more from the middle on": ("threads", lambda: 40 + (TIMES_S > 750)),
    "a connection for ten seconds": ("threads", lambda: 89 + 34 * (TIMES_S == 1200)),
    "a log that is cut every two minutes": ("disk_bytes", lambda: (20 + TIMES_S % 120 / 12) * MIB),
}
LEAKS: dict[str, tuple[str, Callable[[], np.ndarray]]] = {
    "a descriptor a cycle": ("descriptors", lambda: 100 + np.floor(TIMES_S)),
    "a descriptor every five minutes": ("descriptors", lambda: 100 + np.floor(TIMES_S / 300)),
    "a thread every ten minutes": ("threads", lambda: 40 + np.floor(TIMES_S / 600)),
    "ten threads for the last two minutes": ("threads", lambda: 40 + 10 * (TIMES_S > 1380)),
    "a list that grows by 3 KiB a second": ("rss_bytes", lambda: (60 + NOISE / 4) * MIB
        + TIMES_S * 3072),
    "a list that grows from minute 20 on": ("rss_bytes", lambda: (60 + NOISE / 4) * MIB
        + np.maximum(TIMES_S - 1200, 0) * 50_000),
    "a log that isn't cut": ("disk_bytes", lambda: 20 * MIB + TIMES_S * 20_000),
}  # fmt: skip


@pytest.mark.parametrize(("quantity", "samples"), FLAT.values(), ids=FLAT)
def test_noise_is_flat(
    soak: SimpleNamespace, quantity: str, samples: Callable[[], np.ndarray]
) -> None:
    assert soak.flatness.judge(TIMES_S, samples(), soak.bench.LIMITS[quantity]).is_flat


@pytest.mark.parametrize(("quantity", "samples"), LEAKS.values(), ids=LEAKS)
def test_a_leak_is_not(
    soak: SimpleNamespace, quantity: str, samples: Callable[[], np.ndarray]
) -> None:
    assert not soak.flatness.judge(TIMES_S, samples(), soak.bench.LIMITS[quantity]).is_flat


# quantity | what a planted leak adds in an hour, to the real samples of the kept soak
REAL_LEAKS = """
rss_bytes   | 40e6
anonymous_bytes | 40e6
descriptors | 60
threads     | 12
disk_bytes  | 40e6
"""


@pytest.mark.parametrize("case", REAL_LEAKS.strip().splitlines())
def test_a_leak_in_the_kept_soak_would_be_found(soak: SimpleNamespace, case: str) -> None:
    quantity, per_hour = (part.strip() for part in case.split("|"))
    kept = json.loads((BENCHMARKS.parent / "docs" / "measured" / "soak.json").read_text("utf-8"))
    times_s = np.array(kept["times_s"])
    first = int(np.searchsorted(times_s, kept["warm_up_s"]))
    leak, limit = times_s[first:] / 3600 * float(per_hour), soak.bench.LIMITS[quantity]
    judged = 0
    for name, series in kept["series"].items():
        values = np.array(series[quantity][first:], float)
        verdict = soak.flatness.judge(times_s[first:], values, limit)
        assert verdict.is_flat == kept["verdicts"][name][quantity]["is_flat"]
        if verdict.is_flat:
            judged += 1
            leaking = soak.flatness.judge(times_s[first:], values + np.floor(leak), limit)
            assert not leaking.is_flat, name
    assert judged > 0


def test_lines_that_differ_in_numbers_are_counted(soak: SimpleNamespace) -> None:
    lines = ["a: event 1 took 10 ms", "b: event 1 took 10 ms", "a: event 27 took 3 ms"]
    assert soak.bench.counted(lines) == ["a: event 1 took 10 ms (and 1 like it)", lines[1]]


def test_a_sample_counts_descriptors_threads_and_children(soak: SimpleNamespace) -> None:
    before = soak.samples.sample_process(os.getpid(), with_children=False)
    released = threading.Event()
    thread = threading.Thread(target=released.wait)
    thread.start()
    opened = os.open(os.devnull, os.O_RDONLY)
    try:
        after = soak.samples.sample_process(os.getpid(), with_children=False)
    finally:
        os.close(opened)
        released.set()
        thread.join()
    assert after.descriptors - before.descriptors == 1
    assert after.threads - before.threads == 1
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        both = soak.samples.sample_process(os.getpid())
        assert both.threads > before.threads
        assert both.anonymous_bytes > before.anonymous_bytes


def test_the_disk_is_what_files_take_without_their_holes(
    soak: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(os.urandom(64 << 10))
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert 64 << 10 <= soak.samples.disk_bytes(tmp_path) < 1 << 20


def test_lines_of_a_start_are_expected_and_a_warning_is_not(
    soak: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "broker" / "log").mkdir(parents=True)
    (tmp_path / "broker" / "log" / "kafka.log").write_text(
        "2026-11-29T09:18:36.038Z INFO fine (x)\n2026-11-29T09:18:37.038Z WARN disk is slow (x)\n"
    )
    (tmp_path / "node.log").write_text("the node is ready\nWARNING mirrorlog.node: stuck\n")
    from soak_parts import unexpected_lines  # the fixture made it importable

    assert unexpected_lines(tmp_path) == [
        "node: WARNING mirrorlog.node: stuck",
        "broker: 2026-11-29T09:18:37.038Z WARN disk is slow (x)",
    ]
