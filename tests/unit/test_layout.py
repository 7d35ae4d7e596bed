"""Files say what they are for, packages list their files, and class names are unique."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest
from setuptools import find_packages

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("mirrorlog", "producers", "streams", "consumers", "schemas")
SOURCES: Final = [path for top in FOLDERS for path in sorted((ROOT / top).rglob("*.py"))]
PACKAGES: Final = [path for path in SOURCES if path.name == "__init__.py"]
TESTED: Final = [
    path
    for top in ("tests", "benchmarks")
    for path in sorted((ROOT / top).rglob("*.py"))
    if ".venv" not in path.parts  # a peer of the benchmarks has an environment of its own
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def docstring_of(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_says_in_a_sentence_what_it_is_for(path: Path) -> None:
    first = docstring_of(path).split("\n\n")[0]
    assert first.rstrip().endswith((".", ":"))


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_a_package_lists_its_files(path: Path) -> None:
    docstring = docstring_of(path)
    members = [member for member in path.parent.iterdir() if not member.is_symlink()]
    names = [member.stem for member in members if member.suffix == ".py"]
    names += [member.name for member in members if (member / "__init__.py").is_file()]
    missing = [name for name in names if not name.startswith("__") and name not in docstring]
    assert missing == []


def test_no_class_name_is_used_twice() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name_of(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_the_environment_is_read_in_one_place() -> None:
    readers = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and f"{node.value.id}.{node.attr}" in ("os.environ", "os.getenv")
    }
    of_libraries = {  # no settings of mirrorlog
        "mirrorlog/processes/numpy_features.py",
        "mirrorlog/processes/free_memory.py",
    }
    assert readers == {"mirrorlog/settings.py"} | of_libraries


def test_every_package_is_installed() -> None:
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGES}
    assert set(find_packages(str(ROOT), include=["mirrorlog*"])) == {
        name if name.split(".")[0] == "mirrorlog" else f"mirrorlog.{name}" for name in names
    }


def test_nothing_is_called_by_a_pronoun() -> None:
    """A variable has the name of what it holds, and not `each` or `found`."""
    pronouns = {
        f"{name_of(path)}:{node.lineno}"
        for path in (*SOURCES, *TESTED)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.arg) and node.arg in ("each", "found"))
        or (isinstance(node, ast.Name) and node.id in ("each", "found"))
    }
    assert pronouns == set()
