"""Several workers of the node share the partitions, and one takes over from another."""

from __future__ import annotations

import time

import pytest
from running import DEADLINE_S, Outcome, host_result, host_writes

from mirrorlog.cli.run import Run
from mirrorlog.producers.traces import count_dirty_blocks, demo_trace_path, open_trace

pytestmark = pytest.mark.integration

WORKERS = ("node-1", "node-2", "node-3")


def test_three_workers_share_and_one_killed_hands_over(run: Run) -> None:
    for name in WORKERS:
        run.start_node(name)
    partitions: dict[str, list[int]] = {}
    until = time.monotonic() + DEADLINE_S
    while sorted(p for each in partitions.values() for p in each) != [0, 1, 2, 3] or len(partitions) < 3:
        assert time.monotonic() < until, partitions
        for message in run.listen():
            if message.message_type == "ready":
                partitions[message.part] = message.fields["partitions"]
        run.check()
    run.start_site("site-a")
    run.start_host(demo_trace_path(), "auto", "--speed", "1")
    host_writes(run, 700)
    (volume,) = Outcome(run).volumes.values()
    (holder,) = [name for name, held in partitions.items() if volume.partition in held]
    run.parts.pop(holder).kill()

    def handed_over(message: object) -> bool:
        return getattr(message, "message_type", "") == "ready" and volume.partition in message.fields.get(
            "partitions", []
        )  # type: ignore[attr-defined]

    results = []
    run.wait_for(handed_over, DEADLINE_S, lambda m: results.append(m.fields) if m.message_type == "result" else None)
    result = results[0] if results else host_result(run)
    outcome = Outcome(run)
    outcome.wait_consistent("site-a", result["last_positions"])
    assert outcome.identical("site-a")
    counted = sum(count_dirty_blocks(open_trace(demo_trace_path()), 4096).values())
    assert outcome.dirty_blocks(result["last_positions"]) == counted
