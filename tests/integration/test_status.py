"""`status`, `check` and `site`, from the outside, on the topics of a real broker.

The test publishes what a site and a host would: these commands read reports and leases only.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from command_line import run_main
from deadlines import DEADLINE_S
from notation import command, site_progress
from reports import HOST, LEASE
from writing import make_volumes

from mirrorlog.adapters.kafka import KafkaPublisher
from mirrorlog.cli.demo.run import Run
from mirrorlog.codec.events import encode
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.site_progress import SiteProgress, SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.settings import Settings

pytestmark = pytest.mark.integration


@dataclass
class Topics:
    """The topics, with volume vol1, which has no command yet: position -1 is all there is."""

    settings: Settings
    publisher: KafkaPublisher
    volume: Volume

    def publish(self, topic: str, key: bytes, event: object) -> None:
        self.publisher.publish(topic, 0, key, encode(event))
        self.publisher.flush(DEADLINE_S)

    def report(self, state: SiteState, **more: object) -> None:
        """Publish a report of site s."""
        report: SiteProgress = site_progress(
            volume="vol1",
            generation=self.volume.generation,
            state=state,
            applied_position=-1,
            **more,
        )
        self.publish(self.settings.topics.progress, b"s/vol1", report)

    def beat(self) -> None:
        """Publish a heartbeat of a session to the commands."""
        beat = command(name="", kind=CommandKind.HEARTBEAT, sequence=-1)
        self.publish(self.settings.topics.commands, b"", beat)

    def lease(self, *, is_over: bool = False) -> None:
        """Publish a lease of site s."""
        lease = replace(LEASE, site="s", is_over=is_over, caught_up_age_s=0.1)
        self.publish(self.settings.topics.progress, b"s/", lease)


@pytest.fixture
def topics(world: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Topics]:
    settings = world.settings
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    (volume,) = make_volumes(settings, {"vol1": 1 << 20}, tmp_path / "primaries").values()
    with closing(KafkaPublisher(settings.kafka_client())) as publisher:
        yield Topics(settings, publisher, volume)


def run_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a command under --json; return the object that it printed."""
    ended, out, err = run_main(["--json", *arguments])
    assert ended == code, err
    return json.loads(out.splitlines()[-1])


def test_the_commands_say_the_same_of_a_secondary(topics: Topics) -> None:
    topics.lease()
    topics.report(SiteState.SYNCING)
    late = run_json("site", "wait", "vol1", "--timeout", "0s", code=1)
    assert "the secondary of s isn't consistent yet, its state is RESYNCING" in late["what"]
    late = run_json("status", "vol1", "--wait", "--timeout", "0s", code=1)
    assert late["what"] == "1 secondary wasn't consistent within 0 s"

    topics.report(SiteState.CONSISTENT, consistent_position=-1)
    topics.publish(topics.settings.topics.reports, b"host/h/vol1", replace(HOST, volume="vol1"))
    (waited,) = run_json("site", "wait", "vol1")["secondaries"]
    shown = run_json("status", "vol1", "--wait")
    (row,), (host,) = shown["volumes"], shown["hosts"]
    assert (row["state"], row["consistent_position"]) == ("CONSISTENT", -1)
    assert (waited["state"], waited["consistent_position"]) == ("CONSISTENT", -1)
    topics.report(SiteState.CONSISTENT, consistent_position=-1, watermark=-1)
    topics.lease()
    topics.beat()  # the site has no cause for a further report
    (waited,) = run_json("site", "wait", "vol1", "--timeout", "0s")["secondaries"]
    assert (waited["state"], waited["consistent_position"]) == ("CONSISTENT", 0)
    run_json("status", "vol1", "--wait", "--timeout", "0s")
    assert (host["state"], host["reported_state"]) == ("OPEN", "OPEN")
    (site,) = run_json("site", "list")["sites"]
    assert (site["site"], site["process"], site["volumes"]) == ("s", "RUNNING", {"CONSISTENT": 1})
    code, line, _ = run_main(["check"])
    assert (code, line.split(" - ")[0]) == (2, "MIRRORLOG CRITICAL"), "no worker of the node runs"


def test_a_site_is_removed_once(topics: Topics) -> None:
    topics.report(SiteState.CONSISTENT, consistent_position=-1)
    topics.lease(is_over=True)
    dry = run_json("site", "remove", "s", "--dry-run")
    assert "Its reports on 1 volume are deleted: vol1." in dry["cost"]
    assert (dry["reports"], dry["volumes"][0]["state"]) == (1, "CONSISTENT")
    assert [site["site"] for site in run_json("site", "list")["sites"]] == ["s"]
    assert run_json("site", "remove", "s", "--yes")["reports"] == 1
    assert run_json("site", "list")["sites"] == []
    for option in ("--dry-run", "--yes"):
        assert run_json("site", "remove", "s", option, code=2)["what"] == "there is no site 's'"


_ON_A_TERMINAL = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C on the terminal interrupts this process
runpy.run_module("mirrorlog", run_name="__main__")
"""


class Terminal:
    """A terminal of 100 columns, and what was shown on it so far: `shown`."""

    def __init__(self, *arguments: str) -> None:
        self._main, other = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_A_TERMINAL, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        )
        os.close(other)

    def wait_for(self, text: str) -> None:
        """Read until `text` was shown after what earlier calls waited for."""
        start, until_s = len(self.shown), time.monotonic() + DEADLINE_S
        while text not in self.shown[start:]:
            assert time.monotonic() < until_s, self.shown[-2000:]
            assert self._read(1.0), f"the command has ended: {self.shown[-2000:]}"

    def interrupt(self) -> int:
        """Type Ctrl-C; return the exit code."""
        os.write(self._main, b"\x03")
        until_s = time.monotonic() + DEADLINE_S
        while self._read(1.0):
            assert time.monotonic() < until_s, f"it goes on: {self.shown[-2000:]}"
        return self.process.wait(DEADLINE_S)

    def _read(self, timeout_s: float) -> bool:
        """Take what is shown within `timeout_s`; return False at its end."""
        ready = select.poll()  # select() takes no descriptor above 1023
        ready.register(self._main, select.POLLIN)
        if not ready.poll(timeout_s * 1000):
            return True
        try:
            data = os.read(self._main, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.shown += data.decode()
        return bool(data)

    def close(self) -> None:
        """End the command if it runs, and close the terminal."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        os.close(self._main)


def test_watching_on_a_terminal_follows_and_ends_by_ctrl_c(topics: Topics) -> None:
    topics.lease()
    topics.report(SiteState.SYNCING)
    with closing(Terminal("status", "--watch", "--interval", "200ms")) as terminal:
        terminal.wait_for("RESYNCING")
        topics.lease()
        topics.report(SiteState.CONSISTENT, consistent_position=-1)
        terminal.wait_for("CONSISTENT")
        code = terminal.interrupt()
    assert code == 130, terminal.shown[-2000:]
    assert "Traceback" not in terminal.shown
    last = terminal.shown.rindex
    assert last("\x1b[?1049l") > last("\x1b[?1049h"), "the screen from before is back"
    assert last("\x1b[?25h") > last("\x1b[?25l"), "the cursor is shown again"
