"""The units for systemd say what the commands understand, and let services do little."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from command_tree import command_tree, is_group

from mirrorlog.settings import Settings
from mirrorlog.units import parse_duration_s

UNITS = sorted((Path(__file__).parents[2] / "docs" / "systemd").glob("*.service"))
SETTINGS = {f"MIRRORLOG_{name.upper()}" for name in Settings.model_fields}
MOST_EXPOSED = 1.5


def values(unit: Path, name: str) -> list[str]:
    """Return what a unit gives to a setting of systemd, also in its comments' examples."""
    return re.findall(rf"^(?:#\s+)?{name}=(.*)$", unit.read_text("utf-8"), re.MULTILINE)


def value(unit: Path, name: str) -> str:
    (only,) = values(unit, name)
    return only


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def test_there_is_a_unit_for_each_service_and_the_page_names_it() -> None:
    page = (UNITS[0].parents[1] / "services.md").read_text("utf-8")
    assert len(UNITS) >= 5
    assert [path.name for path in UNITS if path.name not in page] == []


def test_the_command_of_a_unit_exists_with_its_options(unit: Path) -> None:
    program, *words = shlex.split(value(unit, "ExecStart"))
    assert program == "/usr/bin/mirrorlog"
    assert words[:1] == ["-c"]
    assert words[2:4] == ["-F", "${CREDENTIALS_DIRECTORY}/client.properties"]
    words = words[4:]
    commands = command_tree()
    path = tuple(words[:1])
    while is_group(commands[path]) and (*path, words[len(path)]) in commands:
        path = (*path, words[len(path)])
    given = {word for word in words[len(path) :] if word.startswith("--")}
    known = {option for param in commands[path].params for option in param.opts}
    assert given <= known
    assert "--detach" not in given, "the service manager knows the process that it started"


def test_the_settings_of_a_unit_exist(unit: Path) -> None:
    pairs = [pair for line in values(unit, "Environment") for pair in line.split()]
    assert {pair.split("=")[0] for pair in pairs} <= SETTINGS


def test_a_service_says_that_it_is_ready_and_alive_and_is_restarted_but_for_bad_use(
    unit: Path,
) -> None:
    assert (value(unit, "Type"), value(unit, "NotifyAccess")) == ("notify", "main")
    assert (value(unit, "Restart"), value(unit, "RestartPreventExitStatus")) == ("on-failure", "2")
    patience_s = Settings().patience_s
    assert parse_duration_s(value(unit, "TimeoutStartSec")) > patience_s
    waits = unit.stem not in ("mirrorlog-node", "mirrorlog-host@", "mirrorlog-dashboard")
    assert parse_duration_s(value(unit, "WatchdogSec")) > (patience_s if waits else 0)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't installed")
class TestSystemd:
    """What systemd itself says of the units."""

    def test_the_units_are_sound(self, tmp_path: Path) -> None:
        for path in UNITS:
            text = path.read_text("utf-8").replace("/usr/bin/mirrorlog", "/bin/true")
            (tmp_path / path.name).write_text(text)
        copies = map(str, tmp_path.iterdir())
        ended = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *copies],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")

    def test_a_service_may_do_little(self, unit: Path) -> None:
        threshold = str(round(MOST_EXPOSED * 10))
        command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={threshold}"]
        ended = subprocess.run([*command, str(unit)], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout.splitlines()[-1]
