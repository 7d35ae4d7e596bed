"""Sources for importers, from their documented formats, and imports in one-line notation."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from notation import volume

from mirrorlog.domain.commands import CommandKind
from mirrorlog.domain.volumes import Volume
from mirrorlog.producers.importers import (
    AddressRange,
    FitOptions,
    ImportBatch,
    ImportCounts,
    ImportSource,
    blkparse_source,
    blktrace_source,
    extent_list_source,
    fio_source,
    import_batches,
    nbdinfo_source,
    qemu_map_source,
    rbd_diff_source,
    recording_source,
    thin_delta_source,
)

NOW_US = 2_000_000_000_000_000
MIB = 1 << 20
WHOLE_VOLUME = AddressRange(offset=0, length=MIB)
TERMS = FitOptions()


def source(
    kind: str, path: Path, volume_range: AddressRange = WHOLE_VOLUME, **options: object
) -> ImportSource:
    """Return the source in a file, for a volume in this range of its addresses."""
    match kind:
        case "blktrace":
            return blktrace_source([path], volume_range, **options)  # type: ignore[arg-type]
        case "blkparse":
            return blkparse_source(path, volume_range, **options)  # type: ignore[arg-type]
        case "fio":
            return fio_source(path, volume_range, **options)  # type: ignore[arg-type]
        case "qemu-map":
            return qemu_map_source(path, **options)  # type: ignore[arg-type]
        case "nbdinfo":
            return nbdinfo_source(path)
        case "rbd-diff":
            return rbd_diff_source(path)
        case "extentlist":
            return extent_list_source(path)
        case "thin-delta":
            return thin_delta_source(path, volume_range)
        case _:
            return recording_source(kind, path, **options)  # type: ignore[arg-type]


def batches(
    import_source: ImportSource,
    size_bytes: int = MIB,
    terms: FitOptions = TERMS,
    max_extents: int = 500,
) -> Iterator[ImportBatch]:
    """Yield what is published of the source, in batches of up to `max_extents` extents."""
    return import_batches(
        import_source,
        volume("v", size_bytes),
        terms,
        now_us=NOW_US,
        max_extents=max_extents,
        counts=ImportCounts(),
    )


def rendered(import_source: ImportSource, size_bytes: int = MIB, terms: FitOptions = TERMS) -> str:
    """Return an import in one line, such as `d0+4096 z8192+4096 |`.

    m may differ, w is written, z zeroed, d discarded. A bar ends a command.
    """
    letters = {CommandKind.MARK_DIRTY: "mmm", CommandKind.WRITES: "wzd"}
    return " ".join(
        " ".join(
            f"{letters[batch.kind][extent.kind]}{extent.offset}+{extent.length}"
            for extent in batch.extents
        )
        + " |"
        for batch in batches(import_source, size_bytes, terms)
    )


def event(
    sequence: int,
    action: int,
    sector: int = 0,
    length: int = 0,
    *,
    device: int = 8 << 20,
    cpu: int = 0,
    time_ns: int = 0,
    data: bytes = b"",
    version: int = 7,
    order: str = "<",
) -> bytes:
    """Return an event of blktrace. `action` is as the kernel's blktrace_api.h builds it."""
    magic = 0x65617400 | version
    if version == 7:
        head = (magic, sequence, time_ns, sector, length, action, 1, device, cpu, 0, len(data))
        return struct.pack(order + "IIQQIIIIIHH", *head) + data
    head = (magic, sequence, time_ns, sector, length, 1, action, device, cpu, 0, len(data))
    return struct.pack(order + "IIQQIIQIIHH12x", *head) + data


def tc(bit: int) -> int:
    """Return BLK_TC_ACT(1 << bit)."""
    return 1 << bit + 16


Q_WRITE = 1 | tc(4) | tc(1)
Q_DISCARD = Q_WRITE | tc(13)
Q_READ = 1 | tc(4) | tc(0)
Q_FLUSH = Q_WRITE | tc(2)
TIMESTAMP = 1 | tc(10)


def blocks_of(
    import_source: ImportSource, described: Volume, terms: FitOptions = TERMS
) -> tuple[set[int], set[int]]:
    """Return the blocks that an import dirties, and those that one of its zeros covers whole."""
    dirty, zeroed = set[int](), set[int]()
    for batch in batches(import_source, described.size_bytes, terms):
        for extent in batch.extents:
            size = described.block_size
            dirty.update(range(extent.offset // size, -(-extent.end // size)))
            if batch.kind is CommandKind.WRITES and extent.kind:
                last = (
                    described.blocks if extent.end == described.size_bytes else extent.end // size
                )
                zeroed.update(range(-(-extent.offset // size), last))
    return dirty, zeroed


def lines(rows: Iterable[str]) -> bytes:
    """Return lines of text, each with a line end."""
    return "".join(f"{row}\n" for row in rows).encode()


def listed_changes(changes: Iterable[tuple[int, int, bool]]) -> bytes:
    """Return an extent list. `changes` are (offset, length, whether it reads as zeros)."""
    return lines(
        f"{offset} {length} {'hole,zero' if zero else ''}" for offset, length, zero in changes
    )


VALID = {
    "blktrace": b"".join(event(n, Q_WRITE, 8 * n, 512, data=b"x" * n) for n in (1, 2, 3)),
    "blkparse": b"8,0 0 1 0.000000000 1 Q WS 8 + 8 [p]\n8,0 0 1 0.000000000 1 Q D 16 + 8 [p]\n",
    "fio": b"fio version 3 iolog\n0 /v add\n0 /v open\n1 /v write 4096 512\n"
    b"2 /v trim 8192 512\n3 /v close\n",
    "vscsi": b"".join(struct.pack("<IIIHHQQ", 1, 4096, 1, 0x2A, 0x0100, 8 * n, 9) for n in (1, 2)),
    "msr": b"128166372003061629,hm,1,Write,8192,512,413\n"
    b"128166372003061630,hm,1,Write,4096,512,54\n",
    "tencent": b"1538323200,8,8,1,1058\n1538323199,16,8,1,1058\n",
    "qemu-map": b"""[{"start": 0, "length": 8192, "depth": 1, "present": true,
"zero": false, "data": true, "offset": 0},
{"start": 8192, "length": 4096, "depth": 0, "present": true, "zero": true, "data": false},
{"start": 12288, "length": 4096, "depth": 0, "present": true, "zero": false, "data": true,
"offset": 4096},
{"start": 16384, "length": 1032192, "depth": 1, "present": false, "zero": true, "data": false}]
""",
    "nbdinfo": b"""[
{ "offset": 0, "length": 4096, "type": 0, "description": "clean"},
{ "offset": 4096, "length": 8192, "type": 1, "description": "dirty"},
{ "offset": 12288, "length": 1036288, "type": 0, "description": "clean"}
]""",
    "rbd-diff": b'[{"offset":0,"length":4096,"exists":"true"},'
    b'{"offset":8192,"length":4096,"exists":"false"}]',
    "thin-delta": b'<superblock data_block_size="8"><diff>'
    b'<different begin="2" length="1"/></diff></superblock>',
    "extentlist": b"0 4096\n8192 4096 hole,zero\n",
}
"""A valid source of each kind, of a device of 1 MiB."""
VALID_BLOCKS = {
    "blktrace": {1, 2, 3},
    "blkparse": {1, 2},
    "fio": {1, 2},
    "vscsi": {1, 2},
    "msr": {1, 2},
    "tencent": {1, 2},
    "qemu-map": {2, 3},
    "nbdinfo": {1, 2},
    "rbd-diff": {0, 2},
    "thin-delta": {2},
    "extentlist": {0, 2},
}
"""The blocks of 4 KiB that the valid sources name, counted by hand."""
EMPTY = {
    "blktrace": event(1, Q_READ, 8, 512),
    "blkparse": b"8,0 0 1 0.000000000 1 Q R 8 + 8 [p]\n",
    "fio": b"fio version 3 iolog\n0 /v add\n0 /v open\n1 /v read 4096 512\n3 /v close\n",
    "vscsi": struct.pack("<IIIHHQQ", 1, 4096, 1, 0x28, 0x0100, 8, 9),
    "msr": b"128166372003061629,hm,1,Read,8192,512,413\n",
    "tencent": b"1538323200,8,8,0,1058\n",
    "qemu-map": b"[]\n",
    "nbdinfo": b"[\n]\n",
    "rbd-diff": b"[]",
    "thin-delta": b'<superblock data_block_size="8"><diff left="1" right="2"/></superblock>',
    "extentlist": b"",
}
"""A source of each kind that names nothing, of a device of 1 MiB."""
KINDS = tuple(VALID)
