"""Reading any bytes gives requests or BadInput, and a written recording reads back."""

from __future__ import annotations

import bz2
import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirrorlog.domain.extents import MAX_BYTE
from mirrorlog.errors import BadInput
from mirrorlog.producers.traces import (
    FORMATS,
    RequestKind,
    TracedRequest,
    count_dirty_blocks,
    open_trace,
    summarize_trace,
    write_trace,
)

VALID = {
    "vscsi": b"".join(
        struct.pack("<IIIHHQQ", 1, 4096, 1, op, 0x0100, 8, 9) for op in (0x2A, 0x28, 0x2A)
    ),
    "msr": b"128166372003061629,hm,1,Read,383496192,32768,413\n"
    b"128166372003061630,hm,0,Write,310983168,512,54\n",
    "tencent": bz2.compress(b"1538323200,4247200,128,1,1058\n1538323199,13896880,128,0,1063\n"),
    "blkparse": b"259,0 3 3 0.000000299 18 Q W 763 + 8 [d]\n259,0 1 2 0.024124474 9 Q FWS [j]\n"
    b"CPU3 (nvme0n1):\n",
    "mirrorlog": gzip.compress(b"# mirrorlog trace 1\n1,v,write,0,4096\n2,v,flush,0,0\n", mtime=0),
}
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def requests_or_bad_input(path: Path, trace_format: str) -> None:
    try:
        summarize_trace(open_trace(path, trace_format))
    except BadInput as error:
        assert str(path) in error.where
        assert error.next


PLAIN = {
    **VALID,
    "tencent": bz2.decompress(VALID["tencent"]),
    "mirrorlog": gzip.decompress(VALID["mirrorlog"]),
}


@pytest.mark.parametrize("trace_format", FORMATS)
def test_a_cut_recording_gives_whole_records_and_is_refused(
    tmp_path: Path, trace_format: str
) -> None:
    """Except if it ends behind a record: then it is a shorter recording."""
    whole, _ = records_and_error(packed(tmp_path, trace_format, PLAIN[trace_format]), trace_format)
    for length in range(len(PLAIN[trace_format])):
        content = PLAIN[trace_format][:length]
        path = packed(tmp_path, trace_format, content)
        records, error = records_and_error(path, trace_format)
        assert records == whole[: len(records)], "a cut never gives another record"
        behind_record = not length % 32 if trace_format == "vscsi" else content.endswith(b"\n")
        assert error is not None or behind_record, content[-40:]
        requests_or_bad_input(path, "auto")


@pytest.mark.parametrize("trace_format", ["tencent", "mirrorlog"])
def test_cut_compressed_data_is_refused(tmp_path: Path, trace_format: str) -> None:
    path = tmp_path / "cut"
    for length in range(len(VALID[trace_format])):
        path.write_bytes(VALID[trace_format][:length])
        assert records_and_error(path, trace_format)[1] is not None
        requests_or_bad_input(path, "auto")


def packed(folder: Path, trace_format: str, content: bytes) -> Path:
    """Write a recording, compressed if its format needs that. Return its path."""
    path = folder / "cut"
    path.write_bytes(gzip.compress(content) if trace_format == "mirrorlog" else content)
    return path


def records_and_error(path: Path, trace_format: str) -> tuple[list[TracedRequest], str | None]:
    """Return the records of a recording up to its end or its first error, and that error."""
    records: list[TracedRequest] = []
    try:
        for record in open_trace(path, trace_format).records():
            records.append(record)
    except BadInput as error:
        return records, error.what
    return records, None


@in_one_folder
@given(
    trace_format=st.sampled_from(list(FORMATS)),
    data=st.data(),
    mask=st.integers(1, 255),
    auto=st.booleans(),
)
def test_any_byte_changed(tmp_path, trace_format, data, mask, auto):
    content = bytearray(VALID[trace_format])
    content[data.draw(st.integers(0, len(content) - 1))] ^= mask
    path = tmp_path / "changed"
    path.write_bytes(content)
    requests_or_bad_input(path, "auto" if auto else trace_format)


@in_one_folder
@given(
    st.binary(max_size=200),
    st.sampled_from(["auto", *FORMATS]),
    st.sampled_from([bytes, gzip.compress]),
)
def test_any_bytes(tmp_path, content, trace_format, pack):
    path = tmp_path / "any"
    path.write_bytes(pack(content))
    requests_or_bad_input(path, trace_format)


@pytest.mark.parametrize("trace_format", ["mirrorlog", "tencent"])
def test_compressed_damage_is_never_taken_for_a_trace(tmp_path, trace_format):
    """Change each byte that the checksum covers: no altered address is taken for a recorded one."""
    path = tmp_path / "changed"
    path.write_bytes(VALID[trace_format])
    original = list(open_trace(path, trace_format).records())
    for index in range(10, len(VALID[trace_format])):
        content = bytearray(VALID[trace_format])
        content[index] ^= 0x10
        path.write_bytes(content)
        try:
            assert list(open_trace(path, trace_format).records()) == original
        except BadInput:
            continue


def extents(limit: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.integers(0, limit - 1).flatmap(
        lambda offset: st.tuples(st.just(offset), st.integers(1, limit - offset))
    )


volumes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
changes = st.sampled_from([RequestKind.WRITE, RequestKind.ZERO, RequestKind.DISCARD])
times = st.integers(0, (1 << 63) - 1)


def requests(limit: int, names: st.SearchStrategy[str]) -> st.SearchStrategy[list[TracedRequest]]:
    """Draw requests, of which at least one changes something, with flushes in between."""
    change = st.builds(
        lambda volume, kind, extent, time: TracedRequest(volume, kind, *extent, time),
        *(names, changes, extents(limit), times),
    )
    flush = st.builds(
        lambda volume, time: TracedRequest(volume, RequestKind.FLUSH, 0, 0, time), names, times
    )
    return st.tuples(change, st.lists(st.one_of(change, flush), max_size=12)).map(
        lambda both: [both[0], *both[1]]
    )


@in_one_folder
@given(requests(MAX_BYTE, volumes))
def test_a_written_recording_reads_back(tmp_path, recorded):
    path = tmp_path / "some.mltrace"
    write_trace(path, recorded)
    trace = open_trace(path)
    assert trace.format == "mirrorlog"
    assert list(trace.requests()) == recorded


@in_one_folder
@given(requests(300, st.sampled_from("vw")), st.sampled_from([1, 2, 8, 64]))
def test_the_count_is_that_of_a_set_of_blocks(tmp_path, recorded, block_size):
    path = tmp_path / "some.mltrace"
    write_trace(path, recorded)
    blocks: dict[str, set[int]] = {}
    for request in recorded:
        for byte in range(request.offset, request.offset + request.length):
            blocks.setdefault(request.volume, set()).add(byte // block_size)
    expected = {volume: len(of_volume) for volume, of_volume in blocks.items()}
    assert count_dirty_blocks(open_trace(path), block_size) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirrorlog.producers.traces.counting._UNITE_EVERY", 3)
        assert count_dirty_blocks(open_trace(path), block_size) == expected, "united on the way"
