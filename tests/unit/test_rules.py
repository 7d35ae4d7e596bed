"""Each rule of `make check` fails on a breach that is planted for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CONTRACTS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
    "importlinter"
]["contracts"]

# contract of import-linter (its beginning) | file that breaks it | line planted there
IMPORTS: Final = """
The roles are independent    | producers/forks/breach.py    | import mirrorlog.consumers.wiring
Each layer imports only      | mirrorlog/ports/breach.py    | import mirrorlog.adapters.folders
No circles                   | mirrorlog/domain/extents.py  | import mirrorlog.domain.bitmaps
The domain does no input     | mirrorlog/domain/breach.py   | import os
One file names fastavro      | consumers/resync/breach.py   | import fastavro
The node's table alone       | consumers/state/breach.py    | import rocksdict
Kafka's client is named      | mirrorlog/reading/breach.py  | import confluent_kafka
One file names Prometheus'  | consumers/state/breach.py    | import prometheus_client
One file names OpenTelemetry | producers/writes/breach.py   | import opentelemetry
The command line alone talks | streams/fold/breach.py       | import rich
One file names the bitmaps'  | mirrorlog/domain/breach.py   | import pyroaring
One file names the library of X | consumers/state/breach.py | import xxhash
One file names the library of s | consumers/state/breach.py | import cryptography
The process that reads file  | consumers/verify/breach.py   | import pytsk3
The worker alone names Faust | streams/web/breach.py        | import faust
The node meets its engine at | streams/table/breach.py      | import mirrorlog.streams.faust_worker
"""

# rule of ruff | file | source
SOURCES: Final = {
    "E501": ("mirrorlog/breach.py", f'"""{"long " * 20}"""\n'),
    "PLR0913": ("mirrorlog/breach.py", "def call(a, b, c, d, e, f, g, h, i): ...\n"),
    "TID251 environment": ("mirrorlog/breach.py", "import os\n\nprint(os.environ)\n"),
    "TID251 role": ("mirrorlog/breach.py", "import producers\n"),
    "TID252": ("mirrorlog/breach.py", "from ..errors import BadUse\n"),
    "C901": (
        "mirrorlog/breach.py",
        "def tangled(a):\n" + "".join(f"    if a == {n}:\n        a = 2\n" for n in range(11)),
    ),
}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, *arguments, cwd=cwd)


def plant(root: Path, file: str, line: str) -> None:
    """Add a line to a file, which is created if it isn't there."""
    path = root / "mirrorlog" / file.removeprefix("mirrorlog/")
    assert path.parent.is_dir(), file
    with path.open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")


def lint_imports(root: Path) -> Mapping[str, bool]:
    """Return whether each contract is kept."""
    call = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    printed = python("-c", call, cwd=root).stdout
    return {
        contract["name"]: f"{contract['name']} KEPT" in printed
        for contract in CONTRACTS
        if f"{contract['name']} KEPT" in printed or f"{contract['name']} BROKEN" in printed
    }


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bool]:
    """Return whether each contract is kept on a copy of the sources with one breach of each."""
    root = tmp_path_factory.mktemp("breaches")
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(
        ROOT / "mirrorlog", root / "mirrorlog", ignore=shutil.ignore_patterns("__pycache__")
    )
    for case in IMPORTS.strip().splitlines():
        _, file, line = (part.strip() for part in case.split("|"))
        plant(root, file, line)
    return lint_imports(root)


def test_every_contract_is_kept() -> None:
    assert lint_imports(ROOT) == {contract["name"]: True for contract in CONTRACTS}


def test_every_contract_has_a_breach() -> None:
    beginnings = [case.split("|")[0].strip() for case in IMPORTS.strip().splitlines()]
    for contract, beginning in zip(CONTRACTS, beginnings, strict=True):
        assert contract["name"].startswith(beginning)


@pytest.mark.parametrize("case", IMPORTS.strip().splitlines(), ids=lambda c: c.split("|")[0])
def test_a_planted_import_breaks_its_contract(case: str, broken: Mapping[str, bool]) -> None:
    beginning = case.split("|", maxsplit=1)[0].strip()
    (kept,) = [kept for name, kept in broken.items() if name.startswith(beginning)]
    assert not kept


def ruff(command: str, file: str, source: str) -> subprocess.CompletedProcess[str]:
    arguments = [*command.split(), "--stdin-filename", file, "-"]
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments],
        cwd=ROOT,
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("rule", SOURCES)
def test_ruff_finds_a_planted_breach(rule: str) -> None:
    file, source = SOURCES[rule]
    done = ruff("check --no-cache --output-format concise", file, source)
    assert done.returncode == 1
    assert rule.split(maxsplit=1)[0] in done.stdout


def test_ruff_finds_code_that_is_not_formatted() -> None:
    assert ruff("format --check", "mirrorlog/breach.py", "x = 1\n").returncode == 0
    assert ruff("format --check", "mirrorlog/breach.py", "x=1\n").returncode == 1


def test_mypy_finds_a_planted_error(tmp_path: Path) -> None:
    (tmp_path / "breach.py").write_text("def untyped(value):\n    return value\n")
    config = ROOT / "pyproject.toml"
    done = python("-m", "mypy", "--config-file", config, "breach.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "no-untyped-def" in done.stdout


def test_pyright_finds_an_import_that_leads_nowhere(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "mirrorlog"
    package.mkdir()
    for folder in ("tests", "benchmarks"):
        (tmp_path / folder).mkdir()
    (package / "__init__.py").write_text("")
    (package / "breach.py").write_text("import mirrorlog.nowhere\nimport no_such_package\n")
    done = python("-m", "basedpyright", cwd=tmp_path)
    assert done.returncode == 1
    assert '"mirrorlog.nowhere" could not be resolved' in done.stdout
    assert '"no_such_package" could not be resolved' in done.stdout
