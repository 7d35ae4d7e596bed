"""Exports can be imported again, and damage is found, for any values and any sizes of reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_cases import (
    KINDS,
    MIB,
    Q_DISCARD,
    Q_WRITE,
    VALID,
    batches,
    blocks_of,
    event,
    lines,
    rendered,
    source,
)
from notation import volume

from mirrorlog.changed.fold import ChangedBlocks
from mirrorlog.changed.formats import render
from mirrorlog.domain.bitmaps import BlockSet
from mirrorlog.errors import BadInput, BadUse
from mirrorlog.producers.importers import AddressRange, FitOptions
from mirrorlog.producers.importers.reading import SourceReader
from mirrorlog.producers.traces.request import MalformedRecord

in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
BLOCK = 4096
EXPORTS = {
    "qemu-map": "qemu-map",
    "nbdinfo": "nbdinfo",
    "rbd": "rbd-diff",
    "extentlist": "extentlist",
}


@pytest.mark.parametrize("exported", EXPORTS)
@in_one_folder
@given(
    st.sets(st.integers(0, 40), max_size=30),
    st.sets(st.integers(0, 40), max_size=10),
    st.sampled_from([1, 100, BLOCK]),
)
def test_an_export_imports_as_the_same_changes(
    tmp_path: Path, exported: str, changed: set[int], zeroed: set[int], tail: int
) -> None:
    described = volume(size_bytes=40 * BLOCK + tail)
    answer = ChangedBlocks(
        described, -1, 9, BlockSet(changed), BlockSet(zeroed & changed), ("h",), 1, 2, 3
    )
    path = tmp_path / "exported"
    path.write_text("".join(render(answer, exported)))
    allowed = FitOptions(allow_empty=not changed)
    dirty, zeros = blocks_of(source(EXPORTS[exported], path), described, allowed)
    assert dirty == changed
    assert zeros == (zeroed & changed if exported in ("qemu-map", "rbd") else set())


extents = st.integers(0, MIB // 512 - 1).flatmap(
    lambda first: st.tuples(st.just(first), st.integers(1, MIB // 512 - first))
)


def fio(changes: list[tuple[int, int, bool]]) -> bytes:
    rows = (
        f"{n} /v {'trim' if d else 'write'} {s * 512} {c * 512}"
        for n, (s, c, d) in enumerate(changes)
    )
    return lines(["fio version 3 iolog", "0 /v add", "0 /v open", *rows, "9 /v close"])


def blktrace(changes: list[tuple[int, int, bool]]) -> bytes:
    rows = enumerate(changes, start=1)
    return b"".join(
        event(n, Q_DISCARD if d else Q_WRITE, s, c * 512, data=b"x" * (n % 3))
        for n, (s, c, d) in rows
    )


def blkparse(changes: list[tuple[int, int, bool]]) -> bytes:
    return lines(
        f"8,0 0 1 0.000000000 1 Q {'D' if d else 'WS'} {s} + {c} [p]" for s, c, d in changes
    )


RECORDINGS = {"fio": fio, "blktrace": blktrace, "blkparse": blkparse}


@pytest.mark.parametrize("kind", RECORDINGS)
@in_one_folder
@given(
    changes=st.lists(st.tuples(extents, st.booleans()), min_size=1, max_size=30),
    zeroes=st.booleans(),
)
def test_every_write_of_a_recording_is_imported_once_in_order(
    tmp_path: Path, kind: str, changes: list[tuple[tuple[int, int], bool]], zeroes: bool
) -> None:
    encode: Callable[[list[tuple[int, int, bool]]], bytes] = RECORDINGS[kind]
    path = tmp_path / "recording"
    path.write_bytes(encode([(start, count, discard) for (start, count), discard in changes]))
    letters = ["d" if discard and zeroes else "w" for _, discard in changes]
    expected = [
        f"{a}{start * 512}+{count * 512}"
        for a, ((start, count), _) in zip(letters, changes, strict=True)
    ]
    assert rendered(source(kind, path, discard_zeroes=zeroes)).split()[:-1] == expected


@st.composite
def fio_jobs(draw: st.DrawFn) -> tuple[int, bytes, set[int], bool]:
    """Return a log that several jobs appended to.

    Return the size of the pieces in which each job appends its lines, the log, the blocks that the
    jobs wrote, and whether the log is clean: the jobs ran one after the other, each to its end.
    """
    name = draw(st.sampled_from(["v", "/v", "a blank", "a write 1 1"]))
    logs, written = [], set[int]()
    for _ in range(draw(st.integers(1, 3))):
        log = f"fio version 3 iolog\n1 {name} add\n"
        for blocks in draw(st.lists(st.lists(st.integers(0, 255), max_size=9), max_size=3)):
            writes = "".join(f"{9 * block} {name} write {block * BLOCK} 512\n" for block in blocks)
            log += f"1 {name} open\n{writes}2 {name} close\n"
            written.update(blocks)
        logs.append(log.encode())
    # One piece at least ends with a line.
    some_log = draw(st.sampled_from(logs))
    ends = [at + 1 for at, byte in enumerate(some_log) if byte == ord("\n")]
    piece_bytes = draw(st.sampled_from(ends))
    pieces = [
        [log[at : at + piece_bytes] for at in range(0, len(log), piece_bytes)] for log in logs
    ]
    is_clean = all(len(log) % piece_bytes for log in logs)
    if draw(st.booleans()):  # A job was killed, and another may have followed.
        killed = pieces[draw(st.integers(0, len(pieces) - 1))]
        if len(killed) > 1:
            del killed[-1]
            is_clean = False
    order = [number for number, job in enumerate(pieces) for _ in job]
    if draw(st.booleans()):
        order = draw(st.permutations(order))
        is_clean = is_clean and order == sorted(order)
    content = b"".join(pieces[number].pop(0) for number in order)
    return piece_bytes, content, written, is_clean


@settings(in_one_folder, max_examples=300)
@given(fio_jobs())
def test_no_write_of_a_fio_job_is_lost_by_a_kill_or_by_other_jobs(
    tmp_path: Path, jobs: tuple[int, bytes, set[int], bool]
) -> None:
    piece_bytes, content, written, is_clean = jobs
    path = tmp_path / "log"
    path.write_bytes(content)
    options = FitOptions(clip=True, allow_empty=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirrorlog.producers.importers.fio.BUFFER_BYTES", piece_bytes)
        try:
            dirty, _ = blocks_of(source("fio", path), volume(), options)
        except BadInput:
            assert not is_clean
            return
    assert dirty == written if is_clean else dirty >= written


ranges = st.lists(
    st.tuples(st.sampled_from(["same", "different", "left_only", "right_only"]), st.integers(1, 5))
)


@in_one_folder
@given(ranges, st.booleans(), st.integers(1, 3), st.integers(0, 511))
def test_thin_delta_names_all_ranges_except_equal_ones(
    tmp_path: Path, elements: list[tuple[str, int]], verbose: bool, sectors: int, missing: int
) -> None:
    begin, rows, dirty = 0, [], set[int]()
    for name, length in elements:
        row = f'begin="{begin}" length="{length}"/>'
        rows.append(f"<{name}><range {row}</{name}>" if verbose else f"<{name} {row}")
        dirty |= set(range(begin, begin + length)) if name != "same" else set()
        begin += length
    text = (
        f'<superblock data_block_size="{sectors}"><diff left="1" right="2">'
        f"{''.join(rows)}</diff></superblock>"
    )
    path = tmp_path / "delta.xml"
    path.write_text(text)
    size = max(begin * sectors * 512 - missing, 512)
    import_source = source("thin-delta", path, AddressRange(offset=0, length=size))
    sectors_named = [
        sector
        for batch in batches(import_source, size, FitOptions(allow_empty=not elements))
        for extent in batch.extents
        for sector in range(extent.offset // 512, -(-extent.end // 512))
    ]
    assert set(sectors_named) == {block * sectors + n for block in dirty for n in range(sectors)}


RECORDED_KINDS = ("blktrace", "blkparse", "fio", "msr", "tencent", "vscsi")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path, kind: str) -> None:
    """Except if it ends behind a record, in formats that have no end."""
    content = VALID[kind]
    path = tmp_path / "cut"
    path.write_bytes(content)
    whole = rendered(source(kind, path))
    for length in range(len(content.rstrip())):
        path.write_bytes(content[:length])
        try:
            part = rendered(source(kind, path))
        except BadInput:
            continue
        assert kind in (*RECORDED_KINDS, "extentlist")
        assert (
            whole.startswith(part.removesuffix("|"))
            or kind == "extentlist"
            or (kind == "fio" and part.endswith(f"w0+{MIB} |"))
        )
        assert kind in ("blktrace", "vscsi") or content[:length].endswith(b"\n") or not length


@pytest.mark.parametrize("kind", KINDS)
@in_one_folder
@given(data=st.data(), mask=st.integers(1, 255))
def test_any_changed_byte_gives_bad_input_or_another_source(
    tmp_path: Path, kind: str, data: st.DataObject, mask: int
) -> None:
    content = bytearray(VALID[kind])
    content[data.draw(st.integers(0, len(content) - 1))] ^= mask
    import_or_bad_input(tmp_path / "changed", kind, bytes(content))


@pytest.mark.parametrize("kind", KINDS)
@in_one_folder
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, kind: str, content: bytes) -> None:
    import_or_bad_input(tmp_path / "any", kind, content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
    ),
    max_leaves=5,
)
names = st.sampled_from(
    [
        "start",
        "offset",
        "length",
        "depth",
        "present",
        "zero",
        "data",
        "type",
        "description",
        "exists",
    ]
)


@pytest.mark.parametrize("kind", ["qemu-map", "nbdinfo", "rbd-diff"])
@in_one_folder
@given(entries=st.lists(st.dictionaries(names, json_values), max_size=3))
def test_any_json(tmp_path: Path, kind: str, entries: list[dict[str, object]]) -> None:
    import_or_bad_input(tmp_path / "any", kind, json.dumps(entries).encode())


def import_or_bad_input(path: Path, kind: str, content: bytes) -> None:
    path.write_bytes(content)
    try:
        rendered(source(kind, path), terms=FitOptions(clip=True, partial=True))
    except BadInput as error:
        assert str(path) in error.where or kind in error.where
        assert error.next
    except BadUse:
        pass  # The recording has two devices.


@in_one_folder
@given(
    st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=4), max_size=8),
    st.integers(1, 40),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_a_json_list_is_read_in_pieces_of_any_size(
    tmp_path: Path, entries: list[dict[str, object]], piece: int, indent: int | None, escaped: bool
) -> None:
    text = json.dumps(entries, indent=indent, ensure_ascii=True).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirrorlog.producers.importers.reading.CHUNK_BYTES", piece)
        reader = SourceReader(tmp_path, "k", [])
        try:
            read = list(reader.entries(io.BytesIO(text)))
        except MalformedRecord:
            assert "NaN" in text.decode() or "Infinity" in text.decode()
            return
    assert json.dumps(read) == json.dumps(entries)


class Endless(io.RawIOBase):
    """A stream without an end, which counts the bytes that are read."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        self._head, self._rest, self.taken = head, rest, 0

    def read(self, size: int = -1) -> bytes:
        chunk = (self._head + self._rest * (size // len(self._rest) + 1))[:size]
        self._head = b""
        self.taken += len(chunk)
        return chunk

    def readline(self, size: int | None = -1) -> bytes:
        return self.read(size or -1)


# The beginning of a source, and what is repeated after it.
ENDLESS = {
    "qemu-map": (b'[{"start": "', b"x"),
    "nbdinfo": (b'[{"a": [', b"[1],"),
    "rbd-diff": (b"[" + b'{"a":', b'{"a":'),
    "thin-delta": (b'<superblock data_block_size="', b"1"),
    "extentlist": (b"0 ", b"1"),
    "fio": (b"", b"fio"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_source_without_an_end_is_refused_in_bounded_memory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Endless(*ENDLESS[kind])
    (tmp_path / "endless").touch()
    monkeypatch.setattr(Path, "open", lambda *_: stream)
    with pytest.raises(BadInput):
        rendered(source(kind, tmp_path / "endless"))
    assert stream.taken < 1 << 20
