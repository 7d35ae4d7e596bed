"""A process that was killed is never shown as if it were at work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from reports import HOST, NODE

from mirrorlog.cli.support.plugin_line import plugin_lines
from mirrorlog.cli.support.status_view import overview_fields, summary_lines
from mirrorlog.domain.reports import HostReport, HostState, NodePartitionState, NodeReport
from mirrorlog.reading.present_state import PresentState, Reported
from mirrorlog.status.health import Health, Thresholds
from mirrorlog.status.hosts import HOST_SILENT_S
from mirrorlog.status.nodes import NODE_SILENT_S
from mirrorlog.status.overview import Overview, QuarantineNews, evaluate

NOW_S = 1_000_000.0
OPEN = replace(HOST, is_whole_volume_hot=False, spool_bytes=0)
RUNNING = replace(
    NODE,
    is_over=False,
    partitions=(replace(NODE.partitions[0], state=NodePartitionState.RUNNING, reason=None),),
)


def overview(
    heard_s: float | None, *, host: HostReport | None = None, node: NodeReport | None = None
) -> Overview:
    """Return the overview when these reports are `heard_s` old (None: of unknown age)."""
    at_us = None if heard_s is None else int((NOW_S - heard_s) * 1e6)
    state = PresentState()
    if host is not None:
        state.hosts[host.host, host.volume] = Reported(host, at_us)
    if node is not None:
        state.nodes[node.node] = Reported(node, at_us)
    return evaluate(
        state,
        QuarantineNews(count=0),
        partition_count=0,
        now_us=int(NOW_S * 1e6),
        thresholds=Thresholds(),
    )


def host_seen(heard_s: float | None, host: HostReport = OPEN) -> tuple[dict[str, Any], str]:
    """Return the host's row as JSON, and its line for people."""
    seen = overview(heard_s, host=host)
    (fields,) = overview_fields(seen)["hosts"]
    return fields, next(line for line in summary_lines(seen) if line.startswith("host h"))


def test_a_host_that_reports_is_open() -> None:
    fields, line = host_seen(HOST_SILENT_S - 1)
    assert (fields["state"], fields["reported_state"], fields["health"]) == ("OPEN", "OPEN", "OK")
    assert line.startswith("host h on v: OK, OPEN, 3 hot regions")


@pytest.mark.parametrize(
    ("heard_s", "health", "shown"),
    [
        (HOST_SILENT_S, "WARNING", "silent for 30 s (last: OPEN)"),
        (None, "UNKNOWN", "? (last: OPEN)"),
    ],
)
def test_a_host_that_was_killed_is_not_open(heard_s: float | None, health: str, shown: str) -> None:
    fields, line = host_seen(heard_s)
    assert (fields["state"], fields["reported_state"]) == (None, "OPEN")
    assert (fields["health"], fields["heartbeat_age_s"]) == (health, heard_s)
    assert line.startswith(f"host h on v: {health}, {shown}, 3 hot regions")


def test_a_host_that_closed_stays_closed() -> None:
    fields, _ = host_seen(86_400.0, replace(OPEN, state=HostState.CLOSED))
    assert (fields["state"], fields["health"]) == ("CLOSED", "OK")


def test_check_warns_of_a_silent_host() -> None:
    seen = overview(90.0, host=OPEN)
    assert seen.health is Health.WARNING
    lines = "\n".join(plugin_lines(seen, Thresholds()))
    assert "WARNING: host h on v: nothing was heard of the host for 1.5 min" in lines


def test_a_worker_that_was_killed_runs_no_partition() -> None:
    (lives,) = overview_fields(overview(1.0, node=RUNNING))["nodes"]
    (part,) = lives["partitions"]
    assert (part["state"], part["lag_s"], part["behind_commands"]) == ("RUNNING", 0.5, 2)
    silent = overview(NODE_SILENT_S, node=RUNNING)
    (row,) = overview_fields(silent)["nodes"]
    (part,) = row["partitions"]
    assert (part["state"], part["reported_state"]) == (None, "RUNNING")
    assert (part["lag_s"], part["behind_commands"], row["lag_s"]) == (None, None, None)
    assert "oldest_record_at" not in {*row, *part}, "no node fills it"
    line = next(line for line in summary_lines(silent) if line.startswith("node n"))
    assert line.startswith("node n: WARNING, silent for 30 s, partitions 3; lag ?, table 5 B: ")
