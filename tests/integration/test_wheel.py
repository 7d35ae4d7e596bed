"""The built wheel, in an environment that holds it and its dependencies only."""

from __future__ import annotations

import json
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


def modules_of(names: Iterable[str]) -> list[str]:
    """Return the modules among the names of an archive's files, without the role's link."""
    paths = [name for name in names if name.endswith(".py") and not name.endswith("/setup.py")]
    return sorted(path.removeprefix("mirrorlog/") for path in paths)


def test_the_wheel_installs_and_runs_the_demo(tmp_path: Path) -> None:
    wheel, sdist = build(tmp_path)
    folders = ("mirrorlog", "producers", "streams", "consumers", "schemas")
    sources = [
        str(path.relative_to(REPOSITORY))
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    with zipfile.ZipFile(wheel) as archive:
        assert modules_of(archive.namelist()) == modules_of(sources)
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        packaged = [name for name in names if name.startswith(folders)]
        assert modules_of(packaged) == modules_of(sources)
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    pins = [
        line.split("\\")[0].strip()
        for line in (REPOSITORY / "requirements.lock").read_text().splitlines()
        if "==" in line
    ]
    (tmp_path / "pins").write_text("\n".join(pins))
    run(tmp_path / "env/bin/pip", "install", "-q", "-c", tmp_path / "pins", wheel, cwd=tmp_path)
    listed = json.loads(run(tmp_path / "env/bin/pip", "list", "--format", "json", cwd=tmp_path))
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & {package["name"] for package in listed}
    output = run(
        tmp_path / "env/bin/mirrorlog",
        "--state-dir",
        tmp_path / "state",
        "demo",
        "--json",
        cwd=tmp_path,
    )
    assert json.loads(output.splitlines()[-1])["ok"] is True
