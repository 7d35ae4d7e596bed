"""README's path from a clone to a promoted, compared secondary, typed from README's own text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deadlines import DEADLINE_S
from typed_pages import shell_blocks, type_blocks

from mirrorlog.broker.first_start import prepare_runtime
from mirrorlog.settings import load_settings

pytestmark = [pytest.mark.integration, pytest.mark.long]
REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text("utf-8")
PATH = re.compile(r"^<!-- path.*?^<!-- /path -->", re.DOTALL | re.MULTILINE)
IDENTICAL = "the primary and its secondary are identical"


def path_blocks() -> list[str]:
    """Return the shell blocks of the path, as they are written."""
    (path,) = PATH.findall(README)
    return shell_blocks(path)


def copy_checkout(target: Path) -> None:
    """Copy what git tracks, as a clone would. The environment is the one that runs this test.

    The copied lists of packages are older than the environment, so `make setup` has nothing to do.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(REPOSITORY / name):
            shutil.copy2(REPOSITORY / name, copy, follow_symlinks=False)
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(target / name, (0, 0))
    (target / ".venv").symlink_to(sys.prefix)


def processes_of(home: Path) -> list[psutil.Process]:
    """Return the processes whose home folder this is."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home):
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def assert_written_and_equal(primary: Path, secondary: Path) -> None:
    """Check that both files have the same bytes, and not only zeros."""
    with primary.open("rb") as first, secondary.open("rb") as second:
        written = 0
        while piece := first.read(1 << 20):
            assert piece == second.read(1 << 20)
            written += len(piece) - piece.count(0)
        assert second.read(1) == b""
    assert written == 10_000 * 4096


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty home folder, with this machine's cache. Kill what still runs there."""
    folder = tmp_path / "home"
    (folder / ".cache").mkdir(parents=True)
    cache = load_settings(None, {}).cache_dir
    prepare_runtime(cache)
    (folder / ".cache" / "mirrorlog").symlink_to(cache)
    yield folder
    for process in processes_of(folder):
        process.kill()


def test_the_path_waits_for_conditions_and_sets_no_variable() -> None:
    commands = "\n".join(path_blocks())
    assert "sleep" not in commands
    assert re.findall(r"^\s*(?:export\s+)?\w+=", commands, re.MULTILINE) == []
    assert "cmp vol1.img site-a/vol1.img" in commands
    assert "qemu-img compare" in commands.split("mirrorlog promote")[1]


@pytest.mark.skipif(
    not all(map(shutil.which, ("nbdkit", "qemu-img", "make"))),
    reason="README's path needs nbdkit, qemu-img and make",
)
@pytest.mark.skipif(
    not Path(sys.prefix, ".ready").is_file(), reason="`make setup` didn't make this environment"
)
def test_the_path_ends_with_a_promoted_identical_secondary_and_leaves_nothing_running(
    home: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "mirrorlog"
    copy_checkout(clone)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(tmp_path)}
    done = type_blocks(path_blocks(), clone, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert IDENTICAL in done.stdout.splitlines()
    assert "Images are identical." in done.stdout.split(IDENTICAL)[1].splitlines()
    (primary,), (secondary,) = (
        tmp_path.glob("tmp.*/vol1.img"),
        tmp_path.glob("tmp.*/site-a/vol1.img"),
    )
    assert_written_and_equal(primary, secondary)
    _, alive = psutil.wait_procs(processes_of(home), timeout=DEADLINE_S)
    assert alive == []
