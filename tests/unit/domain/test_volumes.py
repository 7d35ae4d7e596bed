"""What can be a volume: its geometry, and how far it can grow."""

from __future__ import annotations

import pytest
from notation import command, volume

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.domain.volume_states import transition
from mirrorlog.domain.volumes import check_geometry
from mirrorlog.errors import BadUse

PIB = 1 << 50
# size | block size | the least block size that is possible; empty if this one is
GEOMETRIES = """
1              | 512   |
1 << 47        | 512   |
(1 << 47) + 1  | 512   | 1024
1 << 50        | 4096  |
(1 << 50) + 1  | 4096  | 8192
1 << 60        | 4096  | 4194304
(1 << 63) - 1  | 1 << 25 |
(1 << 63) - 1  | 1 << 24 | 33554432
"""


@pytest.mark.parametrize("case", GEOMETRIES.strip().splitlines())
def test_a_volume_that_cannot_be_tracked_is_refused(case: str) -> None:
    size, block, least = (part.strip() for part in case.split("|"))
    size_bytes, block_size = int(eval(size)), int(eval(block))
    if least:
        with pytest.raises(BadUse, match="too many blocks") as raised:
            check_geometry(size_bytes=size_bytes, block_size=block_size)
        assert f"blocks of {least} bytes" in str(raised.value.next)
        check_geometry(size_bytes=size_bytes, block_size=int(least))
    else:
        check_geometry(size_bytes=size_bytes, block_size=block_size)


def test_a_volume_does_not_grow_beyond_what_can_be_tracked() -> None:
    small = volume(size_bytes=PIB - 4096)
    grow = command(kind=CommandKind.RESIZE, size_bytes=PIB)
    grown = transition(small, grow, 5)
    assert (grown.refusal, grown.volume.size_bytes) == (None, PIB)
    further = transition(grown.volume, command(kind=CommandKind.RESIZE, size_bytes=PIB + 4096), 6)
    assert further.refusal is not None
    assert (further.refusal.reason, further.volume) == ("MALFORMED_COMMAND", grown.volume)


def test_a_volume_of_an_earlier_release_with_more_blocks_is_read_as_it_was() -> None:
    large = volume(size_bytes=MAX_BYTE, described_position=7)
    assert (
        transition(large, command(kind=CommandKind.RESIZE, size_bytes=MAX_BYTE), 7).refusal is None
    )
