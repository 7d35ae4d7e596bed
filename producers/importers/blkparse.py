"""Reads blkparse's text for an import. mirrorlog.producers.traces.blkparse has the format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mirrorlog.producers.importers.block_recordings import source_of_block_events
from mirrorlog.producers.importers.change import AddressRange, ImportSource
from mirrorlog.producers.traces import open_trace
from mirrorlog.producers.traces.blkparse import read_block_events
from mirrorlog.producers.traces.block_events import BlockEvent


def blkparse_source(
    path: Path,
    volume: AddressRange,
    *,
    device: str | None = None,
    discard_zeroes: bool = False,
    shifted: bool = False,
) -> ImportSource:
    """Read blkparse's text, which may be compressed. See source_of_block_events() for the options.

    All actions count. A replay takes queue events only.
    """

    def events() -> Iterator[BlockEvent]:
        with open_trace(path, "blkparse").framed() as lines:
            yield from read_block_events(lines)

    return source_of_block_events(
        "blkparse",
        events,
        volume,
        warnings=[],
        device=device,
        discard_zeroes=discard_zeroes,
        shifted=shifted,
        epoch_us=None,
    )
