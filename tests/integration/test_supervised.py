"""A node and a site tell the service manager what systemd asks for, as real processes."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from writing import make_volumes

from mirrorlog.cli.demo.run import Run

pytestmark = pytest.mark.integration

WATCHDOG_US = "400000"


class Manager:
    """The socket of a service manager, and what came there."""

    def __init__(self, path: Path) -> None:
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(DEADLINE_S)

    def wait_for(self, line: str, *, times: int = 1) -> None:
        """Return when so many lines that begin with this one have come."""
        while sum(heard.startswith(line) for heard in self.heard) < times:
            self.heard += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


def test_a_node_and_a_site_say_that_they_are_ready_alive_and_stopping(
    world: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_volumes(world.settings, {"vol1": 1 << 20}, tmp_path / "primaries")
    monkeypatch.setenv("WATCHDOG_USEC", WATCHDOG_US)
    starts = {"node": world.start_node, "site": lambda: world.start_site("site")}
    for part, start in starts.items():
        with closing(Manager(tmp_path / f"{part}.notify")) as manager:
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / f"{part}.notify"))
            process = start()
            manager.wait_for("READY=1")
            manager.wait_for("WATCHDOG=1", times=2)
            if part == "site":
                manager.wait_for("STATUS=1 volume: ")
            process.signal(signal.SIGTERM)
            manager.wait_for("STOPPING=1")
            process.wait(DEADLINE_S)
            assert process.exit_code == 0
            assert manager.heard.index("READY=1") < manager.heard.index("STOPPING=1")
            assert (manager.heard.count("READY=1"), manager.heard.count("STOPPING=1")) == (1, 1)
