"""Roll-ups and retention with a real broker, node and site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from deadlines import DEADLINE_S
from running import Outcome, committed, wait_for_result, wait_for_writes

from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.changelog import read_changelog
from mirrorlog.domain.positions import BEFORE_FIRST
from mirrorlog.producers.traces import RequestKind, count_dirty_blocks, demo_trace_path, open_trace
from mirrorlog.tracking_log.records import LogRecord

pytestmark = pytest.mark.integration

TRACE = demo_trace_path()
QUICK = {"node_tiers_s": (1, 2, 4), "node_keep_s": {"second": 0, "minute": 0, "hour": 0}}


def cli(run: Run, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mirrorlog", "--json", *arguments]
    environment = {**os.environ, **run.settings.as_environment(), **more}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=environment
    )


def wait_for_records(
    run: Run, partition: int, last: int, enough: Callable[[list[LogRecord]], bool]
) -> None:
    """Return when the log is complete through position `last` and `enough` accepts its records."""
    until = time.monotonic() + DEADLINE_S
    while True:
        records, through = read_changelog(run.settings, partition)
        if through >= last and enough(records):
            return
        assert time.monotonic() < until, [
            (record.tier, record.after, record.through) for record in records
        ]
        run.check()


def write_until_all_is_rolled_up(run: Run, partition: int, last: int) -> None:
    """Return when the log is complete through `last`, and through what was sent again, the lowest
    tier has no record left, and no worker will fold any of it once more.

    A worker that was killed may have recorded commands, and rolled their records up, before their
    positions were committed. The next one folds them again and writes a record of them. It may do
    that after the log was seen rolled up, and with no record behind it.

    A record with no record behind it is not rolled up. Whether the node folds a command into a
    record of its own depends on its pace. So a write that the host made is sent again whenever one
    record is left over; it changes no block.
    """
    again = next(
        request for request in open_trace(TRACE).requests() if request.kind is RequestKind.WRITE
    )
    extent = f"{again.offset}+{again.length}"
    until = time.monotonic() + DEADLINE_S
    while True:
        begins = committed(run)[partition] or 0  # before the log: it holds all that is committed
        records, through = read_changelog(run.settings, partition)
        waiting = [record for record in records if not record.tier]
        if begins > last and through >= last and records and not waiting:
            return
        if through >= last and len(waiting) == 1:
            sent = cli(run, "command", "send", "demo", "--write", extent)
            assert sent.returncode == 0, sent.stdout
            last = json.loads(sent.stdout.splitlines()[-1])["position"]
        assert time.monotonic() < until, [(r.tier, r.after, r.through) for r in records]
        run.check()


@pytest.mark.parametrize("world", [QUICK], indirect=True)
def test_rolled_up_while_workers_die_the_log_still_proves_itself(world: Run) -> None:
    node = world.start_node()
    world.wait_ready("node")
    world.start_host(TRACE, "auto")
    world.start_site("early")
    wait_for_writes(world, 500)
    volume = Outcome(world).volumes["demo"]
    wait_for_records(world, volume.partition, BEFORE_FIRST, bool)
    node.kill()
    node.start()
    last = wait_for_result(world)["last_positions"]
    write_until_all_is_rolled_up(world, volume.partition, last["demo"])
    world.start_site("late")
    outcome = Outcome(world)
    outcome.wait_consistent("early", last)
    outcome.wait_consistent("late", last)
    assert outcome.identical("early")
    assert outcome.identical("late")
    assert outcome.dirty_blocks(last) == count_dirty_blocks(open_trace(TRACE), 4096)["demo"]
    checked = cli(world, "log", "rebuild", "--check", "--all")
    assert checked.returncode == 0, checked.stdout
    shown = [json.loads(line) for line in cli(world, "log", "show", "demo").stdout.splitlines()]
    *records, end = shown
    assert (end["message_type"], end["records"]) == ("result", len(records))
    assert {record["tier"] for record in records} <= {"minute", "hour", "day"}


@pytest.mark.parametrize(
    "world", [QUICK | {"node_keep_s": QUICK["node_keep_s"] | {"day": 3}}], indirect=True
)
def test_past_retention_the_answer_is_from_when_on_the_log_can_answer(world: Run) -> None:
    world.start_node()
    world.wait_ready("node")
    world.start_host(TRACE, "auto")
    last = wait_for_result(world)["last_positions"]["demo"]
    volume = Outcome(world).volumes["demo"]
    wait_for_records(world, volume.partition, last, lambda records: not records)
    asked = cli(world, "changed", "demo")
    error = json.loads(asked.stdout.splitlines()[-1])
    assert (asked.returncode, error["code"]) == (3, "OutOfRetention")
    assert "The log can answer from position " in error["next"]
    position = error["next"].split("--since @")[1].rstrip(".")
    assert int(position) > 0
    assert cli(world, "changed", "demo", "--since", f"@{position}").returncode == 0
