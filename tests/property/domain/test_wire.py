"""Raw commands: interpreting an encoded command gives its extents, and any bytes have a verdict.

The encoders are written from the standards' field layouts, and share nothing with the code under
test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from notation import volume

from mirrorlog.domain.commands import WireProtocol
from mirrorlog.domain.extents import MAX_BYTE, Extent, ExtentColumns, ExtentKind
from mirrorlog.domain.extraction import extract
from mirrorlog.domain.wire import Verdict, interpret, nbd, nvme, scsi

SIZE = 1 << 50
U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
WRITE, ZERO, DISCARD = ExtentKind
BLOCKS = st.sampled_from([512, 4096, 1 << 16])


@dataclass(frozen=True)
class Case:
    """A command, and the ranges that it changes in blocks, as (first, count, kind)."""

    protocol: WireProtocol
    command: bytes
    data: bytes
    ranges: list[tuple[int, int, ExtentKind]]


def cdb_10(opcode: int, flags: int, first: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", opcode, flags, first, 0x1F, count, 0)


def cdb_12(opcode: int, flags: int, first: int, count: int) -> bytes:
    return struct.pack(">BBIIBB", opcode, flags, first, count, 0x1F, 0)


def cdb_16(opcode: int, flags: int, first: int, count: int) -> bytes:
    return struct.pack(">BBQIBB", opcode, flags, first, count, 0x1F, 0)


def cdb_16_short(opcode: int, flags: int, first: int, count: int) -> bytes:
    return struct.pack(">BBQHHBB", opcode, flags, first, 0xFFFF, count, 0x1F, 0)


def cdb_32(action: int, flags: int, first: int, count: int) -> bytes:
    return struct.pack(
        ">BB4xBBHBBQIHHI", 0x7F, 0, 0x1F, 24, action, flags, 7, first, U32, U16, U16, count
    )


def compare_and_write(opcode: int, flags: int, first: int, count: int) -> bytes:
    return struct.pack(">BBQ3xBBB", opcode, flags, first, count, 0x1F, 0)


PLAIN = [  # encoder, opcodes or service actions, widest address, most blocks
    (cdb_10, (0x2A, 0x2E, 0x50, 0x51, 0x53), U32, U16),
    (cdb_12, (0xAA, 0xAE), U32, U32),
    (cdb_16, (0x8A, 0x8B, 0x8E), U64, U32),
    (cdb_16_short, (0x9A, 0x9C), U64, U16),
    (compare_and_write, (0x89,), U64, 0xFF),
    (cdb_32, (0x04, 0x06, 0x07, 0x0B, 0x0C, 0x0E, 0x0F, 0x10), U64, U32),
]
SAME = [(cdb_10, 0x41, U32, U16), (cdb_16, 0x93, U64, U32), (cdb_32, 0x0D, U64, U32)]


@st.composite
def plain_scsi(draw: st.DrawFn) -> Case:
    encode, codes, widest, most = draw(st.sampled_from(PLAIN))
    first, count = draw(st.integers(0, widest)), draw(st.integers(0, most))
    flags = draw(st.integers(0, 127)) << 1
    return Case(
        WireProtocol.SCSI,
        encode(draw(st.sampled_from(codes)), flags, first, count),
        b"",
        [(first, count, WRITE)],
    )


@st.composite
def write_6(draw: st.DrawFn) -> Case:
    first, count, lun = (
        draw(st.integers(0, (1 << 21) - 1)),
        draw(st.integers(1, 256)),
        draw(st.integers(0, 7)),
    )
    command = struct.pack(">II", 0x0A << 24 | lun << 21 | first, (count & 0xFF) << 24)[:6]
    return Case(WireProtocol.SCSI, command, b"", [(first, count, WRITE)])


@st.composite
def write_same(draw: st.DrawFn) -> Case:
    encode, code, widest, most = draw(st.sampled_from(SAME))
    first, count, unmap = (
        draw(st.integers(0, widest)),
        draw(st.integers(1, most)),
        draw(st.booleans()),
    )
    ndob = encode is not cdb_10 and draw(st.booleans())
    data = (
        b""
        if ndob
        else draw(st.sampled_from([bytes(1 << 16), bytes(511) + b"\1" + bytes(1 << 16), b""]))
    )
    kind = (DISCARD if unmap else ZERO) if ndob or (data and not any(data)) else WRITE
    return Case(
        WireProtocol.SCSI,
        encode(code, 0xE0 | unmap << 3 | ndob, first, count),
        data,
        [(first, count, kind)],
    )


RANGES = st.lists(st.tuples(st.integers(0, U64), st.integers(0, U32)), max_size=5)


@st.composite
def unmap(draw: st.DrawFn) -> Case:
    ranges = draw(RANGES)
    rows = b"".join(struct.pack(">QI4x", *row) for row in ranges)
    data = struct.pack(">HH4x", len(rows) + 6, len(rows)) + rows
    command = struct.pack(">BB4xBHB", 0x42, draw(st.integers(0, 1)), 0, len(data), 0)
    return Case(WireProtocol.SCSI, command, data, [(*row, DISCARD) for row in ranges])


@st.composite
def write_scattered(draw: st.DrawFn) -> Case:
    ranges = draw(RANGES)
    data = bytes(32) + b"".join(struct.pack(">QI20x", *row) for row in ranges)
    command = struct.pack(">BBBxHxxHIBB", 0x9F, 0x12, 0xF8, 1, len(ranges), U32, 0, 0)
    if draw(st.booleans()):
        command = struct.pack(">BB5xBHBxHxxH10xI", 0x7F, 0, 24, 0x11, 0xF8, 1, len(ranges), U32)
    return Case(WireProtocol.SCSI, command, data, [(*row, WRITE) for row in ranges])


def entry(opcode: int, cdw10_11: int, cdw12: int) -> bytes:
    return struct.pack("<BBHI32xQI12x", opcode, 0x40, U16, 1, cdw10_11, cdw12)


@st.composite
def nvme_entries(draw: st.DrawFn) -> Case:
    first, count = draw(st.integers(0, U64)), draw(st.integers(1, U16 + 1))
    opcode, flags, kind = draw(
        st.sampled_from(
            [(1, 0xFC00 << 16, WRITE), (4, 0, WRITE), (8, 0, ZERO), (8, 1 << 25, DISCARD)]
        )
    )
    return Case(
        WireProtocol.NVME, entry(opcode, first, flags | count - 1), b"", [(first, count, kind)]
    )


@st.composite
def dataset_management(draw: st.DrawFn) -> Case:
    ranges = draw(RANGES.filter(bool))
    data = b"".join(struct.pack("<IIQ", U32, count, first) for first, count in ranges)
    command = entry(9, (draw(st.integers(0, 3)) | 4) << 32 | len(ranges) - 1, 0)
    return Case(WireProtocol.NVME, command, data, [(*row, DISCARD) for row in ranges])


@st.composite
def copy(draw: st.DrawFn) -> Case:
    first, form = draw(st.integers(0, U64)), draw(st.integers(0, 3))
    counts = draw(st.lists(st.integers(1, U16 + 1), min_size=1, max_size=256))
    data = b"".join(struct.pack("<QQH14x", U64, U64, n - 1) + bytes(8 * (form & 1)) for n in counts)
    command = entry(0x19, first, len(counts) - 1 | form << 8 | 0x3F << 26)
    return Case(WireProtocol.NVME, command, data, [(first, sum(counts), WRITE)])


@st.composite
def nbd_requests(draw: st.DrawFn) -> Case:
    kind, what = draw(st.sampled_from([(1, WRITE), (4, DISCARD), (6, ZERO)]))
    wide, offset = draw(st.booleans()), draw(st.integers(0, U64))
    length = draw(st.integers(0, U64 if wide else U32))
    magic, flags = (0x21E41C71, (kind == 1) << 5) if wide else (0x25609513, 0x13)
    form = ">IHHQQQ" if wide else ">IHHQQI"
    return Case(
        WireProtocol.NBD,
        struct.pack(form, magic, flags, kind, U64, offset, length),
        b"",
        [(offset, length, what)],
    )


CHANGES = st.one_of(
    plain_scsi(),
    write_6(),
    write_same(),
    unmap(),
    write_scattered(),
    nvme_entries(),
    dataset_management(),
    copy(),
    nbd_requests(),
)


@given(CHANGES, BLOCKS)
def test_an_encoded_command_gives_its_extents(case: Case, block_bytes: int) -> None:
    unit = 1 if case.protocol is WireProtocol.NBD else block_bytes
    result = interpret(
        case.protocol,
        case.command,
        data=case.data,
        logical_block_bytes=block_bytes,
        size_bytes=SIZE,
    )
    assert result.verdict is Verdict.EXTENTS
    wanted = [
        Extent(first * unit, count * unit, kind) for first, count, kind in case.ranges if count
    ]
    assert len(result.extents) == len(wanted)
    for extent, true in zip(result.extents, wanted, strict=True):
        if true.end <= U64:
            assert extent == true
        else:  # It doesn't wrap: the check of ranges refuses it.
            assert U64 >= extent.end > MAX_BYTE
            assert extract(ExtentColumns.of([extent]), volume(size_bytes=SIZE)).objection


@given(st.sampled_from([cdb_10, cdb_16, cdb_32]), st.integers(0, 200), BLOCKS)
def test_write_same_of_no_blocks_reaches_the_end(
    encode: Callable[..., bytes], first: int, block_bytes: int
) -> None:
    code, size_bytes = {cdb_10: 0x41, cdb_16: 0x93, cdb_32: 0x0D}[encode], 100 * block_bytes + 5
    result = interpret(
        WireProtocol.SCSI,
        encode(code, 8, first, 0),
        data=b"",
        logical_block_bytes=block_bytes,
        size_bytes=size_bytes,
    )
    if first <= 100:
        assert result.extents == (Extent(first * block_bytes, size_bytes - first * block_bytes),)
    else:
        assert (result.verdict, result.extents) == (Verdict.MALFORMED, ())


LENGTHS = st.one_of(st.integers(0, 120), st.integers(0, U16))


@settings(max_examples=500)
@given(RANGES, LENGTHS, LENGTHS, LENGTHS, st.binary(max_size=15))
def test_an_unmap_names_what_any_target_discards_whatever_its_lengths_say(
    ranges: list[tuple[int, int]], in_cdb: int, in_header: int, of_descriptors: int, rest: bytes
) -> None:
    rows = b"".join(struct.pack(">QI4x", *row) for row in ranges)
    data = struct.pack(">HH4x", in_header, of_descriptors) + rows + rest
    command = struct.pack(">B6xHB", 0x42, in_cdb, 0)
    result = interpret(
        WireProtocol.SCSI, command, data=data, logical_block_bytes=1, size_bytes=SIZE
    )
    named = max(in_cdb - 8, in_header - 6, of_descriptors) // 16
    if in_cdb > len(data) or named > len(ranges):  # A target may have had more than came here.
        assert result.verdict is Verdict.WHOLE_VOLUME
    elif result.verdict is Verdict.MALFORMED:
        assert not ranges
    else:  # A target that goes by the transport alone discards all of them (tgt, bs_rdwr.c).
        wanted = [Extent(first, count, DISCARD) for first, count in ranges if count]
        assert [e.offset for e in result.extents] == [min(w.offset, U64 - 1) for w in wanted]
        assert all(e.end == min(w.end, U64) for e, w in zip(result.extents, wanted, strict=True))


@given(CHANGES, BLOCKS, st.data())
def test_a_command_that_was_cut_off_never_names_less(
    case: Case, block_bytes: int, data: st.DataObject
) -> None:
    assume(any(count for _, count, _ in case.ranges))
    whole = interpret(
        case.protocol,
        case.command,
        data=case.data,
        logical_block_bytes=block_bytes,
        size_bytes=SIZE,
    )
    command = case.command[: data.draw(st.integers(1, len(case.command) - 1))]
    assert (
        interpret(
            case.protocol, command, data=case.data, logical_block_bytes=block_bytes, size_bytes=SIZE
        ).verdict
        is Verdict.WHOLE_VOLUME
    )
    part = interpret(
        case.protocol,
        case.command,
        data=case.data[:-1],
        logical_block_bytes=block_bytes,
        size_bytes=SIZE,
    )
    if part.verdict is not Verdict.WHOLE_VOLUME:
        assert [(e.offset, e.length) for e in part.extents] == [
            (e.offset, e.length) for e in whole.extents
        ]


OPENINGS = st.sampled_from(
    [b"", b"\x42", b"\x93", b"\x9f\x12", b"\x7f", b"\x09", b"\x19", b"\x25\x60\x95\x13\0\0\0"]
)


@given(
    st.sampled_from(WireProtocol),
    st.builds(bytes.__add__, OPENINGS, st.binary(max_size=80)),
    st.binary(max_size=200),
    st.sampled_from([512, 4096, 1 << 62, 0, 520, -1]),
    st.sampled_from([SIZE, 1 << 20, 1000, 0]),
)
def test_any_bytes_have_a_verdict(
    protocol: WireProtocol, command: bytes, data: bytes, block_bytes: int, size_bytes: int
) -> None:
    result = interpret(
        protocol, command, data=data, logical_block_bytes=block_bytes, size_bytes=size_bytes
    )
    match result.verdict:
        case Verdict.EXTENTS:
            assert all(
                extent.offset >= 0 and extent.length > 0 and extent.end <= U64
                for extent in result.extents
            )
            ExtentColumns.of(result.extents)
        case Verdict.WHOLE_VOLUME:
            assert result.text and result.extents == (
                (Extent(0, size_bytes),) if size_bytes else ()
            )
        case Verdict.MALFORMED:
            assert result.text and not result.extents
        case Verdict.READ_ONLY:
            assert not result.extents


# Opcode, or opcode:service actions. Nothing else is ever read-only, for any other bytes.
SCSI_READ_ONLY = """
00 03 12 1a 1c 1e 4c 4d 5a 5e 5f 8c a0 a2  inquiries, sense, mode and log pages, reservations
08 28 88 a8 7f:9 52 7f:3                    reads
2f 8f af 7f:a                               verifications
0b 2b 34 90 35 91                           seeks, pre-fetches, synchronised caches
25 3e 3c 9b 37 b7 9e:10-17 7f:12 ab:1       capacities, READ LONG, buffers, defects, LBA status
16 17 56 57                                 reservations of SPC-2
84:0-1 84:3-8 95:0                          what became of copies; zones
a3:5 a3:a-f a4:6 a4:a-b a4:e-f              identifiers, port groups, aliases, timestamps
"""
SCSI_AT_TIMES = (
    "15 55 1b 1d"  # MODE SELECT, START STOP UNIT, SEND DIAGNOSTIC: read-only in their plainest form
)
SCSI_EXTENTS = "0a 2a 2e 3f 41 42 50 51 53 89 8a 8b 8e 93 9a 9c 9f:11-12 aa ae 7f:4 7f:6-7 7f:b-11"
NVME_READ_ONLY = "00 02 05 0c 0d 0e 11 12 15 18 7a"
NBD_READ_ONLY = "00 02 03 05 07"


def codes(text: str) -> set[tuple[int, int]]:
    """Return pairs of opcode and service action, which is -1 if there is none."""
    pairs: set[tuple[int, int]] = set()
    for word in (word for line in text.splitlines() for word in line.partition("  ")[0].split()):
        opcode, _, actions = word.partition(":")
        first, _, last = actions.partition("-")
        steps = range(int(first, 16), int(last or first, 16) + 1) if actions else (-1,)
        pairs |= {(int(opcode, 16), action) for action in steps}
    return pairs


WITH_ACTION = {
    op for op, action in codes(SCSI_READ_ONLY + SCSI_EXTENTS) if action >= 0 and op != 0x7F
} | {0x83, 0x94}


def every_cdb(fill: int) -> dict[tuple[int, int], bytes]:
    """Return a CDB of each opcode and service action, with `fill` in its other bytes."""
    plain = {
        (op, -1): bytes([op, *[fill] * 15]) for op in range(256) if op not in (*WITH_ACTION, 0x7F)
    }
    short = {
        (op, sa): bytes([op, fill & 0xE0 | sa, *[fill] * 14])
        for op, sa in product(WITH_ACTION, range(32))
    }
    rest = [fill] * 22
    wide = {
        (0x7F, sa): bytes([0x7F, *[fill] * 6, 24, *sa.to_bytes(2, "big"), *rest])
        for sa in range(1 << 16)
    }
    return plain | short | wide


def verdicts(fill: int) -> dict[Verdict, set[tuple[int, int]]]:
    by_verdict: dict[Verdict, set[tuple[int, int]]] = {verdict: set() for verdict in Verdict}
    for code, cdb in every_cdb(fill).items():
        verdict = interpret(
            WireProtocol.SCSI,
            cdb,
            data=bytes([fill]) * 4096,
            logical_block_bytes=512,
            size_bytes=SIZE,
        ).verdict
        by_verdict[verdict].add(code)
    return by_verdict


def test_every_scsi_opcode_has_its_verdict() -> None:
    of_zeros, of_ones = verdicts(0x00), verdicts(0xFE)
    assert of_zeros[Verdict.READ_ONLY] == codes(SCSI_READ_ONLY) | codes(SCSI_AT_TIMES)
    assert of_ones[Verdict.READ_ONLY] == codes(SCSI_READ_ONLY)
    assert of_zeros[Verdict.EXTENTS] == codes(SCSI_EXTENTS)
    assert of_zeros[Verdict.MALFORMED] == set()


@pytest.mark.parametrize(
    ("protocol", "listed"), [(WireProtocol.NVME, NVME_READ_ONLY), (WireProtocol.NBD, NBD_READ_ONLY)]
)
@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_every_other_opcode_has_its_verdict(
    protocol: WireProtocol, listed: str, fill: bytes
) -> None:
    def command(opcode: int) -> bytes:
        if protocol is WireProtocol.NVME:
            return bytes([opcode]) + fill * 63
        return struct.pack(">IHH20s", 0x25609513, 0, opcode, fill * 20)

    verdict_of = {
        op: interpret(
            protocol, command(op), data=fill * 4096, logical_block_bytes=512, size_bytes=SIZE
        ).verdict
        for op in range(256)
    }
    read_only = {(op, -1) for op, verdict in verdict_of.items() if verdict is Verdict.READ_ONLY}
    hints = (
        {(9, -1)} if protocol is WireProtocol.NVME and fill == b"\x00" else set()
    )  # Dataset Management without AD
    assert read_only == codes(listed) | hints
    assert {op for op, verdict in verdict_of.items() if verdict is Verdict.EXTENTS} <= {
        1,
        4,
        6,
        8,
        9,
        0x19,
    }


def test_a_command_that_isnt_in_the_tables_is_the_whole_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cdbs = every_cdb(0)
    for code in list(scsi._INTERPRETERS):
        monkeypatch.delitem(scsi._INTERPRETERS, code)
    for code in codes(SCSI_EXTENTS) | codes(SCSI_AT_TIMES):
        assert (
            interpret(
                WireProtocol.SCSI, cdbs[code], data=b"", logical_block_bytes=512, size_bytes=SIZE
            ).verdict
            is Verdict.WHOLE_VOLUME
        )
    for opcode in list(nvme._CHANGES):
        monkeypatch.delitem(nvme._CHANGES, opcode)
        assert (
            interpret(
                WireProtocol.NVME,
                entry(opcode, 0, 0),
                data=b"",
                logical_block_bytes=512,
                size_bytes=SIZE,
            ).verdict
            is Verdict.WHOLE_VOLUME
        )
    for kind in list(nbd._CHANGES):
        monkeypatch.delitem(nbd._CHANGES, kind)
        request = struct.pack(">IHHQQI", 0x25609513, 0, kind, 0, 0, 512)
        assert (
            interpret(
                WireProtocol.NBD, request, data=b"", logical_block_bytes=512, size_bytes=SIZE
            ).verdict
            is Verdict.WHOLE_VOLUME
        )
