"""What `broker start` says about how commands reach the broker."""

from __future__ import annotations

from pathlib import Path

from mirrorlog.bootstrap_servers import BootstrapServers
from mirrorlog.broker.control import BrokerState, BrokerStatus
from mirrorlog.cli.commands.broker import how_to_reach

RUNNING = BrokerStatus(
    state=BrokerState.RUNNING,
    bootstrap_servers="127.0.0.1:21000",
    pid=7,
    started_at="2026-11-28T02:00:00.000000Z",
    resident_bytes=1 << 28,
    state_dir="/state/broker",
    log="/state/broker/log/kafka.log",
)


def used(addresses: str, given_by: str | None) -> BootstrapServers:
    return BootstrapServers(addresses=addresses, given_by=given_by, state_dir=Path("/state"))


def test_commands_of_the_folder_find_it_and_others_need_a_variable() -> None:
    text = how_to_reach(RUNNING, used("127.0.0.1:21000", None))
    assert "state folder /state find it by themselves" in text
    assert text.endswith("export MIRRORLOG_BOOTSTRAP_SERVERS=127.0.0.1:21000")


def test_servers_that_something_else_names_are_said_to_win() -> None:
    text = how_to_reach(RUNNING, used("kafka:1", "MIRRORLOG_BOOTSTRAP_SERVERS"))
    assert "Commands use kafka:1 instead, named by MIRRORLOG_BOOTSTRAP_SERVERS" in text
    assert text.endswith("export MIRRORLOG_BOOTSTRAP_SERVERS=127.0.0.1:21000")
