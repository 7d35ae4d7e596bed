"""The mark beside a secondary is whole or refused, and lies beside the real file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mirrorlog.adapters.secondary_marks import (
    check_no_secondary,
    decode_mark,
    encode_mark,
    mark_path,
    read_mark,
    write_marks,
)
from mirrorlog.domain.secondary_marks import SecondaryMark
from mirrorlog.errors import BadUse, DeviceFailed, StateDamaged

MARK = SecondaryMark(
    secondary_id="0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10", site="berlin", volume="vol1", epoch=7
)
BYTES = (
    b'{"crc32":1924232744,"epoch":7,"format":"mirrorlog.secondary_mark",'
    b'"secondary_id":"0f1c1d36-3a0f-4d5e-9c55-0c5a7c8a9d10","site":"berlin","version":1,'
    b'"volume":"vol1"}\n'
)


def test_version_1_stays_readable() -> None:
    assert (encode_mark(MARK), decode_mark(BYTES, "here")) == (BYTES, MARK)


def test_any_damage_is_refused() -> None:
    for at in range(len(BYTES)):
        for damaged in (BYTES[:at], BYTES[:at] + bytes([BYTES[at] ^ 1]) + BYTES[at + 1 :]):
            with pytest.raises(StateDamaged, match="mark of a secondary"):
                decode_mark(damaged, "here")
    for damaged in (BYTES * 2, BYTES + b" ", b"[" * 5000, b"null\n"):
        with pytest.raises(StateDamaged):
            decode_mark(damaged, "here")


@pytest.mark.parametrize(
    "changes", [{"site": "a/b"}, {"volume": ""}, {"secondary_id": "x"}, {"epoch": -1}]
)
def test_a_mark_that_none_has_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises((ValueError, BadUse)):
        replace(MARK, **changes)  # type: ignore[arg-type]


def test_a_mark_is_beside_the_real_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "v.img").touch()
    (tmp_path / "link.img").symlink_to("real/v.img")
    path = mark_path(tmp_path / "link.img")
    assert path == tmp_path / "real" / ".v.img.mirrorlog" == mark_path(tmp_path / "real" / "v.img")
    assert read_mark(path) is None
    write_marks({path: MARK})
    write_marks({path: replace(MARK, epoch=8)})
    assert read_mark(path) == replace(MARK, epoch=8)
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == [".mirrorlog-spares", ".mirrorlog-spares-0", ".v.img.mirrorlog", "v.img"]
    with pytest.raises(BadUse, match="the secondary of volume vol1 at site berlin"):
        check_no_secondary(tmp_path / "link.img")
    check_no_secondary(tmp_path / "other.img")
    with pytest.raises(DeviceFailed, match="writing the mark"):
        write_marks({tmp_path / "gone" / ".v": MARK})
