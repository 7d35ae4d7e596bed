"""A healthy run prints nothing at warning or above, and takes no more and more, for however long.

This is the short form: Faust's own timeouts, which are five minutes, are turned down, and what is
done again and again is done often. `make soak` runs the long one (benchmarks/bench_soak.py), which
also judges memory and disk.
"""

from __future__ import annotations

import logging
import os
import re
import time
from math import inf
from pathlib import Path
from random import Random
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from deadlines import DEADLINE_S, wait_until
from writing import make_volumes, names_by_partition

from mirrorlog.cli.demo.run import Run
from mirrorlog.producers import open_volume

pytestmark = [pytest.mark.integration, pytest.mark.long]

MIB = 1 << 20
TIMEOUT_S = 3.0
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROUNDS = 45
STEP = 8
"""What leaks leaves one thing in each round, so there are 15 more in the last third of them than in
the second. Up to STEP more are no leak: connections and threads come and go."""
OF_A_START = re.compile(r"^the node is ready|waiting for Kafka at|Kafka at \S+ answers$")
FAUST_TIMEOUTS = ("STREAM_PROCESSING_TIMEOUT", "BROKER_COMMIT_LIVELOCK_SOFT_TIMEOUT")


def printed(run: Run) -> list[str]:
    """Return what the parts have printed for people, but for lines of their start: that they are
    ready, and that Kafka took more than a second for its first answer on a busy machine."""
    lines = []
    for name in run.parts:
        text = (run.folder / f"{name}.log").read_text("utf-8", "replace")
        lines += [line for line in text.splitlines() if not OF_A_START.search(line)]
    return lines


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what mirrorlog has logged in this process, in which the hosts run.

    The library stamina logs here when a request is repeated. The command line silences it.
    """
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("mirrorlog")
        and record.levelno >= logging.WARNING
        and not OF_A_START.search(record.getMessage())
    ]


def start_parts(run: Run) -> str:
    """Start a node and a site; return the node's HTTP address."""
    run.start_node()
    url = run.wait_for(
        lambda message: message.part == "node" and message.message_type == "ready", DEADLINE_S
    )["http"]
    run.start_site("site-a")
    run.wait_ready("site-a")
    return str(url)


class Samples:
    """Descriptors and threads of the node, the site and this process, sampled again and again."""

    def __init__(self, bench: SimpleNamespace, run: Run) -> None:
        self._bench = bench
        self._pids = {name: part.pid for name, part in run.parts.items()} | {"host": os.getpid()}
        self._times_s: list[float] = []
        self._values: dict[tuple[str, str], list[float]] = {}

    def take(self) -> None:
        self._times_s.append(time.monotonic())
        for name, pid in self._pids.items():
            sample = self._bench.sample_process(pid, with_children=False)
            for quantity in ("descriptors", "threads"):
                values = self._values.setdefault((name, quantity), [])
                values.append(getattr(sample, quantity))

    def grown(self) -> dict[tuple[str, str], tuple[float, float, float]]:
        """Return the maxima of the thirds of what has grown, by part and quantity."""
        limit = self._bench.Limit(per_hour=inf, share_per_hour=0, step=STEP, share=0)
        verdicts = {
            key: self._bench.judge(self._times_s, values, limit)
            for key, values in self._values.items()
        }
        return {key: verdict.maxima for key, verdict in verdicts.items() if not verdict.is_flat}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return what the soak's benchmark samples and judges with."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from flatness import Limit, judge
    from process_samples import sample_process

    return SimpleNamespace(Limit=Limit, judge=judge, sample_process=sample_process)


def work(run: Run, bench: SimpleNamespace, duration_s: float) -> list[str]:
    """Write as a host does, and ask over HTTP what changed, for `duration_s` in ROUNDS rounds.

    One volume is written all the time, one now and then, and the others never. Each has a
    partition of its own. Return what the hosts reported after each volume was first opened.
    """
    reports: list[str] = []
    url, random = start_parts(run), Random(1)
    names = names_by_partition(run.settings.partitions)
    make_volumes(run.settings, dict.fromkeys(names, 8 * MIB), run.folder / "primary")
    busy, seldom, *_ = names
    for name in (busy, seldom):
        open_volume(name, run.settings, report=lambda _: None).close()
    samples = Samples(bench, run)
    with open_volume(busy, run.settings, report=reports.append) as often:

        def write() -> None:
            often.pwrite(random.randbytes(4096), 4096 * random.randrange(2048))
            run.check()

        def write_until(end_s: float) -> None:
            wait_until(lambda: time.monotonic() > end_s, write)

        for _ in range(ROUNDS):
            end_s = time.monotonic() + duration_s / ROUNDS
            samples.take()
            write()
            with open_volume(seldom, run.settings, report=reports.append) as volume:
                volume.pwrite(random.randbytes(4096), 0)
            for name in (busy, seldom):
                with urlopen(
                    f"{url}/v1/volumes/{name}/changed?since=origin", timeout=DEADLINE_S
                ) as answer:
                    assert answer.status == 200
            write_until(end_s)
    assert samples.grown() == {}
    return reports


@pytest.mark.parametrize("world", [{"partitions": 3}], indirect=True, ids=[""])
def test_a_healthy_run_prints_nothing_and_leaks_nothing_after_fausts_timeouts(
    world: Run,
    bench: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in FAUST_TIMEOUTS:
        monkeypatch.setenv(name, str(TIMEOUT_S))
    assert work(world, bench, 3 * TIMEOUT_S) == []
    assert printed(world) == []
    assert logged(caplog) == []
