"""The house: who may import whom, and what only one place may name. Read from the sources, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
ROLES = ("producers", "streams", "consumers")
SOURCES = [
    path for top in ("mirrorlog", "schemas", *ROLES) for path in sorted((ROOT / top).rglob("*.py"))
]
PURE = ("domain", "tracking_log", "topics", "units", "errors")
IO_MODULES = {
    "os",
    "socket",
    "subprocess",
    "asyncio",
    "threading",
    "confluent_kafka",
    "faust",
    "rocksdict",
    "pathlib",
    "time",
}
ONLY_IN = {
    "fastavro": {"mirrorlog.codec"},
    "faust": {"mirrorlog.streams"},
    "rocksdict": {"mirrorlog.streams"},
    "confluent_kafka": {"mirrorlog.adapters", "mirrorlog.broker"},
    "typer": {"mirrorlog.cli"},
    "rich": {"mirrorlog.cli"},
    "pyroaring": {"mirrorlog.domain"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "mirrorlog" else ("mirrorlog", *parts)
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports say mirrorlog.…, none is relative"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def allowed(module: str, imported: str) -> bool:
    top = imported.split(".", maxsplit=1)[0]
    if top in ONLY_IN:
        return inside(module, ONLY_IN[top])
    if top in (*ROLES, "schemas"):
        return False
    if module.startswith("mirrorlog.") and module.split(".")[1] in PURE and top in IO_MODULES:
        return False
    role = imported.split(".")[1] if imported.startswith("mirrorlog.") else ""
    mine = module.split(".")[1] if "." in module else ""
    if role in ROLES:
        return mine in (role, "cli", "simulation")
    if mine in PURE and role:
        return role in PURE
    if mine == "ports" and role:
        return role in (*PURE, "ports")
    if mine in ROLES and role == "cli":
        return False
    return not (role in ("cli", "broker") and mine not in ("cli", "broker", ""))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_follow_the_house(path: Path) -> None:
    module = module_of(path)
    assert [
        name
        for name in imports_of(path)
        if not allowed(module, name) and module != "mirrorlog.__main__"
    ] == []


# module, what it imports, whether it may
CASES = """
mirrorlog.producers.session    mirrorlog.consumers.site   no
mirrorlog.streams.fold        mirrorlog.producers.session no
mirrorlog.codec               mirrorlog.streams.fold     no
mirrorlog.consumers.site      mirrorlog.codec            yes
mirrorlog.cli.site            mirrorlog.consumers.site   yes
mirrorlog.domain.bitmaps             mirrorlog.codec            no
mirrorlog.domain.extents             os                         no
mirrorlog.ports.streams       mirrorlog.adapters.kafka   no
mirrorlog.consumers.x         fastavro                   no
mirrorlog.codec               fastavro                   yes
mirrorlog.producers.x         producers.host             no
"""


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_the_rules_themselves(case: str) -> None:
    module, imported, may = case.split()
    assert allowed(module, imported) is (may == "yes")


def test_every_package_is_installed() -> None:
    assert sorted(find_packages(str(ROOT), include=["mirrorlog*"])) == sorted(
        {module_of(path) for path in SOURCES if path.name == "__init__.py"}
    )


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        module_of(path)
        for path in SOURCES
        if any(n in ("os.environ", "os.getenv") for n in names_of(path))
    }
    assert readers == {"mirrorlog.settings"}


def names_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
