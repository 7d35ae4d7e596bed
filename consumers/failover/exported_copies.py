"""A former primary on this machine that its site is to reach as an NBD export.

An export has no mark and no lock, so a copy rejoins where its server has its file or device. What
tells the site later that an export is that copy are samples of what it holds, as they tell of every
new connection (docs/decisions/exports-without-marks.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mirrorlog.adapters.addresses import open_nbd
from mirrorlog.consumers.resync.samples import SampleTaker, differing_samples, sample_digest
from mirrorlog.consumers.state.secondary_state import MAX_SAMPLE_BYTES, Sample
from mirrorlog.domain.volumes import Volume
from mirrorlog.errors import BadUse, DeviceFailed
from mirrorlog.ports.devices import BlockDevice


@dataclass(frozen=True, slots=True)
class ExportedCopy:
    """The export of a copy. address: an NBD URI. samples: of what the copy holds."""

    address: str
    samples: tuple[Sample, ...]


def copy_samples(device: BlockDevice, seed: str) -> tuple[Sample, ...]:
    """Return samples of what a device holds, but for zeros: these tell nothing.

    seed: draws them. Nobody may write to the device meanwhile. Raise DeviceFailed.
    """
    taker = SampleTaker(seed)
    chosen = {
        place: taker.part(place, offset=offset, length=length)
        for place, offset, length in _drawn(device, taker)
    }
    samples = []
    for extent in chosen.values():
        data = device.pread(offset=extent.offset, length=extent.length)
        if any(data):
            samples.append(Sample(extent.offset, extent.length, sample_digest(data)))
    return tuple(samples)


def _drawn(device: BlockDevice, taker: SampleTaker) -> Iterator[tuple[int, int, int]]:
    """Yield (place, offset, length) of the pieces of what is allocated that are drawn."""
    for start, length in device.allocated():
        pieces = -(-length // MAX_SAMPLE_BYTES)
        for index, place in taker.choose_of(pieces):
            offset = start + index * MAX_SAMPLE_BYTES
            yield place, offset, min(MAX_SAMPLE_BYTES, start + length - offset)


def check_exported(copy: ExportedCopy, volume: Volume) -> str | None:
    """Check that the export serves the copy; return why that can't be told now, None if it does.

    Raise BadUse if it serves something else.
    """
    try:
        with open_nbd(copy.address, writable=True, reconnects=False) as export:
            size_bytes = export.size_bytes
            differing = differing_samples(export, copy.samples)
    except DeviceFailed as error:
        return str(error)
    if size_bytes >= volume.size_bytes and not differing:
        return None
    raise BadUse(
        f"this export has {size_bytes} bytes and lacks {len(differing)} of {len(copy.samples)} "
        "samples of the former primary: it serves something else",
        where=f"volume {volume.volume}, {copy.address.partition('?')[0]}",
        next="Name the export of this very file or device (--address).",
    )
