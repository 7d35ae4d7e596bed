"""A site on NBD exports, its log in memory, and one volume: for tests of what it claims of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from file_sites import MARKS, FileSiteRig
from nbd_servers import Nbdkit, skip_without

from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.site_addresses import SiteAddresses
from mirrorlog.consumers.site_devices import SiteDevices
from mirrorlog.domain.site_progress import SiteState
from mirrorlog.reading.log_reader import LogReader
from mirrorlog.tracking_log.coverage import VolumeLog
from mirrorlog.tracking_log.site_log import SiteLog


class NbdRig(FileSiteRig):
    """The rig of files, with a server before each file. The first site starts when they run."""

    def __init__(self, folder: Path) -> None:
        self.servers = [Nbdkit(folder / "one"), Nbdkit(folder / "two")]
        skip_without(self.servers[0])
        for server in self.servers:
            server.image.parent.mkdir(parents=True)
        self.addresses: SiteAddresses | None = None
        super().__init__(folder)
        self.primary_server, self.secondary_server = self.servers
        self.primary, self.secondary = (server.image for server in self.servers)
        for server in self.servers:
            FileDevice.create(server.image, self.volume.size_bytes).close()
            server.start()
        self.addresses = SiteAddresses(
            "a", self.folder, {"v": self.primary_server.uri}, {"v": self.secondary_server.uri}
        )
        self.start()

    def devices(self, name: str) -> SiteDevices:
        if self.addresses is None:
            return super().devices(name)
        return SiteDevices(self.addresses, MARKS)

    def restart(self, server: Nbdkit) -> None:
        server.kill()
        server.start()

    def site_log(self) -> SiteLog:
        """Return the log as a promotion reads it."""
        broker, topics = self.log.broker, self.log.topics
        reader = LogReader(broker.reader(), broker, topics.changelog, [0], site="a")
        while not reader.caught_up():
            reader.poll(0, lambda record: record.volume == "v")
        return SiteLog(reader.logs["v"], VolumeLog(), "a")

    def look_again(self) -> Secondary:
        """Let the time pass after which idle and stopped secondaries are looked at."""
        self.clock.now_s += 31
        return self.settle()


RigT = TypeVar("RigT", bound=NbdRig)


@contextmanager
def consistent_rig(folder: Path, kind: type[RigT] = NbdRig) -> Iterator[RigT]:  # type: ignore[assignment]
    """Yield a rig whose secondary has gone through two cycles and is consistent."""
    rig = kind(folder)
    rig.run()
    rig.write(*range(8))
    rig.settle()
    rig.write(1, 2, 9)
    assert rig.settle().state is SiteState.CONSISTENT and rig.is_equal()
    try:
        yield rig
    finally:
        rig.stop()
        for server in rig.servers:
            server.kill()
