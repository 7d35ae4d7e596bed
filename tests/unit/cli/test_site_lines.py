"""What a running site prints: each change once, in bounded number, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirrorlog.cli.support.output import Output
from mirrorlog.cli.support.site_lines import SiteLines
from mirrorlog.consumers.resync.copy_counts import CopyCounts
from mirrorlog.consumers.resync.state_changes import SecondaryChange
from mirrorlog.consumers.workers.worker_status import WorkerStatus
from mirrorlog.domain.replica_states import NOTHING_KNOWN
from mirrorlog.domain.site_progress import Rung, SiteState
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock


class Printed:
    """The lines of a site, and the clock by which they are bounded."""

    def __init__(self, capsys: pytest.CaptureFixture[str], **options: bool) -> None:
        self.clock, self._capsys = ManualClock(), capsys
        self.lines = SiteLines("a", Output(**options), lambda: self.clock.now_s)

    def taken(self) -> list[str]:
        return self._capsys.readouterr().out.splitlines()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


def consistent(name: str, *, is_routine: bool = False) -> SecondaryChange:
    return SecondaryChange(
        volume=name,
        before=SiteState.SETTLING,
        state=SiteState.CONSISTENT,
        position=7,
        copied=CopyCounts(256, 1 << 20, 1 << 20),
        duration_s=3.0,
        is_routine=is_routine,
    )


SYNCING = SecondaryChange(
    volume="w",
    before=SiteState.WAITING,
    state=SiteState.SYNCING,
    position=None,
    rung=Rung.FULL,
    to_copy_bytes=1 << 30,
    reason=NOTHING_KNOWN,
)


def test_the_lines_of_a_first_copy(printed: Printed, tmp_path: Path) -> None:
    printed.lines.ready(Settings(bootstrap_servers="kafka:1"), tmp_path)
    printed.lines.change(SYNCING)
    printed.lines.change(consistent("v"))
    printed.lines.stopped()
    ready, syncing, done, stopped = printed.taken()
    assert ready == (
        "site a is ready: it mirrors the volumes that name it, or no site, and follows "
        "mirrorlog.log and mirrorlog.volumes at kafka:1 (named by the "
        f"program); its state is in {tmp_path}"
    )
    assert syncing == (f"w: INITIAL by the rung full, up to 1.0 GiB to copy: {NOTHING_KNOWN}")
    assert done == "v: SETTLING → CONSISTENT at position 7 after 3 s, 1.0 MiB copied"
    assert stopped == (
        "site a is stopped: 1 CONSISTENT, 1 INITIAL (w INITIAL, with nothing copied in full yet; "
        "v CONSISTENT at position 7). Started again, it goes on from there"
    )


def test_thousands_of_volumes_cost_few_lines(printed: Printed) -> None:
    for number in range(5000):
        printed.clock.now_s += 0.001
        printed.lines.change(consistent(f"v{number}"))
        printed.lines.tick()
    printed.clock.now_s += 10
    printed.lines.tick()
    lines = printed.taken()
    assert len(lines) == 21
    assert lines[-1] == "and 4980 more changes: 4980 to CONSISTENT; now 5000 CONSISTENT"
    printed.lines.stopped()
    (stopped,) = printed.taken()
    assert "and 4995 more" in stopped


def test_routine_cycles_are_summed_up(printed: Printed) -> None:
    for _ in range(100):
        printed.clock.now_s += 1
        printed.lines.change(consistent("v", is_routine=True))
        printed.lines.tick()
    lines = printed.taken()
    assert len(lines) == 2
    assert "60 cycles of 1 volume" in lines[1]


def test_json_has_a_message_for_each_and_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    printed = Printed(capsys, json=True)
    printed.lines.change(SYNCING)
    printed.lines.stopped()
    out, err = capsys.readouterr()
    assert err == ""
    state, stopped = map(json.loads, out.splitlines())
    assert (state["message_type"], state["volume"], state["to_copy_bytes"]) == (
        "state",
        "w",
        1 << 30,
    )
    assert (stopped["message_type"], stopped["now"]) == ("stopped", {"INITIAL": 1})


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    printed = Printed(capsys, quiet=True)
    printed.lines.change(SYNCING)
    printed.lines.stopped()
    assert printed.taken() == []


def test_a_worker_says_for_which_partitions_it_works_and_forgets_the_others(
    printed: Printed,
) -> None:
    for name in ("v", "w"):
        printed.lines.change(consistent(name))
    printed.taken()
    status = WorkerStatus(
        slot=1, workers=2, partitions=(0, 3), partition_count=4, volumes=frozenset("w")
    )
    printed.lines.share(status)
    assert printed.taken() == [
        "worker 1 of site a works for the partitions 0, 3 of 4; 2 workers live"
    ]
    printed.lines.stopped()
    assert "1 CONSISTENT (w CONSISTENT" in printed.taken()[-1]


@pytest.mark.parametrize(
    ("partitions", "said"), [((), "no partition of 4"), ((2,), "the partition 2 of 4")]
)
def test_a_worker_of_few_partitions_says_so(
    printed: Printed, partitions: tuple[int, ...], said: str
) -> None:
    status = WorkerStatus(
        slot=0, workers=1, partitions=partitions, partition_count=4, volumes=frozenset()
    )
    printed.lines.share(status)
    assert printed.taken() == [f"worker 0 of site a works for {said}; 1 worker lives"]
