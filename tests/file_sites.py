"""A site on files, its log in memory, and one volume: for tests of what it claims of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from logs import Log
from notation import command, volume

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.consumers.journal.journal_folder import JournalFolder
from mirrorlog.consumers.journal.journal_store import NoJournals
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.resync.site import Site
from mirrorlog.consumers.resync.site_ports import SitePorts
from mirrorlog.consumers.site_devices import SiteDevices
from mirrorlog.consumers.state.drill_holds import DrillHolds
from mirrorlog.consumers.state.state_files import SecondaryStateFiles
from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.reading.catalog import Catalog, publish_volume
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.settings import Settings
from mirrorlog.simulation.manual_clock import ManualClock

BLOCK, BLOCKS = 4096, 16
SETTINGS = Settings()
MARKS = PrimaryMarkFiles(Path("/nonexistent"))


class FileSiteRig:
    """One volume, whose primary and secondary are files, and a site that is started at will.

    more_ports: of the site that is started next.
    """

    def __init__(self, folder: Path, settings: Settings = SETTINGS, **described: object) -> None:
        self.settings = settings
        self.more_ports: dict[str, Any] = {}
        self.journals: JournalFolder | None = None
        self.primary, self.folder = folder / "primary", folder / "site"
        self.secondary = self.folder / "v.img"
        FileDevice.create(self.primary, BLOCK * BLOCKS).close()
        self.volume = volume(size_bytes=BLOCK * BLOCKS, primary=str(self.primary), **described)
        self.log = Log([self.volume])
        self.sequence, self.version = 0, 0
        self.command(CommandKind.SESSION_OPEN)
        self.files: SiteDevices | None = None
        self.clock = ManualClock(look_s=1)
        self.site = self.start()

    def start(self, name: str = "a") -> Site:
        """Start the site. The one before is gone, as after kill -9."""
        self.stop()
        self.files = self.devices(name)
        if self.settings.site_consistency == "crash":
            self.journals = JournalFolder(self.folder / "journals")
        topics, broker = self.log.topics, self.log.broker
        ports = SitePorts(
            log=LogReader(broker.reader(), broker, topics.changelog, site=name),
            catalog=Catalog(broker.reader(), broker, topics, ManualClock(look_s=1)),
            admin=broker,
            publisher=broker.publisher(),
            states=SecondaryStateFiles(self.folder / "states"),
            secondaries=self.files,
            open_reader=broker.reader,
            clock=self.clock,
            journals=self.journals or NoJournals(),
            held_for_drills=DrillHolds(self.folder).look,
            **self.more_ports,
        )
        self.site = Site(name, ports, self.settings)
        return self.site

    def devices(self, name: str) -> SiteDevices:
        return SiteDevices.in_folder(name, self.folder, MARKS)

    def stop(self) -> None:
        if self.files is not None:
            self.files.close()
        if self.journals is not None:
            self.journals.close()

    def run(self, rounds: int = 12) -> Secondary:
        for _ in range(rounds):
            self.site.run_once(0)
        return self.site.secondaries["v"]

    def write(self, *blocks: int) -> None:
        """Write blocks of the primary, each with new contents, and let the node record it."""
        with self.primary.open("r+b") as file:
            for block in blocks:
                self.version += 1
                file.seek(block * BLOCK)
                file.write(bytes([self.version]) * BLOCK)
        self.command(CommandKind.WRITES, " ".join(f"{block * BLOCK}+{BLOCK}" for block in blocks))
        self.command(CommandKind.HEARTBEAT)

    def command(self, kind: CommandKind, extents: str = "") -> None:
        end = self.log.broker.end_position(self.log.topics.commands, 0)
        event = command(
            extents,
            kind=kind,
            generation=self.volume.generation,
            sequence=self.sequence,
            acknowledged_position=end - 1 if end else None,
        )
        self.log.publish([event])
        self.log.flush(10)
        self.sequence += 1

    def settle(self) -> Secondary:
        self.run()
        for _ in range(2):  # the second names a position behind the last read
            self.command(CommandKind.HEARTBEAT)
        return self.run()

    def describe(self, **changes: object) -> None:
        """Publish a new description of the volume."""
        position = self.log.through
        self.volume = replace(self.volume, described_position=position, **changes)  # type: ignore[arg-type]
        self.log.volumes["v"] = self.volume
        publisher = self.log.broker.publisher()
        publish_volume(publisher, self.log.topics, self.volume)
        publisher.flush(0)

    def is_equal(self) -> bool:
        return self.primary.read_bytes() == self.secondary.read_bytes()

    def check_claim(self) -> None:
        """Nothing else wrote since the last cycle: what is consistent equals the primary."""
        secondary = self.site.secondaries["v"]
        if secondary.state is SiteState.CONSISTENT:
            assert self.is_equal()
