"""A database's log and data on two volumes of one group, through hosts, the node and a site.

One writer writes the number n to the log, and when that is acknowledged, to the data, for n from 1
on, without a pause. So at one moment the data lacks at most the last number of the log.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from deadlines import DEADLINE_S, wait_until
from running import run_cli

from mirrorlog.adapters.addresses import open_device
from mirrorlog.cli.demo.run import Run
from mirrorlog.consumers.site_journals import apply_sealed_of
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.processes.child_processes import ChildProcess
from mirrorlog.settings import inherited_environment

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed"),
]

BLOCK = 4096
SLOTS = 256
"""How many blocks of each volume are written to, in turns."""
NAMES = ("wal", "data")
KILLS = 12


def numbers_in(image: Path) -> list[int]:
    """Return the numbers in an image, sorted. Each block must hold one number, or zeros."""
    content, numbers = image.read_bytes(), []
    for slot in range(SLOTS):
        block = content[slot * BLOCK : (slot + 1) * BLOCK]
        assert block == block[:8] * (BLOCK // 8), f"block {slot} is torn"
        if number := int.from_bytes(block[:8], "big"):
            assert number % SLOTS == slot
            numbers.append(number)
    return sorted(numbers)


def check_pair(wal: Path, data: Path) -> int:
    """Return the last number of the log. Both images must be of one moment."""
    in_wal, in_data = numbers_in(wal), numbers_in(data)
    last, written = in_wal[-1], in_data[-1]
    assert last - 1 <= written <= last, f"the log ends at {last}, and the data at {written}"
    for numbers in (in_wal, in_data):
        first = max(1, numbers[-1] - SLOTS + 1)
        assert numbers == list(range(first, numbers[-1] + 1)), "a write before the last is missing"
    return last


class Writer:
    """Writes to both volumes in a thread. number: the last that was acknowledged in both."""

    def __init__(self, uris: dict[str, str]) -> None:
        self._uris, self._stopped, self.number = uris, Event(), 0
        self._thread = Thread(target=self._write)

    def check(self) -> None:
        """Fail if the thread has ended by itself."""
        assert self._thread.is_alive(), "the writer has ended"

    def _write(self) -> None:
        with ExitStack() as stack:
            devices = [
                stack.enter_context(open_device(self._uris[name], writable=True)) for name in NAMES
            ]
            for number in count(1):
                if self._stopped.is_set():
                    return
                for device in devices:
                    device.pwrite(number % SLOTS * BLOCK, number.to_bytes(8, "big") * (BLOCK // 8))
                self.number = number

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._thread.start()
        try:
            wait_until(lambda: self.number > SLOTS, self.check)
            yield
        finally:
            self._stopped.set()
            self._thread.join()


class GroupRun:
    """The hosts of both volumes, and the site b, which is killed and started again."""

    def __init__(self, run: Run) -> None:
        self.run, self.folder = run, run.folder / "b"
        self.settings = run.settings
        self.states = SecondaryStateFiles(self.folder / "states")
        self.site: ChildProcess

    @contextmanager
    def hosts(self) -> Iterator[dict[str, str]]:
        """Create the volumes, serve them, and yield their URIs."""
        uris = {}
        for name in NAMES:
            image = self.run.folder / f"{name}.primary"
            with image.open("wb") as file:
                file.truncate(SLOTS * BLOCK)
            size = ("--size", str(SLOTS * BLOCK))
            self.command("volume", "create", name, *size, "--primary", str(image), "--group", "db")
            socket = self.run.folder / f"{name}.sock"
            arguments = ["host", "serve", name, "--socket", str(socket), "--through", "filter"]
            self.start(f"host-{name}", arguments)
            uris[name] = f"nbd+unix:///?socket={socket}"
        self.settings = self.run.settings.model_copy(
            update={
                "site_primaries": uris,
                "site_consistency": "crash",
                "site_snapshot_s": 0.05,
            }
        )
        try:
            yield uris
        finally:
            for name in NAMES:
                self.kill(f"host-{name}")

    def start(self, part: str, arguments: list[str]) -> ChildProcess:
        """Start a process, and wait until it is ready."""
        environment = {**inherited_environment(), **self.settings.as_environment()}
        log = self.run.folder / f"{part}.log"
        process = ChildProcess(part, arguments, environment, log, self.run.messages)
        self.run.parts[part] = process
        process.start()
        self.run.wait_for(lambda m: m.part == part and m.message_type == "ready", DEADLINE_S)
        return process

    def start_site(self) -> None:
        self.site = self.start("b", ["site", "run", "b", "--dir", str(self.folder)])

    def kill(self, part: str) -> None:
        if (process := self.run.parts.pop(part, None)) is not None:
            process.kill()

    def command(self, *arguments: str, **settings: object) -> dict[str, Any]:
        """Run a command, which must succeed; return the object that it prints."""
        done = run_cli(self.settings.model_copy(update=settings), *arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]

    def image(self, name: str) -> Path:
        return self.folder / f"{name}.img"

    def points(self) -> list[str | None]:
        """Return the ids of the common points that the states of both secondaries name."""
        states = [self.states.load(name) for name in NAMES]
        return [None if state is None else state.common_point_id for state in states]

    def wait_for_other_point(self, before: str | None, check: Any) -> None:
        """Wait until both secondaries have another common point."""

        def is_there() -> bool:
            wal, data = self.points()
            return wal is not None and wal == data != before

        wait_until(is_there, check, every_s=0.002)

    def wait_for_moment(self, number: int, check: Any) -> None:
        """Wait for one of several moments of a cycle: staging, sealed, half applied, or its end."""
        journals = [self.folder / "journals" / f"{name}.journal" for name in NAMES]
        record = self.folder / "journals" / "db.commit"
        before = record.stat().st_mtime_ns

        def is_staging() -> bool:
            wal, data = (journal.stat().st_size for journal in journals)
            return bool(wal) != bool(data)

        def is_committed() -> bool:
            return record.stat().st_mtime_ns != before

        def is_half_applied() -> bool:
            wal, data = self.points()
            return is_committed() and wal != data

        def is_applying() -> bool:
            return is_committed() and None in self.points()

        moments = (is_staging, is_committed, is_half_applied, is_applying)
        wait_until(moments[number % len(moments)], check, every_s=0.0005)

    def check_after_kill(self) -> tuple[str, int]:
        """Apply what was sealed, as the next start does; return the common point and its number."""
        for name in NAMES:
            apply_sealed_of("b", self.folder, self.settings, name)
        wal, data = self.points()
        assert wal == data and wal is not None, "the members are at different points"
        return wal, check_pair(self.image("wal"), self.image("data"))


def test_killed_at_any_moment_a_pair_is_of_one_moment_and_is_promoted_as_one(
    run: Run, tmp_path: Path
) -> None:
    run.start_node()
    run.wait_ready("node")
    group, seen = GroupRun(run), dict[str, int]()
    with group.hosts() as uris:
        writer = Writer(uris)

        def check() -> None:
            writer.check()
            run.check()

        with writer.writing():
            group.start_site()
            group.wait_for_other_point(None, check)
            (row,) = group.command("status")["groups"]
            assert (row["group"], row["site"]) == ("db", "b")
            assert [member["volume"] for member in row["members"]] == sorted(NAMES)
            copied = tmp_path / "wal"
            for number in range(KILLS):
                group.wait_for_moment(number, check)
                group.kill("b")
                point, last = group.check_after_kill()
                seen[point] = last
                assert last <= writer.number + 1
                shutil.copy(group.image("wal"), copied)
                group.start_site()
                group.wait_for_other_point(point, check)
            # One member of a later moment is found out.
            group.kill("b")
            group.check_after_kill()
            with pytest.raises(AssertionError):
                check_pair(copied, group.image("data"))
    assert list(seen.values()) == sorted(seen.values())
    assert len(seen) > KILLS // 2

    # The primaries burned down.
    there = {"state_dir": tmp_path / "state-b"}
    last = check_pair(group.image("wal"), group.image("data"))
    for name in NAMES:
        arguments = ("promote", name, "--site", "b", "--dir", str(group.folder), "--yes")
        promoted = group.command(*arguments, **there)
        assert promoted["primary"] == group.image(name).as_uri()
    assert check_pair(group.image("wal"), group.image("data")) == last
