"""The doubt whether a primary without a lasting identity is the one that was read before.

An NBD export has a name and no identity. What a site has read from it before is known by samples
(samples.py), so a new connection must lead to a device that still holds them, except where the log
names a block as changed. A host's batch may still be on its way to the log, so the samples that
differ are read again when the site tries again. By then the log names what a host wrote before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from mirrorlog.consumers.resync.cycle_steps import Resync
from mirrorlog.consumers.resync.samples import differing_samples, samples_without
from mirrorlog.consumers.resync.secondary import Secondary
from mirrorlog.consumers.state.secondary_state import Sample
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import DeviceFailed
from mirrorlog.ports.devices import BlockDevice

ChangedBlocks: TypeAlias = Callable[[Secondary], BlockSet]
"""Returns the blocks that the log names as changed since the known position of a secondary."""


class PrimaryDoubts:
    """By volume, the samples that its primary must hold to be the one that it was."""

    def __init__(self) -> None:
        self._differing: Final[dict[str, tuple[Sample, ...] | None]] = {}

    def add(self, volume: Volume) -> None:
        """Note that the primary is reached by a new connection."""
        self._differing[volume.volume] = None

    def renew(self, volume: Volume) -> None:
        """Let a doubt that isn't settled be about all samples: others save states meanwhile."""
        if volume.volume in self._differing:
            self._differing[volume.volume] = None

    def drop(self, volume: Volume) -> None:
        """Note that the primary is the right one."""
        self._differing.pop(volume.volume, None)

    def settle(
        self,
        secondary: Secondary,
        step: Resync,
        changed: ChangedBlocks,
        open_primary: Callable[[Volume], BlockDevice],
    ) -> None:
        """Read the samples that are in doubt. Raise DeviceFailed if the primary lacks any.

        By a rung above CHANGED the log doesn't say what has changed, and all of it is read, unless
        an unfinished copy goes on.
        """
        volume, saved = secondary.volume, secondary.saved
        if volume.volume not in self._differing or saved is None:
            return
        if step.blocks is None and step.running.copied_bytes is None:
            return
        doubtful = self._differing[volume.volume]
        samples = samples_without(
            saved.samples if doubtful is None else doubtful, changed(secondary), volume.block_size
        )
        with open_primary(volume) as primary:
            differing = differing_samples(primary, samples)
        self._differing[volume.volume] = differing
        if differing:
            raise DeviceFailed(
                f"the primary may be another one: by a new connection, {len(differing)} of "
                f"{len(samples)} samples of what was read from it differ, and the log names no "
                "write there so far",
                where=f"volume {volume.volume}",
                next="The site looks again soon. If this stays, see what the server exports. If it "
                "is the primary, it was written to past mirrorlog: renew the volume (`mirrorlog "
                "volume renew`), and the sites copy everything.",
            )
