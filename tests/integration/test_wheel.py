"""The built wheel, in an environment that holds it and its dependencies only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import DEADLINE_S

pytestmark = pytest.mark.integration
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


def test_the_wheel_installs_and_runs_the_demo(tmp_path: Path) -> None:
    # The build runs in a copy of what git tracks, because setuptools reuses what an earlier
    # build left in the tree.
    tracked = run(
        "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY
    ).split("\0")
    for name in filter(None, tracked):
        source, target = REPOSITORY / name, tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--wheel",
        "--outdir",
        tmp_path,
        cwd=tmp_path / "source",
    )
    (wheel,) = tmp_path.glob("*.whl")
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
