"""A key notes what it signs, and signs nothing that contradicts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirrorlog.adapters.signed_heads import SignedHeads
from mirrorlog.errors import DeviceFailed, DifferenceFound, StateDamaged
from mirrorlog.transparency.checkpoints import TreeHead
from mirrorlog.transparency.growing_log import GrowingLog
from mirrorlog.transparency.merkle import leaf_hash


def log_of(texts: list[str]) -> tuple[dict[str, bytes], TreeHead]:
    """Return the files and the head of a log with these leaves."""
    log, entries = GrowingLog(), [text.encode() for text in texts]
    log.append(entries, [leaf_hash(entry) for entry in entries])
    return log.commit(), TreeHead("log", log.size, log.root)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "seal.key"
    path.write_text("a key")
    return path


def note(key: Path, texts: list[str]) -> None:
    files, head = log_of(texts)
    with SignedHeads.opened(key) as signed:
        signed.note(head, files.get, where="a folder")


def test_a_key_signs_what_continues_what_it_has_signed(key: Path) -> None:
    note(key, ["a", "b"])
    note(key, ["a", "b"])
    note(key, ["a", "b", "c"])
    with SignedHeads.opened(key) as signed:
        assert signed.last("log") == log_of(["a", "b", "c"])[1]
        assert signed.last("another") is None


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["a", "x"], "doesn't begin with"),
        (["a", "x", "c"], "doesn't begin with"),
        (["b", "a", "c"], "doesn't begin with"),
        (["a"], "has 1 now"),
    ],
)
def test_a_key_signs_nothing_that_contradicts_it(key: Path, texts: list[str], says: str) -> None:
    note(key, ["a", "b"])
    before = key.with_name("seal.key.signed").read_bytes()
    with pytest.raises(DifferenceFound, match=says):
        note(key, texts)
    assert key.with_name("seal.key.signed").read_bytes() == before


def test_what_a_key_has_signed_is_never_guessed(key: Path) -> None:
    key.with_name("seal.key.signed").write_text("{")
    with pytest.raises(StateDamaged, match="can't be read"), SignedHeads.opened(key):
        pass
    with (
        pytest.raises(DeviceFailed, match="missing"),
        SignedHeads.opened(key.with_name("missing")),
    ):
        pass
