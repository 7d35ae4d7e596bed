"""Every event gets one response: addresses are recorded, the rest is refused (invariant 11)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notation import OTHER_GENERATION, command, extents, message, volume

from mirrorlog.codec.events import decode, encode
from mirrorlog.domain.bitmaps import touched
from mirrorlog.domain.commands import (
    CommandKind,
    CommandStatus,
    Quarantined,
    RawCommand,
    StatusCode,
    TrackingCommand,
    WireProtocol,
)
from mirrorlog.domain.extents import Extent
from mirrorlog.domain.extraction import extract
from mirrorlog.streams.fold.response import check_command, read_command
from mirrorlog.streams.fold.session_order import SessionOrder

SIZE = 1 << 20

# extents of a 1 MiB volume | those recorded | whether there is an objection
EXTENTS = """
0+4096                         | 0+4096              | no
0+1048576                      | 0+1048576           | no
1048575+1                      | 1048575+1           | no
1048576+0                      | 1048576+0           | no
1048575+2                      | 1048575+1           | yes
1048576+1                      |                     | yes
2**40+4096                     |                     | yes
0+2**63-1                      | 0+1048576           | yes
0+2**63                        |                     | yes
4096+2**64-1                   |                     | yes
2**63+1                        |                     | yes
2**64-1+1                      |                     | yes
2**64-4096+4096                |                     | yes
2**63-1+2                      |                     | yes
0+512 2**64-512+1024 z8192+4096 | 0+512 z8192+4096   | yes
d0+2**40 512+512               | d0+1048576 512+512  | yes
"""


@pytest.mark.parametrize("case", EXTENTS.strip().splitlines())
def test_extents_are_clipped_kept_or_refused(case: str) -> None:
    given, kept, objection = (part.strip() for part in case.split("|"))
    extraction = extract(extents(given), volume(size_bytes=SIZE))
    assert list(extraction.extents) == list(extents(kept))
    assert (extraction.objection is not None) is (objection == "yes")


def test_an_objection_names_the_first_and_counts_what_is_kept() -> None:
    extraction = extract(extents("0+512 1048576+1 4096+512"), volume(size_bytes=SIZE))
    assert extraction.objection is not None
    assert "1 of 3 extents" in extraction.objection
    assert "extent 1, offset 1048576" in extraction.objection
    assert "2 extents whole" in extraction.objection


GOOD = encode(command("0+4096"))
FOREIGN = b"\xc3\x01" + bytes(8) + GOOD[10:]
OTHER = encode(
    Quarantined(partition=0, position=0, reason="", text="", at_us=0, key=None, value=None)
)
UNDECODABLE = [
    None,
    b"",
    b"\xc3\x01",
    b"random bytes",
    GOOD[:-1],
    GOOD[:12],
    GOOD + b"x",
    FOREIGN,
    OTHER,
]


@pytest.mark.parametrize("value", UNDECODABLE)
def test_an_event_that_is_no_command_is_refused_with_its_bytes(value: bytes | None) -> None:
    event = message(7, value)
    response = check_command(event, read_command(event), None)
    status, kept = response.status(5, SessionOrder(StatusCode.ACCEPTED)), response.quarantined(5)
    assert (status.code, status.reason, status.position) == (StatusCode.REJECTED, "UNDECODABLE", 7)
    assert kept is not None
    assert (kept.value, kept.reason) == (value, "UNDECODABLE")
    assert response.volume is None


# kind, volume known, partition of the volume, generation | code reason | recorded extents
RESPONSES = """
WRITES       yes 0 same  | ACCEPTED -              | 2
MARK_DIRTY   yes 0 same  | ACCEPTED -              | 2
WRITES       yes 0 other | ACCEPTED -              | 2
UNKNOWN      yes 0 same  | REJECTED UNKNOWN_KIND   | 2
WRITES       no  0 same  | REJECTED UNKNOWN_VOLUME | 0
WRITES       yes 3 same  | ACCEPTED -              | 0
"""


@pytest.mark.parametrize("case", RESPONSES.strip().splitlines())
def test_responses(case: str) -> None:
    given, expected, recorded = (part.split() for part in case.split("|"))
    kind, known, partition, generation = given
    more = {} if generation == "same" else {"generation": OTHER_GENERATION}
    event = message(7, command("0+4096 8192+1", kind=CommandKind(kind), **more))
    response = check_command(
        event, read_command(event), volume(partition=int(partition)) if known == "yes" else None
    )
    status = response.status(5, SessionOrder(StatusCode.ACCEPTED))
    assert [status.code.value, status.reason or "-"] == expected
    assert len(response.extents) == int(recorded[0])
    assert (response.quarantined(5) is not None) is (status.code is StatusCode.REJECTED)
    forwarded = response.forwarded()
    assert (forwarded and forwarded[0]) == (3 if partition == "3" else None)
    assert decode(encode(status), CommandStatus) == status


# raw commands as protocol:hex, 512-byte blocks | status reason | blocks recorded of a 1 MiB volume
RAW = """
SCSI:2a000000000800000800                                       | ACCEPTED -                 | 1
SCSI:28000000000800000800                                       | ACCEPTED -                 |
SCSI:ff000000000000000000                                       | ACCEPTED -                 | all
SCSI:2a000000000800000800 SCSI:2a000000001000000100             | ACCEPTED -                 | 1 2
SCSI:2a00ffffffff00000800                                       | REJECTED OUT_OF_RANGE      |
NBD:00 SCSI:2a000000000800000800                                | REJECTED MALFORMED_COMMAND | 1
"""


@pytest.mark.parametrize("case", RAW.strip().splitlines())
def test_raw_commands_are_interpreted_and_doubt_is_dirty(case: str) -> None:
    given, expected, recorded = (part.strip() for part in case.split("|"))
    raw = tuple(
        RawCommand(WireProtocol(w.split(":")[0]), bytes.fromhex(w.split(":")[1]))
        for w in given.split()
    )
    event = message(7, command(kind=CommandKind.RAW, raw=raw, logical_block_bytes=512))
    target = volume(size_bytes=SIZE)
    response = check_command(event, read_command(event), target)
    status = response.status(5, SessionOrder(StatusCode.ACCEPTED))
    assert [status.code.value, status.reason or "-"] == expected.split()
    blocks = (
        range(target.blocks) if recorded == "all" else [int(block) for block in recorded.split()]
    )
    assert list(touched(response.extents, 4096)) == list(blocks)
    assert bool(status.text) is (recorded == "all" or status.code is StatusCode.REJECTED)


def test_long_names_are_cut_and_their_addresses_are_kept() -> None:
    event = message(0, command("0+4096", host="h" * 10_000, session="s" * 10_000))
    read = read_command(event)
    assert isinstance(read, TrackingCommand)
    assert (len(read.host), len(read.session), list(read.extents)) == (
        255,
        255,
        [Extent(0, 4096)],
    )


def test_a_newer_description_is_asked_for_before_anything_is_refused() -> None:
    inside, outside = command("0+4096"), command("1048576+4096")
    event = message(0, b"x")
    assert check_command(event, inside, None).depends_on_description
    assert check_command(event, outside, volume(size_bytes=SIZE)).depends_on_description
    assert check_command(
        event, replace(outside, kind=CommandKind.UNKNOWN), volume(size_bytes=SIZE)
    ).depends_on_description
    assert not check_command(event, inside, volume(size_bytes=SIZE)).depends_on_description
    growing = replace(inside, kind=CommandKind.RESIZE, size_bytes=2 * SIZE)
    assert check_command(event, growing, volume(size_bytes=SIZE)).depends_on_description
    assert not check_command(event, read_command(event), None).depends_on_description
