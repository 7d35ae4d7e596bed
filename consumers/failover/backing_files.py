"""A secondary that its site reaches as an NBD export, seen as the file or device behind it.

A host can't use an export as its primary. So a secondary that is one is promoted where its server
has its file or device, with the site's folder. The export has no identity that lasts, and its mark
lies in the site's folder. What tells that this file is the one behind the export is the same as
what tells it of a new connection to the export: it holds the samples of what the site's cycles
wrote, except where the log names a block as changed since (multi-site.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mirrorlog.adapters.addresses import open_file, path_of
from mirrorlog.adapters.file_device import FileDevice
from mirrorlog.adapters.secondary_marks import mark_path
from mirrorlog.consumers.resync.samples import differing_samples, samples_without
from mirrorlog.consumers.resync.secondaries import FoundSecondary
from mirrorlog.consumers.secondary_exports import export_mark_path
from mirrorlog.consumers.secondary_files import SecondaryFiles
from mirrorlog.consumers.state.secondary_state import Sample, SecondaryState
from mirrorlog.domain.volumes import Volume
from mirrorlog.tracking_log.site_log import SiteLog


class BackingFiles(SecondaryFiles):
    """The files and devices behind NBD exports. Their marks are in the site's folder."""

    def find(self, volume: Volume) -> FoundSecondary:
        """Look what is there, as through the export: nothing of its identity lasts."""
        present = super().find(volume)
        if present.device is None:
            return present
        identity = replace(present.device.identity, lasting=None)
        return replace(present, device=replace(present.device, identity=identity))

    def _mark_path(self, secondary: Path, volume: Volume, opened: FileDevice | None = None) -> Path:
        del secondary, opened
        return export_mark_path(self._addresses.folder, volume)


def is_backing_file(
    address: str, folder: Path, volume: Volume, saved: SecondaryState | None
) -> bool:
    """Return whether the site knows the secondary as an NBD export, and the address is none.

    folder: of the site.
    """
    path = path_of(address)
    if saved is None or saved.identity is None or saved.identity.lasting is not None:
        return False
    has_mark = export_mark_path(folder, volume).exists()
    return has_mark and (path.is_block_device() or not mark_path(path).exists())


def read_samples(address: str, saved: SecondaryState) -> tuple[Sample, ...]:
    """Return the samples of a state that the file or device doesn't hold. Raise DeviceFailed."""
    with open_file(address, writable=False) as device:
        return differing_samples(device, saved.samples)


def doubt_of(
    saved: SecondaryState, differing: tuple[Sample, ...], volume: Volume, log: SiteLog, through: int
) -> str | None:
    """Return why the file may not be the one behind the export; None if nothing speaks for that.

    differing: what read_samples() returned. log: complete through position `through`. Pure.
    """
    if not saved.samples:
        return (
            "no sample of what was written to the NBD export tells whether this file is behind it"
        )
    known = saved.known_position
    changed = log.changed(after=through if known is None else known, through=through)
    unexplained = samples_without(differing, changed, volume.block_size)
    if not unexplained:
        return None
    return (
        f"{len(unexplained)} of {len(saved.samples)} samples of what was written to the NBD export "
        "aren't in this file: it isn't the one behind the export, or went back in time"
    )
