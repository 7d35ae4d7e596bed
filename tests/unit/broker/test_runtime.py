"""The recorded class path of the embedded Kafka: complete, or not used at all."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mirrorlog.broker import runtime
from mirrorlog.broker.runtime import recorded_class_path, resolve_runtime
from mirrorlog.errors import BadUse

JARS = {"g:a:1": hashlib.sha256(b"one").hexdigest(), "g:b:2": hashlib.sha256(b"three").hexdigest()}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache folder with all of JARS and their record."""
    (tmp_path / "jars").mkdir()
    paths = (tmp_path / "jars" / "a-1.jar", tmp_path / "jars" / "b-2.jar")
    for path, content in zip(paths, (b"one", b"three"), strict=True):
        path.write_bytes(content)
    runtime._record_class_path(tmp_path, JARS, paths)
    return tmp_path


def test_a_warm_start_needs_neither_jgo_nor_the_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    resolved = resolve_runtime(cache, jars=JARS)
    assert resolved.class_path == (cache / "jars" / "a-1.jar", cache / "jars" / "b-2.jar")
    assert resolved.java.is_file()


def rewrite(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        path = cache / "class-path.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no record": lambda cache: (cache / "class-path.json").unlink(),
    "not JSON": lambda cache: (cache / "class-path.json").write_text("{"),
    "not text": lambda cache: (cache / "class-path.json").write_bytes(b"\xff\xfe\x00"),
    "not an object": lambda cache: (cache / "class-path.json").write_text("[1]"),
    "another version": rewrite(lambda record: record.update(version=99)),
    "for other jars": rewrite(lambda record: record.update(list_sha256="0" * 64)),
    "nothing in it": rewrite(lambda record: record.update(class_path=[])),
    "of another shape": rewrite(lambda record: record.update(class_path=[["a", 3], ["b", 5]])),
    "a jar is missing": lambda cache: (cache / "jars" / "b-2.jar").unlink(),
    "a jar is cut off": lambda cache: (cache / "jars" / "b-2.jar").write_bytes(b"thre"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_an_incomplete_cache_is_not_used(cache: Path, damage: Callable[[Path], object]) -> None:
    assert recorded_class_path(cache, JARS) is not None
    damage(cache)
    assert recorded_class_path(cache, JARS) is None


def test_a_path_with_a_colon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadUse, match="colon"):
        resolve_runtime(tmp_path / "a:b")
