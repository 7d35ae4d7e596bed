"""What is frozen for a backup is thawed, whatever becomes of the backup."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import wait_until

from mirrorlog.consumers.backup.sources.hooks import HookFailed, Hooks, ThawCause, frozen


class Disk:
    """A file that says whether it is frozen. log: the commands that ran, in order."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()

    def hooks(self, before: str = "", after: str = "", timeout_s: float = 30) -> Hooks:
        return Hooks(
            before=f"echo freeze >> {self.log}; {before or 'true'}",
            after=f"echo thaw >> {self.log}; {after or 'true'}",
            timeout_s=timeout_s,
        )

    def ran(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_commands_run_before_and_after(disk: Disk) -> None:
    with frozen(disk.hooks()) as freeze:
        assert disk.ran() == ["freeze"]
        thaw = freeze.thaw()
        assert disk.ran() == ["freeze", "thaw"]
        assert thaw.is_in_time
        assert freeze.thaw() is thaw
    assert disk.ran() == ["freeze", "thaw"]


def test_the_end_of_the_block_thaws(disk: Disk) -> None:
    with frozen(disk.hooks()):
        pass
    assert disk.ran() == ["freeze", "thaw"]


def test_an_error_in_the_block_thaws_and_stays_the_error(disk: Disk) -> None:
    with pytest.raises(KeyboardInterrupt), frozen(disk.hooks(after="exit 3")):
        raise KeyboardInterrupt
    assert disk.ran() == ["freeze", "thaw"]


def test_a_freeze_that_fails_is_thawed_and_no_point_is_taken(disk: Disk) -> None:
    freeze = frozen(disk.hooks(before="echo no room; exit 3"))
    with pytest.raises(HookFailed, match="exit code 3: no room"), freeze:
        pytest.fail("the block must not run")
    assert disk.ran() == ["freeze", "thaw"]


def test_a_freeze_that_hangs_is_killed_and_thawed(disk: Disk, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    freeze = frozen(disk.hooks(before=f"sleep 600 & echo $! > {pid}; wait", timeout_s=0.3))
    with pytest.raises(HookFailed, match=r"end within 0\.3 s, and is killed"), freeze:
        pytest.fail("the block must not run")
    assert disk.ran() == ["freeze", "thaw"]
    wait_until(lambda: not is_running(int(pid.read_text())))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_backup_that_takes_too_long_is_thawed_meanwhile_and_told(disk: Disk) -> None:
    with frozen(disk.hooks(timeout_s=0.3)) as freeze:
        wait_until(lambda: disk.ran() == ["freeze", "thaw"])
        thaw = freeze.thaw()
        assert (thaw.cause, thaw.is_in_time) == (ThawCause.LATE, False)
    assert disk.ran() == ["freeze", "thaw"]


def test_a_thaw_that_fails_is_said(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    freeze = frozen(disk.hooks(after="echo stuck; exit 4"))
    with pytest.raises(HookFailed, match=r"after failed with exit code 4: stuck.*by hand"), freeze:
        pass
    with pytest.raises(ValueError), frozen(disk.hooks(after="echo stuck; exit 4")):
        raise ValueError
    assert "may be frozen" in caplog.text
    assert "stuck" in caplog.text


def test_an_interruption_while_it_freezes_is_no_failed_thaw(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    former = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        hooks = disk.hooks(before=f"kill -USR1 {os.getpid()}; sleep 100")
        with pytest.raises(KeyboardInterrupt), frozen(hooks):
            pass
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert disk.ran() == ["freeze", "thaw"]
    assert caplog.records == []


def test_without_commands_nothing_is_started() -> None:
    with frozen(Hooks(before=None, after=None, timeout_s=1)) as freeze:
        assert freeze.thaw().is_in_time


@pytest.mark.parametrize(
    "hooks",
    [
        Hooks(before="true", after=None, timeout_s=9),
        Hooks(before=None, after="true", timeout_s=9),
    ],
)
def test_one_command_alone(hooks: Hooks) -> None:
    with frozen(hooks) as freeze:
        assert freeze.thaw().is_in_time


BACKUP = """
import sys, time
from mirrorlog.consumers.backup.sources.hooks import Hooks, frozen
before, after = sys.argv[1:]
with frozen(Hooks(before=before, after=after, timeout_s=600)):
    print("frozen", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["frozen", "freezing"])
def test_a_process_that_is_killed_thaws(disk: Disk, number: signal.Signals, stage: str) -> None:
    hooks = disk.hooks(before="sleep 600" if stage == "freezing" else "")
    assert hooks.before is not None and hooks.after is not None
    process = subprocess.Popen(
        [sys.executable, "-c", BACKUP, hooks.before, hooks.after], stdout=subprocess.PIPE
    )
    try:
        if stage == "frozen":
            assert process.stdout is not None
            assert process.stdout.readline() == b"frozen\n"
        else:
            wait_until(lambda: disk.ran() == ["freeze"])
        process.send_signal(number)
        wait_until(lambda: disk.ran() == ["freeze", "thaw"])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_signals_to_every_process_at_once_do_not_end_the_guard(disk: Disk, tmp_path: Path) -> None:
    """As a service manager sends them. The guard is found as the parent of a command."""
    pid = tmp_path / "pid"
    with frozen(disk.hooks(before=f"echo $PPID > {pid}")):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            subprocess.run(["kill", f"-{number.value}", pid.read_text().strip()], check=True)
    assert disk.ran() == ["freeze", "thaw"]
