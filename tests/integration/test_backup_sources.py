"""Points of a primary and of a secondary, on a real broker with a node, a site and a host."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from random import Random

import pytest
from databases import Ledger, check_ledger
from deadlines import DEADLINE_S
from exporting import exported
from running import run_cli
from writing import make_volumes

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.changed.ask import query_ports
from mirrorlog.changed.volume_commands import QueryPorts
from mirrorlog.cli.demo.run import Run
from mirrorlog.cli.support.waiting import wait_until_consistent
from mirrorlog.consumers.backup.sources.secondary_source import SecondarySource
from mirrorlog.consumers.backup.sources.source_point import (
    BackupPosition,
    SourcePoint,
    choose_blocks,
)
from mirrorlog.consumers.backup.sources.times import TimedState, choose_for_time
from mirrorlog.consumers.backup.sources.wiring import open_primary_source, open_registrar
from mirrorlog.consumers.drills.holding import HoldPorts
from mirrorlog.consumers.drills.still_secondaries import open_still_file
from mirrorlog.consumers.failover.held_secondary import meet_saved
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_primaries import SitePrimaries
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.domain.site_progress import Rung
from mirrorlog.domain.volumes import Volume
from mirrorlog.ports.clock import SystemClock
from mirrorlog.producers import open_volume
from mirrorlog.simulation.memory_devices import MemoryDevice

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZE, BLOCK = 1 << 20, 4096
REPOSITORY = "55555555-5555-4555-8555-555555555555"


def secondary(world: Run, volume: Volume, query: QueryPorts) -> SecondarySource:
    folder = world.folder / "berlin"
    addresses = SiteAddresses.from_settings("berlin", folder, world.settings)
    marks = PrimaryMarkFiles(world.settings.primary_marks_dir)
    files = SecondaryFiles(addresses, SitePrimaries(addresses, marks))
    hold = HoldPorts(
        where=str(folder / "v.img"),
        holds=DrillHolds(folder),
        open_still=lambda: open_still_file(folder / "v.img"),
        look=lambda _: meet_saved("berlin", folder, volume, files.find),
        clock=SystemClock(),
        sleep=time.sleep,
    )
    return SecondarySource(
        volume=volume,
        site="berlin",
        hold=hold,
        query=query,
        copy_folder=world.folder / "copies",
        wait_s=DEADLINE_S,
    )


class Chain:
    """The bytes of the last point, and the position of each."""

    def __init__(self) -> None:
        self.content = bytearray(SIZE)
        self.states: list[TimedState] = []

    @property
    def base(self) -> BackupPosition | None:
        return self.states[-1].position if self.states else None

    def add(self, point: SourcePoint) -> Rung:
        chosen = choose_blocks(point, has_base=bool(self.states))
        assert point.is_consistent, point.reason
        if chosen.rung is not Rung.CHANGED:
            self.content = bytearray(point.volume.size_bytes)
        for block in chosen.zeros:
            self.content[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
        for block in chosen.data:
            self.content[block * BLOCK : (block + 1) * BLOCK] = point.reader.pread(
                offset=block * BLOCK, length=BLOCK
            )
        state = TimedState(name=f"p{len(self.states)}", position=point.position, at_us=point.at_us)
        self.states.append(state)
        return chosen.rung


@pytest.mark.parametrize("world", [{"node_http": "off"}], indirect=True, ids=[""])
def test_points_of_both_sides_stand_on_each_other(world: Run, tmp_path: Path) -> None:
    random, chain, settings = Random(5), Chain(), world.settings
    make_volumes(settings, {"v": SIZE}, tmp_path / "primaries")
    world.start_node()
    world.start_site("berlin")
    world.wait_ready("berlin")
    with open_volume("v", settings) as volume, query_ports(settings, DEADLINE_S) as query:
        for number in range(4):
            for _ in range(5):
                volume.pwrite(random.randbytes(BLOCK), random.randrange(SIZE // BLOCK) * BLOCK)
            volume.zero(BLOCK, number * BLOCK)
            volume.flush()
            wait_until_consistent(settings, "v", DEADLINE_S)
            query.catalog.refresh()
            described = query.catalog["v"]
            base = chain.base
            with open_registrar(settings, REPOSITORY, "/backups", every_s=3600) as registrar:
                known = registrar.registered().get("v")
                if number % 2:
                    with secondary(world, described, query).point(base) as point:
                        begun = registrar.begin(known, base, point)
                        rung = chain.add(point)
                else:
                    staging = tmp_path / "staging"
                    with (
                        open_primary_source(
                            settings, described, query, staging=staging, wait_s=DEADLINE_S
                        ) as source,
                        source.point(base) as point,
                    ):
                        begun = registrar.begin(known, base, point)
                        rung = chain.add(point)
                        assert list(staging.iterdir()) == []
                chosen = choose_blocks(point, has_base=base is not None)
                registrar.finished(
                    begun,
                    point,
                    chosen,
                    name=chain.states[-1].name,
                    written_at_us=time.time_ns() // 1000,
                )
            assert rung is (Rung.CHANGED if base else Rung.ALLOCATED)
            assert chain.content == volume.pread(SIZE, 0)
        status = json.loads(run_cli(settings, "status").stdout)
        (backup,) = status["backups"]
        assert (backup["address"], backup["point"], backup["health"]) == ("/backups", "p3", "OK")
        assert backup["point_age_s"] is not None
        assert [row["site"] for row in status["volumes"]] == ["berlin"]
        at_us = chain.states[2].at_us
        assert at_us is not None
        choice = choose_for_time(chain.states, at_us, query.catalog["v"], query)
        assert choice.is_exact
        with open_registrar(settings, REPOSITORY, "/backups") as registrar:
            registrar.end("v")
        assert json.loads(run_cli(settings, "status").stdout)["backups"] == []


def test_a_database_recovers_from_each_point_of_its_primary(world: Run, tmp_path: Path) -> None:
    """Its host serves it, and takes snapshots, while SQLite commits transactions."""
    world.start_node()
    world.wait_ready("node")
    chain, numbers = Chain(), list[int]()
    with exported(world, 8 << 20) as uri:
        ledger = Ledger(partial(open_device, uri, writable=True))
        settings = world.settings.model_copy(update={"site_primaries": {"base": uri}})
        with ledger.writing(), query_ports(settings, DEADLINE_S) as query:
            while len(numbers) < 10:
                ledger.check()
                query.catalog.refresh()
                described = query.catalog["base"]
                acknowledged = ledger.acknowledged
                with (
                    open_primary_source(
                        settings, described, query, staging=tmp_path / "staging", wait_s=DEADLINE_S
                    ) as source,
                    source.point(chain.base) as point,
                ):
                    assert not (tmp_path / "staging").exists()  # nothing was read live
                    begun = ledger.begun
                    chain.add(point)
                device = MemoryDevice(len(chain.content))
                device.pwrite(0, bytes(chain.content))
                device.flush()
                number = check_ledger(device, at_least=acknowledged)
                assert number <= begun
                numbers.append(number)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 3
