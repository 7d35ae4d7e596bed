"""Which device is read for the names of files, and the index that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirrorlog.adapters.addresses import open_device
from mirrorlog.adapters.primary_marks import PrimaryMarkFiles
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.settings import Settings

if TYPE_CHECKING:
    from mirrorlog.consumers.file_names.file_index import FileIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSource:
    """The options that say where names are read.

    primary: an address instead of the one in the volume's description. site: the site whose
    secondary is read.
    """

    primary: str | None = None
    site: str | None = None

    def address(self, volume: Volume) -> str:
        """Return the address to read. Raise BadUse if the volume has no secondary there."""
        if self.site is None:
            return self.primary or volume.primary
        if self.primary is not None:
            raise BadUse("--primary and --site contradict each other", next="Give one of them.")
        address = volume.secondaries.get(self.site)
        if address is None:
            raise BadUse(
                f"the volume's description names no secondary at site {self.site}",
                where=f"volume {volume.volume}",
                next="Give its address with --primary.",
            )
        return address


def read_index(settings: Settings, volume: Volume, source: NameSource) -> tuple[str, FileIndex]:
    """Return the address that was read, and the index of its files.

    Raise DeviceFailed if it can't be read here, or if its mark says that it is the primary of
    another volume. Other errors: those of scan_process.index_of.
    """
    from mirrorlog.consumers.file_names.scan_process import index_of

    address = source.address(volume)
    marks = PrimaryMarkFiles(settings.primary_marks_dir)
    try:
        with open_device(address, writable=False) as device:
            mark = marks.read(device)
    except DeviceFailed as error:
        raise DeviceFailed(
            f"names of files are read from a copy of the volume, and this one can't be opened: "
            f"{error.what}",
            where=error.where,
            next="Name one that this machine can read: --primary ADDRESS, or --site SITE.",
        ) from error
    if mark is not None and not mark.is_of(volume):
        raise DeviceFailed(
            f"this is the primary of another volume, {mark.volume}: its mark says so",
            where=f"volume {volume.volume}, {address}, offset 0",
            next="Name a copy of this volume: --primary ADDRESS, or --site SITE.",
        )
    return address, index_of(address)
