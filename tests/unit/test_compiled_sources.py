"""Sources compiled in shares (tests/compiled_sources.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from compiled_sources import compile_share

FILES = [
    "mirrorlog/units.py",
    "mirrorlog/domain/extents.py",
    "mirrorlog/producers/wiring.py",
    "tests/notation.py",
    "tests/unit/test_units.py",
    "tests/unit/domain/test_extents.py",
]


def compiled(root: Path) -> set[str]:
    """Return the sources that have a compiled file beside them."""
    paths = [path.relative_to(root) for path in root.rglob("__pycache__/*.pyc")]
    return {f"{path.parent.parent}/{path.name.split('.')[0]}.py" for path in paths}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def test() -> None:\n    assert 1 + 1 == 2\n", "utf-8")
    return tmp_path


def test_the_shares_of_all_workers_are_all_files(
    root: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    seen: set[str] = set()
    for worker, count in enumerate((3, 2, 1)):
        compile_share(pytestconfig, root, worker, 3)
        more = compiled(root) - seen
        assert len(more) == count
        seen |= more
    assert seen == set(FILES)
    tests = {path.name for path in (root / "tests" / "unit").rglob("*.pyc")}
    assert all("-pytest-" in name for name in tests), "an import would find asserts as they are"


def test_nothing_is_compiled_if_python_was_told_so(
    root: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    compile_share(pytestconfig, root, 0, 1)
    assert compiled(root) == set()
