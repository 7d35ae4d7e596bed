"""Compiled sources, made once for all workers of pytest-xdist.

Each worker imports every test. In a new clone each of six would compile the project and rewrite the
asserts of all tests, which takes half as long as importing what is compiled already. So each worker
first compiles a share of the files, and then finds the others' shares.
"""

from __future__ import annotations

import compileall
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROLES = ("producers", "streams", "consumers")


def compile_share(config: pytest.Config, root: Path, worker: int, workers: int) -> None:
    """Compile the share of this worker, numbered from 0, of the project in the folder `root`.

    Nothing is compiled if Python was told to write no bytecode.
    """
    if sys.dont_write_bytecode:
        return
    for path in sorted(set(_modules(root)))[worker::workers]:
        compileall.compile_file(path, quiet=2)
    for path in sorted((root / "tests").rglob("test_*.py"))[worker::workers]:
        _rewrite(path, config)


def _modules(root: Path) -> Iterator[Path]:
    yield from (root / "tests").glob("*.py")
    yield from (root / "mirrorlog").rglob("*.py")
    for role in ROLES:
        yield from (root / "mirrorlog" / role).rglob("*.py")


def _rewrite(path: Path, config: pytest.Config) -> None:
    """Write the file in which pytest looks for the test with its asserts rewritten.

    pytest has no public function for it. Where its private ones have changed, nothing is written,
    and each worker does it for itself.
    """
    try:
        from _pytest.assertion.rewrite import (
            PYC_TAIL,
            _read_pyc,
            _rewrite_test,
            _write_pyc,
            assertstate_key,
            get_cache_dir,
        )
    except ImportError:
        return
    folder = get_cache_dir(path)
    compiled = folder / f"{path.stem}{PYC_TAIL}"
    if _read_pyc(path, compiled) is None:
        folder.mkdir(parents=True, exist_ok=True)
        source, code = _rewrite_test(path, config)
        _write_pyc(config.stash[assertstate_key], code, source, compiled)
