"""A database under load is whole at each consistent position of a secondary.

The database writes to a volume that a real host exports; the node, the broker and the site are real
ones. At each position the secondary is copied, and opened as after a power cut.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from databases import Ledger, apsw, check_ledger
from deadlines import DEADLINE_S
from exporting import exported

from mirrorlog.adapters.addresses import open_device
from mirrorlog.cli.demo.run import Run
from mirrorlog.consumers.resync.secondaries import TakenSnapshot
from mirrorlog.consumers.resync.state_changes import SecondaryChange
from mirrorlog.consumers.site_devices import SiteDevices
from mirrorlog.consumers.wiring import run_site
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.domain.volumes import Volume
from mirrorlog.simulation.memory_devices import MemoryDevice

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit isn't installed"),
]

SIZE = 4 << 20
Look = Callable[[SecondaryChange, Path], None]
POSITIONS = 200
WITHOUT_PROOF = 600


def follow(
    run: Run, uri: str, folder: Path, is_done: Callable[[], bool], look: Look, **settings: object
) -> None:
    """Run the site of the volume in this thread, and show `look` each state of its secondary."""
    image = folder / "site" / "base.img"

    def on_change(change: SecondaryChange) -> None:
        if change.position is not None and change.position >= 0:
            look(change, image)

    until_s = time.monotonic() + 2 * POSITIONS + DEADLINE_S
    run_site(
        "site",
        folder / "site",
        run.settings.model_copy(
            update={"site_primaries": {"base": uri}, "site_volumes": ("base",), **settings}
        ),
        stopped=lambda: is_done() or time.monotonic() > until_s,
        on_change=on_change,
    )


def as_after_a_crash(image: Path) -> MemoryDevice:
    """Return a disk with what the image holds. Nobody else writes to the copy."""
    content = image.read_bytes()
    device = MemoryDevice(len(content))
    device.pwrite(0, content)
    device.flush()
    return device


def test_a_database_recovers_at_each_of_many_consistent_positions(
    world: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start_node()
    world.wait_ready("node")
    bounds: dict[int, tuple[int, int]] = {}
    rows: dict[int, int] = {}
    take = SiteDevices.take_snapshot
    with exported(world, SIZE) as uri:
        ledger = Ledger(partial(open_device, uri, writable=True))

        def take_between(self: SiteDevices, volume: Volume) -> TakenSnapshot:
            acknowledged = ledger.acknowledged
            taken = take(self, volume)
            bounds[taken.export.position] = (acknowledged, ledger.begun)
            return taken

        def look(change: SecondaryChange, image: Path) -> None:
            ledger.check()
            if change.state is not SiteState.CONSISTENT or change.position in rows:
                return
            assert change.position is not None
            first, last = bounds.get(change.position, (0, ledger.begun))
            number = check_ledger(as_after_a_crash(image), at_least=first)
            assert number <= last
            if change.position in bounds:
                rows[change.position] = number

        monkeypatch.setattr(SiteDevices, "take_snapshot", take_between)
        with ledger.writing():
            follow(
                world,
                uri,
                tmp_path,
                lambda: len(rows) >= POSITIONS,
                look,
                site_consistency="crash",
                site_snapshot_s=0.0,
            )
    assert len(rows) == POSITIONS
    numbers = [rows[position] for position in sorted(rows)]
    assert numbers == sorted(numbers) and len(set(numbers)) > POSITIONS // 2


def test_a_secondary_that_is_not_proved_holds_a_torn_database(world: Run, tmp_path: Path) -> None:
    """Cycles in place, from a primary that moves: here the checks above find something."""
    world.start_node()
    world.wait_ready("node")
    looks, failures = [0], list[BaseException]()

    def look(change: SecondaryChange, image: Path) -> None:
        looks[0] += 1
        if change.state is SiteState.SETTLING:
            try:
                check_ledger(as_after_a_crash(image), at_least=0)
            except (AssertionError, apsw.Error) as error:
                failures.append(error)

    with (
        exported(world, SIZE) as uri,
        (ledger := Ledger(partial(open_device, uri, writable=True))).writing(),
    ):
        follow(
            world,
            uri,
            tmp_path,
            lambda: bool(failures) or looks[0] > WITHOUT_PROOF,
            look,
            site_consistency="eventual",
            site_snapshot_s=1e6,
        )
        ledger.check()
    assert failures
