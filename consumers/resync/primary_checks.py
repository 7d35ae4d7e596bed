"""Whether the primary that a site is about to read is the one that it was."""

from __future__ import annotations

from typing import Final

from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.primary_doubts import ChangedBlocks, PrimaryDoubts
from mirrorlog.consumers.resync.secondaries import FoundDevice, Secondaries
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed


class PrimaryChecks:
    """Looks at the primaries of the volumes of the site `site`."""

    def __init__(self, site: str, secondaries: Secondaries) -> None:
        self._site, self._secondaries = site, secondaries
        self._doubts: Final = PrimaryDoubts()

    def renew(self, volume: Volume) -> None:
        """Forget that the primary was the right one when it was read last."""
        self._doubts.renew(volume)

    def check(self, secondary: Secondary, step: Resync, changed: ChangedBlocks) -> str | None:
        """Return what lasts of the primary. Raise DeviceFailed if it may be the wrong one.

        A new one is right if a host vouches for it: the volume has a new generation, or the log
        names all of its blocks as changed. Of an NBD export nothing lasts, so by each new
        connection it must still hold what was read from it before.
        """
        volume, identity = secondary.volume, secondary.identity
        assert identity is not None
        primary = self._look(volume)
        check_length(volume, primary.size_bytes)
        now = primary.identity.lasting
        saved = secondary.saved
        is_vouched_for = (saved is not None and saved.generation != volume.generation) or (
            step.blocks is not None and len(step.blocks) >= volume.blocks
        )
        if identity.primary is None or now == identity.primary or is_vouched_for:
            if not is_vouched_for:
                self._doubts.settle(secondary, step, changed, self._secondaries.open_primary)
            self._doubts.drop(volume)
            return now
        raise DeviceFailed(
            f"another file or device is at the primary's address: it was {identity.primary}, and "
            f"is {now or 'one that tells nothing of itself'}. No host vouches for its contents",
            where=f"volume {volume.volume} at {self._site}",
            next="Mount the right one. If this is the primary now, renew the volume "
            "(`mirrorlog volume renew`): the sites then copy everything.",
        )

    def find(self, volume: Volume) -> FoundDevice | None:
        """Return what is at the primary's address; None if it can't be reached from here."""
        try:
            return self._look(volume)
        except DeviceFailed:
            return None

    def _look(self, volume: Volume) -> FoundDevice:
        device = self._secondaries.find_primary(volume)
        if device.is_new:
            self._doubts.add(volume)
        return device


def check_length(volume: Volume, size_bytes: int) -> None:
    """Raise DeviceFailed if a primary of this size is shorter than its volume."""
    if size_bytes < volume.size_bytes:
        raise DeviceFailed(
            f"the primary has {size_bytes} bytes, the volume {volume.size_bytes}: nothing "
            "is copied from what was cut off",
            where=f"volume {volume.volume}",
            next="Mount the right one, or restore its size. The secondary stays as it is.",
        )
