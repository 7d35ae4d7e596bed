"""Records of files: their bytes, what becomes of hostile ones, and of a process that breaks off."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorlog.consumers.backup.files.asking import ask_for_files
from mirrorlog.consumers.backup.files.read_process import ReadRequest
from mirrorlog.consumers.backup.files.records import (
    MAX_BODY_BYTES,
    BeginFile,
    EndFile,
    EnterFolder,
    FileData,
    FileFacts,
    Finished,
    FoundLink,
    FrameDecoder,
    LeaveFolder,
    Note,
    Problem,
    Record,
    encode_error,
    encode_record,
)
from mirrorlog.consumers.backup.files.restoring import write_records
from mirrorlog.consumers.backup.files.tree_writer import RestoredFiles, WriteOptions
from mirrorlog.errors import BadInput, BadUse, DeviceFailed, StateDamaged

NOTHING = FileFacts()
LINKS = WriteOptions(links=True)

names = st.binary(max_size=20)
facts = st.builds(
    FileFacts,
    mode=st.none() | st.integers(0, 0o7777),
    mtime_ns=st.none() | st.integers(0, 1 << 62),
)
records = st.one_of(
    st.builds(EnterFolder, names, facts, st.booleans()),
    st.just(LeaveFolder()),
    st.builds(BeginFile, names, facts, st.integers(0, 1 << 62)),
    st.builds(FileData, st.integers(0, 1 << 62), names),
    st.builds(EndFile, st.none() | st.text(max_size=9)),
    st.builds(FoundLink, names, names, facts),
    st.builds(Problem, names, st.text(max_size=9)),
    st.builds(Note, st.text(max_size=9)),
    st.just(Finished()),
)


@given(st.lists(records), st.integers(1, 50))
def test_records_come_back_in_whatever_pieces(sent: list[Record], size: int) -> None:
    data = b"".join(map(encode_record, sent))
    decoder = FrameDecoder()
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    assert [record for piece in pieces for record in decoder.take(piece)] == sent


def test_an_error_comes_back_as_what_it_was() -> None:
    error = StateDamaged("an image is missing", where="/b", next="Check.")
    with pytest.raises(StateDamaged, match="an image is missing") as raised:
        list(FrameDecoder().take(encode_error(error)))
    assert raised.value.where == "/b"


def test_frames_that_no_process_sends_are_refused() -> None:
    for data in (b"\x63\0\0\0\0", b"\0" + (MAX_BODY_BYTES + 1).to_bytes(4, "big")):
        with pytest.raises(ValueError, match="a record of"):
            list(FrameDecoder().take(data))


def write(
    target: Path, *sent: Record, options: WriteOptions = LINKS
) -> tuple[RestoredFiles, dict[bytes, str]]:
    problems: dict[bytes, str] = {}
    result = write_records([*sent, Finished()], target, options, problems.__setitem__)
    return result, problems


def file(name: bytes, data: bytes = b"new", facts: FileFacts = NOTHING) -> list[Record]:
    return [BeginFile(name, facts, len(data)), FileData(0, data), EndFile(None)]


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"../out", b"/abs", b"a\0b"])
def test_names_that_lead_elsewhere_are_problems(name: bytes, tmp_path: Path) -> None:
    target = tmp_path / "target"
    sent: list[Record] = [
        *file(name),
        FoundLink(name, b"x", NOTHING),
        EnterFolder(name, NOTHING, True),
        *file(b"inside"),
        LeaveFolder(),
        *file(b"good"),
    ]
    result, problems = write(target, *sent)
    assert problems == {b"/" + name: "no file here may have this name"}
    assert (result.files, result.problem_count) == (1, 3)
    assert everything(tmp_path) == {"target", "target/good"}


def test_no_link_is_followed_whoever_made_it(tmp_path: Path) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (outside / "kept").write_bytes(b"kept")
    (target / "there").symlink_to(outside)
    (target / "to file").symlink_to(outside / "kept")
    (target / "dangling").symlink_to(outside / "new")
    sent: list[Record] = [
        FoundLink(b"made", os.fsencode(outside), NOTHING),
        EnterFolder(b"made", NOTHING, True),
        *file(b"a"),
        LeaveFolder(),
        EnterFolder(b"there", NOTHING, True),
        *file(b"b"),
        LeaveFolder(),
        *file(b"to file"),
        *file(b"dangling"),
    ]
    _, problems = write(target, *sent)
    assert set(problems) == {b"/made", b"/there", b"/to file", b"/dangling"}
    assert everything(outside) == {"kept"}
    assert (outside / "kept").read_bytes() == b"kept"


def test_nothing_that_exists_is_changed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o711)
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    other = FileFacts(mode=0o777, mtime_ns=5)
    sent: list[Record] = [
        *file(b"file", facts=other),
        FoundLink(b"link", b"elsewhere", other),
        EnterFolder(b"folder", other, True),
        *file(b"added"),
        LeaveFolder(),
        EnterFolder(b"file", other, True),
        *file(b"x"),
        LeaveFolder(),
    ]
    before = (tmp_path / "folder").stat().st_mode
    result, problems = write(tmp_path, *sent)
    assert set(problems) == {b"/file", b"/link"}
    assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "link").readlink() == Path("file")
    assert (tmp_path / "folder").stat().st_mode == before
    assert (tmp_path / "folder/added").read_bytes() == b"new"
    assert (result.files, result.folders) == (1, 0)


def test_modes_and_times_are_kept_and_bits_that_give_rights_only_with_owners(
    tmp_path: Path,
) -> None:
    kept = FileFacts(mode=0o4754, uid=os.getuid(), gid=os.getgid(), mtime_ns=7 * 10**9 + 5)
    sent = [EnterFolder(b"d", kept, True), *file(b"f", facts=kept), LeaveFolder()]
    write(tmp_path / "one", *sent)
    write(tmp_path / "two", *sent, options=WriteOptions(owners=True))
    for path in (tmp_path / "one/d", tmp_path / "one/d/f"):
        assert (path.stat().st_mode & 0o7777, path.stat().st_mtime_ns) == (0o754, kept.mtime_ns)
    assert (tmp_path / "two/d/f").stat().st_mode & 0o7777 == 0o4754
    write(tmp_path / "three", *file(b"f"))
    assert (tmp_path / "three/f").stat().st_mode & 0o7777 & ~0o644 == 0


def test_zeros_become_holes(tmp_path: Path) -> None:
    size = 1 << 20
    data = bytes(300_000) + b"x" + bytes(size - 300_001)
    write(tmp_path, BeginFile(b"f", NOTHING, 1 << 30), FileData(5, data), EndFile(None))
    its = (tmp_path / "f").stat()
    assert (its.st_size, its.st_blocks * 512 <= 65_536) == (1 << 30, True)
    with (tmp_path / "f").open("rb") as opened:
        assert opened.read(size + 5) == bytes(5) + data


def test_a_file_that_isnt_whole_is_removed_and_said(tmp_path: Path) -> None:
    result, problems = write(
        tmp_path,
        BeginFile(b"f", NOTHING, 10),
        FileData(0, b"12345"),
        EndFile("byte 5 can't be read"),
        *file(b"good"),
    )
    assert problems == {b"/f": "byte 5 can't be read"}
    assert (everything(tmp_path), result.files) == ({"good"}, 1)


@pytest.mark.parametrize(
    "sent",
    [
        [LeaveFolder()],
        [EnterFolder(b"d", NOTHING, True)],
        [FileData(0, b"x")],
        [EndFile(None)],
        [BeginFile(b"f", NOTHING, 1)],
        [BeginFile(b"f", NOTHING, 1), FileData(1, b"x")],
        [BeginFile(b"f", NOTHING, 1), BeginFile(b"g", NOTHING, 1)],
    ],
    ids=str,
)
def test_records_that_dont_fit_each_other_are_refused(sent: list[Record], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        write(tmp_path, *sent)
    assert everything(tmp_path) <= {"d"}


def test_a_full_disk_ends_the_restore_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DeviceFailed, match="No space left"):
        write(tmp_path, *file(b"f"), *file(b"g"))
    assert everything(tmp_path) == set()


def test_a_target_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadUse, match="no folder"):
        write(tmp_path / "file")


def asked(script: str) -> list[Record]:
    request = ReadRequest(
        images=[],
        image_ids=[],
        digests=[],
        size_bytes=1,
        paths=[],
        partition=None,
        memory_bytes=1 << 33,
        cpu_s=60,
    )
    command: Sequence[str] = (sys.executable, "-c", script)
    return list(ask_for_files(request, "point p", command=command))


SENDS = """
import sys
from mirrorlog.consumers.backup.files.records import *
def send(*records):
    sys.stdout.buffer.write(b"".join(map(encode_record, records)))
    sys.stdout.buffer.flush()
"""


def test_the_records_of_a_process_are_taken() -> None:
    assert asked(f"{SENDS}send(Note('n'), Finished())") == [Note("n"), Finished()]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("send(Note('n'))", "it ended too early"),
        ("send(Note('n'), Finished()); raise MemoryError", "used all the memory"),
        ("import os; os.abort()", "SIGABRT"),
        ("print('noise' * 100)", "makes no sense"),
        ("sys.exit('no such thing')", "no such thing"),
    ],
)
def test_a_process_that_breaks_off_is_an_error(script: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        asked(SENDS + script)
