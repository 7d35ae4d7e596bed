"""The built wheel without the lock, in an environment that holds it and its dependencies only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from deadlines import DEADLINE_S

pytestmark = [pytest.mark.integration, pytest.mark.long]
REPOSITORY = Path(__file__).parents[2]
# The demo's own recording would take seconds, and the parts start for this one, too.
RECORDING = "".join(
    f"{128166372000000000 + number * 1000},host,0,Write,{number * 12288},8192,10\n"
    for number in range(200)
)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, which must succeed; return its stdout."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the project in a copy of what git tracks; return the wheel and the source distribution.

    setuptools would reuse what an earlier build left in the tree.
    """
    tracked = run(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY
    ).split("\0")
    for name in filter(None, tracked):
        source, target = REPOSITORY / name, folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder),
        cwd=folder / "source",
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def pip(command: str, environment: Path) -> list[str | Path]:
    """Return the beginning of a command of pip for the environment.

    It is uv's where uv is named, as in the Makefile: that takes a fraction of pip's time.
    """
    python = environment / "bin/python"
    if uv := os.environ.get("UV"):
        return [uv, "pip", command, "--python", python]
    return [sys.executable, "-m", "pip", "--python", python, command]


def modules_of(names: Iterable[str]) -> list[str]:
    """Return the modules among the names of an archive's files, without the role's link."""
    paths = [name for name in names if name.endswith(".py") and not name.endswith("/setup.py")]
    return sorted(path.removeprefix("mirrorlog/") for path in paths)


def test_the_wheel_installs_without_the_lock_and_runs_the_demo(tmp_path: Path) -> None:
    wheel, sdist = build(tmp_path)
    folders = ("mirrorlog", "producers", "streams", "consumers", "schemas")
    sources = [
        str(path.relative_to(REPOSITORY))
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    with zipfile.ZipFile(wheel) as archive:
        assert modules_of(archive.namelist()) == modules_of(sources)
        page = REPOSITORY / "consumers/dashboard/page"
        packed = f"mirrorlog/{page.relative_to(REPOSITORY)}"
        assert {f"{packed}/{path.name}" for path in page.iterdir()} <= set(archive.namelist())
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        packaged = [name for name in names if name.startswith(folders)]
        assert modules_of(packaged) == modules_of(sources)
    environment = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    run(*pip("install", environment), "-q", "--no-compile", wheel, cwd=tmp_path)
    listed = json.loads(run(*pip("list", environment), "--format", "json", cwd=tmp_path))
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & {package["name"] for package in listed}
    (tmp_path / "short.csv").write_text(RECORDING)
    output = run(
        *(environment / "bin/mirrorlog", "--state-dir", tmp_path / "state", "demo", "--json"),
        *("--trace", tmp_path / "short.csv", "--format", "msr", "--sites", "1"),
        cwd=tmp_path,
    )
    assert json.loads(output.splitlines()[-1])["ok"] is True
