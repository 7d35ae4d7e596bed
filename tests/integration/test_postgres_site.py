"""PostgreSQL under load recovers at each of 200 consistent positions of a site's secondary.

Its data and its write-ahead log are on one volume, or on two that are a consistency group. The
hosts, the node, the broker and the site are real ones. At each position the secondaries are copied
and mounted as after a power cut, and PostgreSQL recovers on them. All of this needs root.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from deadlines import DEADLINE_S
from postgres import (
    MARKS,
    SIZE,
    Inserts,
    asked,
    call,
    is_whole,
    link_wal,
    on_volume,
    open_folder,
    postgres,
    prepare,
    read_in_two_moments,
    recovered,
)
from running import run_cli

from mirrorlog.cli.demo.run import Run
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.resync.state_changes import SecondaryChange
from mirrorlog.consumers.site_devices import SiteDevices
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.consumers.wiring import run_site
from mirrorlog.domain.volumes import Volume
from mirrorlog.processes.child_processes import ChildProcess
from mirrorlog.settings import Settings, inherited_environment

pytestmark = MARKS
POSITIONS = 200


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


class Volumes:
    """The volumes of one database, which hosts export. names: `data`, and `wal` if it is apart."""

    def __init__(self, run: Run, folder: Path, names: Sequence[str]) -> None:
        self.names, self._run, self._folder = names, run, folder
        images = [folder / f"{name}.primary" for name in names]
        prepare(images[0], folder, images[1] if len(images) > 1 else None)
        self.uris = {name: self._served(name) for name in names}

    def _served(self, name: str) -> str:
        """Create a volume, serve it, and return its URI."""
        image, socket = self._folder / f"{name}.primary", self._folder / f"{name}.sock"
        group = () if len(self.names) == 1 else ("--group", "pg")
        options = ("--size", str(SIZE), "--primary", str(image), *group)
        created = run_cli(self._run.settings, "volume", "create", name, *options)
        assert created.returncode == 0, created.stderr
        arguments = ["host", "serve", name, "--socket", str(socket), "--through", "filter"]
        part, log = f"host-{name}", self._folder / f"host-{name}.log"
        environment = {**inherited_environment(), **self._run.settings.as_environment()}
        host = ChildProcess(part, arguments, environment, log, self._run.messages)
        self._run.parts[part] = host
        host.start()
        self._run.wait_for(lambda m: m.part == part and m.message_type == "ready", DEADLINE_S)
        return f"nbd+unix:///?socket={socket}"

    def mounted(self, stack: ExitStack) -> Path:
        """Mount all of them; return where the data are."""
        mounted = [
            stack.enter_context(on_volume(uri, self._folder / f"fuse-{name}"))
            for name, uri in self.uris.items()
        ]
        if len(mounted) > 1:
            link_wal(mounted[0], mounted[1])
        return mounted[0] / "data"


class Recoveries:
    """Lets PostgreSQL recover on the secondaries whenever they are at another position.

    numbers: by such a position, the highest number there. bounds: by the position of the first
    volume, how many numbers were committed before its snapshot was taken, and begun after it.
    kept: by volume, a copy of the secondary at the first of these positions.
    """

    def __init__(self, volumes: Volumes, folder: Path, inserts: Inserts) -> None:
        self._volumes, self._folder, self._inserts = volumes, folder, inserts
        self._states = SecondaryStateFiles(folder / "site" / "states")
        self.numbers = dict[int, int]()
        self.bounds = dict[int, tuple[int, int]]()
        self.kept = dict[str, Path]()

    def image(self, name: str) -> Path:
        return self._folder / "site" / f"{name}.img"

    def note_taken(self, taken: TakenSnapshot, before: int) -> None:
        """Note the bounds of a snapshot of the first volume."""
        self.bounds[taken.export.position] = (before, self._inserts.begun)

    def look(self, _: SecondaryChange) -> None:
        """Check the secondaries if they are at a position that wasn't seen yet."""
        self._inserts.check()
        position = self._position()
        if position is None or position in self.numbers or position not in self.bounds:
            return
        first, last = self.bounds[position]
        names = self._volumes.names
        wal = self.image("wal") if "wal" in names else None
        highest, count = recovered(self.image(names[0]), self._folder, wal)
        assert first <= highest <= last and count == highest, (first, highest, last, count)
        self.numbers[position] = highest
        for name in names:
            if name not in self.kept:
                self.kept[name] = self._folder / f"kept-{name}.img"
                call("cp", "--sparse=always", self.image(name), self.kept[name])

    def _position(self) -> int | None:
        """Return the consistent position of the first volume; None if they are at none together."""
        saved = [self._states.load(name) for name in self._volumes.names]
        known = [state for state in saved if state is not None]
        if len(known) < len(saved):
            return None
        if len(known) > 1 and len({state.common_point_id for state in known} - {None}) != 1:
            return None
        if len(known) > 1 and known[0].common_point_id is None:
            return None
        return known[0].consistent_position


def follow(settings: Settings, volumes: Volumes, folder: Path, recoveries: Recoveries) -> None:
    """Run the site in this thread until enough positions were seen."""
    until_s = time.monotonic() + 10 * POSITIONS + DEADLINE_S
    run_site(
        "site",
        folder / "site",
        settings.model_copy(
            update={
                "site_primaries": volumes.uris,
                "site_volumes": tuple(volumes.names),
                "site_consistency": "crash",
                "site_snapshot_s": 0.0,
            }
        ),
        stopped=lambda: len(recoveries.numbers) >= POSITIONS or time.monotonic() > until_s,
        on_change=recoveries.look,
    )


@pytest.mark.parametrize("names", [("data",), ("data", "wal")])
def test_postgres_recovers_at_each_of_many_consistent_positions(
    run: Run, folder: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.start_node()
    run.wait_ready("node")
    volumes = Volumes(run, folder, names)
    one, several = SiteDevices.take_snapshot, SiteDevices.take_snapshots
    with ExitStack() as stack:
        data, sockets = volumes.mounted(stack), folder / "sockets"
        stack.enter_context(postgres(data, sockets))
        assert asked(sockets, "CREATE TABLE ledger (number int PRIMARY KEY, filling text)") == ""
        inserts = Inserts(sockets)
        stack.callback(inserts.end)
        recoveries = Recoveries(volumes, folder, inserts)

        def take_one(self: SiteDevices, volume: Volume) -> TakenSnapshot:
            before, taken = inserts.acknowledged, one(self, volume)
            recoveries.note_taken(taken, before)
            return taken

        def take_several(self: SiteDevices, members: Sequence[Volume]) -> dict[str, TakenSnapshot]:
            before, taken = inserts.acknowledged, several(self, members)
            recoveries.note_taken(taken["data"], before)
            return taken

        monkeypatch.setattr(SiteDevices, "take_snapshot", take_one)
        monkeypatch.setattr(SiteDevices, "take_snapshots", take_several)
        follow(run.settings, volumes, folder, recoveries)
        numbers = [recoveries.numbers[position] for position in sorted(recoveries.numbers)]
        assert len(numbers) == POSITIONS
        assert numbers == sorted(numbers) and len(set(numbers)) > POSITIONS // 2
    # Secondaries of two positions, put together, are found out.
    of_last = recoveries.image("data")
    if len(names) == 1:
        torn = read_in_two_moments(recoveries.kept["data"], of_last, folder / "torn.img")
        assert not is_whole(torn, folder, at_least=numbers[-1])
    else:
        assert not is_whole(of_last, folder, at_least=numbers[-1], wal=recoveries.kept["wal"])
