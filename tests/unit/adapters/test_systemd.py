"""What systemd hears of a service: real datagrams on real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorlog.adapters.systemd import SystemdSupervisor, open_supervisor
from mirrorlog.ports.supervisor import NoSupervisor
from mirrorlog.simulation.manual_clock import ManualClock


class Manager:
    """A socket as the service manager has one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Return what has come since the last call."""
        datagrams = []
        while True:
            try:
                datagrams.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return datagrams

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    names = {"path": str(tmp_path / "notify"), "abstract": f"@mirrorlog-test-{tmp_path}"}
    manager = Manager(names[request.param])
    yield manager
    manager.close()


def test_a_service_says_when_it_is_ready_how_it_does_and_that_it_stops(manager: Manager) -> None:
    supervisor = SystemdSupervisor(manager.address, None, ManualClock())
    supervisor.starting("reading the log", within_s=1.5)
    supervisor.ready("ready")
    supervisor.ready("ready, with\nother   partitions")
    supervisor.tell("ready, with other partitions")
    supervisor.starting("reading again", within_s=1.5)
    supervisor.tell("x" * 1000)
    supervisor.alive()
    supervisor.stopping()
    supervisor.stopping()
    assert manager.heard() == [
        "EXTEND_TIMEOUT_USEC=1500000\nSTATUS=reading the log",
        "READY=1\nSTATUS=ready",
        "STATUS=ready, with other partitions",
        f"STATUS={'x' * 500}",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_signs_of_life_are_sent_four_times_as_often_as_the_watchdog_bites(tmp_path: Path) -> None:
    manager, clock = Manager(str(tmp_path / "notify")), ManualClock()
    supervisor = SystemdSupervisor(manager.address, 20.0, clock)
    for _ in range(1000):
        supervisor.alive()
        clock.now_s += 0.01
    assert manager.heard() == ["WATCHDOG=1"] * 2
    clock.now_s += 1000  # the role hung: nothing was sent, and nothing is made up for
    assert manager.heard() == []
    supervisor.alive()
    assert manager.heard() == ["WATCHDOG=1"]
    manager.close()


def test_a_manager_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    supervisor = SystemdSupervisor(manager.address, 20.0, ManualClock())
    manager.close()
    supervisor.ready("ready")
    (tmp_path / "notify").unlink()
    supervisor.alive()


@pytest.mark.parametrize(
    ("variables", "heard"),
    [
        ({}, ["READY=1\nSTATUS=s"]),
        ({"WATCHDOG_USEC": "4000000"}, ["READY=1\nSTATUS=s", "WATCHDOG=1"]),
        (
            {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())},
            ["READY=1\nSTATUS=s", "WATCHDOG=1"],
        ),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}, ["READY=1\nSTATUS=s"]),
        ({"WATCHDOG_USEC": "0"}, ["READY=1\nSTATUS=s"]),
        ({"WATCHDOG_USEC": "soon"}, ["READY=1\nSTATUS=s"]),
    ],
)
def test_the_environment_names_the_manager_and_its_watchdog(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    heard: list[str],
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    for name, value in {"NOTIFY_SOCKET": manager.address, **variables}.items():
        monkeypatch.setenv(name, value)
    supervisor = open_supervisor()
    supervisor.ready("s")
    supervisor.alive()
    assert manager.heard() == heard
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    assert not [name for name in names if name in os.environ], "a child could speak for this one"
    manager.close()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234"])
def test_without_a_manager_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert isinstance(open_supervisor(), NoSupervisor)
