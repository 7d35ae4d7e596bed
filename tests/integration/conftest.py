"""Real processes: a run in a folder of its own, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mirrorlog.cli.run import Run
from mirrorlog.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A test that leaves a process behind fails."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    names = [f"{child.pid} {' '.join(child.cmdline())[:100]}" for child in alive if child.is_running()]
    for child in alive:
        child.kill()
    assert names == []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, {"state_dir": tmp_path / "state"})


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Iterator[Run]:
    """A run with its broker started and its topics made."""
    with Run(tmp_path / "run", settings, own_broker=True) as started:
        started.start_broker()
        yield started
