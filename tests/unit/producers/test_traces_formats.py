"""Each format on small files, and the errors of malformed ones."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.traces import (
    FORMATS,
    RequestKind,
    TracedRequest,
    count_dirty_blocks,
    open_trace,
    summarize_trace,
    write_trace,
)

EVENT = "8,16 1 7 2.000003999 42 "


def vscsi(*rows: tuple[int, int, int, int]) -> bytes:
    """Return records of version 1. `rows` are (opcode, block, length, time)."""
    return b"".join(
        struct.pack("<IIIHHQQ", 0, length, 1, op, 0x0100, block, time)
        for op, block, length, time in rows
    )


def mltrace(text: str) -> bytes:
    return gzip.compress(f"# mirrorlog trace 1\n{text}".encode(), mtime=0)


def save(folder: Path, content: bytes | str, name: str = "some file.trace") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rendered(request: TracedRequest) -> str:
    return f"{request.volume} {request.kind} {request.offset}+{request.length} @{request.time_us}"


READABLE = {
    "vscsi": (
        vscsi((0x28, 9, 512, 1), (0x2A, 3, 1024, 2), (0x2A, 3, 0, 2), (0x8A, 8, 512, 1)),
        ["some-file write 1536+1024 @2", "some-file write 4096+512 @1"],
        {"some-file": 5120},
    ),
    "msr": (
        "128166372003061629,hm,1,Read,8192,512,5\r\n128166372003061639,hm,0,Write,10,20,5\n\n",
        ["hm-0 write 10+20 @12816637200306163"],
        {"hm-1": 8704, "hm-0": 30},
    ),
    "tencent": (
        "1538323200,8,2,1,7\n1538323199,0,1,1,12\n1538323200,90,1,0,3\n",
        ["vol7 write 4096+1024 @1538323200000000", "vol12 write 0+512 @1538323199000000"],
        {"vol7": 5120, "vol12": 512, "vol3": 46592},
    ),
    "blkparse": (
        "#Maj,Mn\n"
        + "".join(
            f"{EVENT}{event}\n"
            for event in (
                "A   W 16 + 8 <- (253,3) 8",
                "Q   W 16 + 8 [a b]",
                "P   N [a]",
                "m   N cfq123 anything",
                "Q FWFS [jbd2]",
                "Q   D 8 + 8 [fstrim]",
                "Q FWFS 32 + 8 [x]",
                "Q  RA 80 + 8 [x]",
                "Q   N [x]",
                "G   W 16 + 8 [a b]",
                "D   W 16 + 8 [a b]",
                "D   W 512 (8a 00 ..) [sg_dd]",
                "C   W 16 + 8 ( 1234567) [0]",
                "C  WS 24 [0]",
            )
        )
        + "CPU0 (sda):\n Reads Queued:           0,        0KiB\n",
        [
            "8-16 write 8192+4096 @2000003",
            "8-16 flush 0+0 @2000003",
            "8-16 discard 4096+4096 @2000003",
            "8-16 flush 0+0 @2000003",
            "8-16 write 16384+4096 @2000003",
            "8-16 flush 0+0 @2000003",
        ],
        {"8-16": 45056},
    ),
    "mirrorlog": (
        mltrace("5,v,write,1,2\n4,v,zero,3,4\n6,w,discard,0,9\n7,w,flush,0,0\n"),
        ["v write 1+2 @5", "v zero 3+4 @4", "w discard 0+9 @6", "w flush 0+0 @7"],
        {"v": 7, "w": 9},
    ),
}


@pytest.mark.parametrize("trace_format", FORMATS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_reads_and_recognizes(tmp_path, trace_format, pack):
    content, requests, volumes = READABLE[trace_format]
    plain = content.encode() if isinstance(content, str) else content
    trace = open_trace(save(tmp_path, plain if trace_format == "mirrorlog" else pack(plain)))
    assert trace.format == trace_format
    assert [rendered(request) for request in trace.requests()] == requests
    assert [rendered(request) for request in trace.requests()] == requests, (
        "a second pass gives the same requests"
    )
    assert summarize_trace(trace).volumes == volumes


def test_a_summary_counts_by_kind(tmp_path):
    summary = summarize_trace(open_trace(save(tmp_path, READABLE["blkparse"][0])))
    assert (summary.reads, summary.writes, summary.zeroes, summary.discards, summary.flushes) == (
        1,
        2,
        0,
        1,
        3,
    )
    assert summary.bytes_written == 8192


def test_dirty_blocks_round_outwards_and_count_once(tmp_path):
    text = "0,v,write,4095,2\n0,v,zero,4096,4096\n0,w,discard,0,1073741825\n0,w,flush,0,0\n"
    assert count_dirty_blocks(open_trace(save(tmp_path, mltrace(text))), 4096) == {
        "v": 2,
        "w": 262_145,
    }


# (format given, content, what is said, record, byte)
GOOD_MSR = "1,h,0,Write,0,512,1\n"
BROKEN = {
    "empty": ("auto", b"", "is empty", 1, 0),
    "empty gzip": ("auto", gzip.compress(b""), "is empty", 1, 0),
    "unknown": ("auto", b"\x7fELF" + bytes(400), "no known format", 1, 0),
    "vscsi cut": ("auto", vscsi((0x2A, 0, 512, 0)) + b"x" * 31, "31 of a record's 32", 2, 32),
    "vscsi opcode": ("auto", vscsi((0x2A, 0, 512, 0), (0x42, 0, 512, 0)), "opcode 0x42", 2, 32),
    "vscsi version": (
        "vscsi",
        vscsi((0x2A, 0, 512, 0)).replace(b"\0\1", b"\0\2"),
        "version 0x0200",
        1,
        0,
    ),
    "vscsi overflow": ("auto", vscsi((0x2A, MAX_BYTE // 512, 512, 0)), "ends above", 1, 0),
    "vscsi time": ("auto", vscsi((0x2A, 0, 512, 1 << 63)), "time 9223372036854775808", 1, 0),
    "negative": ("auto", GOOD_MSR + "1,h,0,Write,-8,512,1\n", "offset '-8'", 2, 20),
    "nonsense": ("auto", GOOD_MSR + "1,h,0,Write,0,1e3,1\n", "size '1e3'", 2, 20),
    "huge": ("auto", GOOD_MSR + f"1,h,0,Write,0,{'9' * 4000},1\n", "size '999", 2, 20),
    "overflow": ("auto", f"1,h,0,Write,{MAX_BYTE},1,1\n", "ends above", 1, 0),
    "cut line": ("auto", GOOD_MSR * 2 + "1,h,0,Write,0,51", "no line end", 3, 40),
    "cut summary": ("auto", f"{EVENT}Q W 1 + 8 [a]\nCPU0 (sd", "no line end", 2, 38),
    "cut volume": ("auto", "1,8,2,1,10", "no line end", 1, 0),
    "few fields": ("auto", GOOD_MSR * 2 + "1,h,0,Wri\n", "4 of the 7 fields", 3, 40),
    "other type": ("auto", GOOD_MSR + "1,h,0,Trim,0,512,1\n", "'Trim'", 2, 20),
    "no UTF-8": ("auto", GOOD_MSR.encode() + b"1,\xff,0,Write,0,512,1\n", r"host '\xff'", 2, 20),
    "NUL": ("auto", GOOD_MSR.encode() + b"1,h,0,Write,0,5\x0012,1\n", "binary data", 2, 20),
    "binary as CSV": ("tencent", vscsi((0x2A, 0, 512, 0)), "binary data", 1, 0),
    "first line broken": ("auto", "?\n1,8,2,1,7\n", "1 of the 5 fields", 1, 0),
    "no change": ("auto", "1,8,2,0,7\n", "without a write", 2, 10),
    "tencent sectors": ("auto", f"1,{1 << 54},1,1,7\n", "ends above", 1, 0),
    "blkparse sector": ("auto", f"{EVENT}Q W 1x6 + 8 [a]\n", "isn't a sector", 1, 0),
    "blkparse discard": ("auto", f"{EVENT}Q D [a]\n", "without a sector", 1, 0),
    "blkparse zone": ("auto", f"{EVENT}Q WS [a]\n", "write without a sector", 1, 0),
    "blkparse passed through": ("auto", f"{EVENT}Q W 512 [a]\n", "write without a sector", 1, 0),
    "blkparse cut": ("auto", f"{EVENT}Q W\n", "'' isn't a sector", 1, 0),
    "blkparse only issued": ("auto", f"{EVENT}D W 8 + 8 [a]\n", "none is queued", 2, 38),
    "blkparse other": (
        "auto",
        f"{EVENT}Q W 1 + 8 [a]\n8:16 1 7 2.0 Q W\n",
        "neither an event",
        2,
        38,
    ),
    "mltrace plain": ("auto", gzip.decompress(READABLE["mirrorlog"][0]), "checksum", 1, 0),
    "mltrace version": ("auto", gzip.compress(b"# mirrorlog trace 2\n"), "mirrorlog trace 2", 1, 0),
    "mltrace kind": ("auto", mltrace("1,v,read,0,1\n"), "kind 'read'", 2, 20),
    "mltrace volume": ("auto", mltrace("1,../v,write,0,1\n"), "'../v'", 2, 20),
    "mltrace flush": ("auto", mltrace("1,v,flush,0,1\n"), "a flush has an extent", 2, 20),
    "mltrace nothing": ("auto", mltrace("1,v,write,7,0\n"), "of no bytes", 2, 20),
    "gzip cut": ("auto", READABLE["mirrorlog"][0][:-1], "damaged or cut off", 1, 0),
    "bz2 cut": ("auto", bz2.compress(b"1,8,2,1,7\n")[:-1], "damaged or cut off", 1, 0),
    "bz2 damaged": ("auto", b"BZh9" + b"x" * 40, "damaged", 1, 0),
}


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_input_is_reported_in_one_line(tmp_path, case):
    trace_format, content, what, record, byte = BROKEN[case]
    path = save(tmp_path, content)
    with pytest.raises(BadInput) as caught:
        summarize_trace(open_trace(path, trace_format))
    assert what in caught.value.what
    assert caught.value.where == f"{path}, record {record}, byte {byte}"
    assert caught.value.next
    assert "\n" not in str(caught.value)


def test_unknown_format_lists_the_formats(tmp_path):
    with pytest.raises(BadInput) as caught:
        open_trace(save(tmp_path, "hello\n"))
    assert all(name in caught.value.next for name in FORMATS)
    with pytest.raises(BadUse) as misused:
        open_trace(save(tmp_path, "hello\n"), "vhs")
    assert all(name in misused.value.next for name in FORMATS)


def test_a_path_that_isnt_a_readable_file_is_reported(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path, what in (
        (tmp_path / "absent", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "fifo", "isn't a regular file"),
        (tmp_path / "loop", "symbolic links"),
        (Path("/proc/self/mem"), "Input/output error"),
    ):
        with pytest.raises(BadInput, match=what) as caught:
            open_trace(path)
        assert caught.value.where.startswith(str(path))
        assert caught.value.next


def test_a_line_without_an_end_costs_no_memory(tmp_path):
    """A line of 64 MiB without an end, in 64 KiB of gzip."""
    path = save(tmp_path, gzip.compress(GOOD_MSR.encode()) + gzip.compress(b"7" * (1 << 20)) * 64)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="a line has more than 4,096 bytes") as caught:
            summarize_trace(open_trace(path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.where.endswith("record 2, byte 20")


def test_volumes_are_bounded(tmp_path):
    path = save(tmp_path, "".join(f"1,8,2,1,{volume}\n" for volume in range((1 << 16) + 1)))
    with pytest.raises(BadInput, match="more than 65,536 volumes"):
        summarize_trace(open_trace(path))


def test_requests_stream(tmp_path):
    """Requests before a malformed record can be read without an error."""
    path = save(tmp_path, GOOD_MSR * 3 + "broken\n")
    assert len(list(islice(open_trace(path).requests(), 3))) == 3


WRITE = TracedRequest("v", RequestKind.WRITE, 0, 1, 0)


@pytest.mark.parametrize(
    "request_",
    [
        TracedRequest("v", RequestKind.READ, 0, 1, 0),
        TracedRequest("v,w", RequestKind.WRITE, 0, 1, 0),
        TracedRequest("é", RequestKind.WRITE, 0, 1, 0),
        TracedRequest("v", RequestKind.WRITE, 0, 0, 0),
        TracedRequest("v", RequestKind.WRITE, MAX_BYTE, 1, 0),
        TracedRequest("v", RequestKind.WRITE, 0, 1, -1),
        TracedRequest("v", RequestKind.FLUSH, 1, 0, 0),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_written_leaves_the_old_file(tmp_path, request_):
    path = save(tmp_path, "before")
    with pytest.raises(BadUse):
        write_trace(path, [WRITE, request_])
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_requests_give_the_same_bytes(tmp_path):
    one, two = tmp_path / "one.mltrace", tmp_path / "two.mltrace"
    write_trace(one, [WRITE])
    write_trace(two, [WRITE])
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes()[3:8] == bytes(5), "neither a name nor a time (RFC 1952, FLG and MTIME)"
