"""A healthy run prints nothing at warning or above, however long it lasts.

`make soak` runs the long form for half an hour, or for `MINUTES=12`. The short form is in the
suite: Faust's own timeouts, which are five minutes, are turned down.
"""

from __future__ import annotations

import logging
import os
import re
import time
from random import Random
from urllib.request import urlopen

import pytest
from deadlines import DEADLINE_S
from writing import make_volumes, names_by_partition

from mirrorlog.cli.demo.run import Run
from mirrorlog.producers import open_volume

pytestmark = pytest.mark.integration

MIB = 1 << 20
TIMEOUT_S = 3.0
LONG_MINUTES = float(os.environ.get("MIRRORLOG_SOAK_MINUTES", "30"))
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


def work(run: Run, duration_s: float) -> list[str]:
    """Write as a host does, and ask over HTTP what changed, for `duration_s`.

    One volume is written all the time, one now and then, and the others never. Each has a
    partition of its own. Return what the hosts reported after each volume was first opened.
    """
    reports: list[str] = []
    url, random = start_parts(run), Random(1)
    names = names_by_partition(run.settings.partitions)
    make_volumes(run.settings, dict.fromkeys(names, 8 * MIB), run.folder / "primary")
    busy, seldom, *_ = names
    until, asked_s = time.monotonic() + duration_s, 0.0
    for name in (busy, seldom):
        open_volume(name, run.settings, report=lambda _: None).close()
    with open_volume(busy, run.settings, report=reports.append) as often:
        while (now_s := time.monotonic()) < until:
            often.pwrite(random.randbytes(4096), 4096 * random.randrange(2048))
            if now_s - asked_s > duration_s / 20:
                asked_s = now_s
                with open_volume(seldom, run.settings, report=reports.append) as volume:
                    volume.pwrite(random.randbytes(4096), 0)
                for name in (busy, seldom):
                    with urlopen(
                        f"{url}/v1/volumes/{name}/changed?since=origin", timeout=DEADLINE_S
                    ) as answer:
                        assert answer.status == 200
            time.sleep(0.01)
            run.check()
    return reports


@pytest.mark.parametrize("world", [{"partitions": 3}], indirect=True, ids=[""])
def test_a_healthy_run_prints_nothing_after_fausts_timeouts(
    world: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in FAUST_TIMEOUTS:
        monkeypatch.setenv(name, str(TIMEOUT_S))
    assert work(world, 3 * TIMEOUT_S) == []
    assert printed(world) == []
    assert logged(caplog) == []


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_healthy_run_of_half_an_hour_prints_nothing(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    assert work(run, LONG_MINUTES * 60) == []
    assert printed(run) == []
    assert logged(caplog) == []
