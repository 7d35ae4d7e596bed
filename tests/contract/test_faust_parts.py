"""The private parts of Faust, mode and aiokafka that the worker touches are there and listed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

import pytest
from packaging.requirements import Requirement

from mirrorlog.streams.faust_worker import faust_parts

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(faust_parts.__file__).parent
LIBRARIES: Final = ("faust", "mode", "aiokafka")
PARTS: Final = faust_parts.PARTS.replace("\\\n", "").strip().splitlines()
# Names under which the package keeps objects of Faust in places that have no type.
OURS: Final = {"catch_up", "stand_by"}  # of the port, called through a table manager
KEPT: Final = {"app", "_app", "table", "_previous", "cause"}
PLAIN: Final = {
    name
    for kind in (bytes, str, dict, list, set, tuple, int, type, object, BaseException)
    for name in dir(kind)
} - {"__init__"}


def names_of(part: str) -> tuple[str, str, list[str] | None]:
    """Return (module:Class, attribute, parameters or None) of a listed part."""
    path, bracket, rest = part.partition("|")[0].strip().partition("(")
    holder, _, attribute = path.rpartition("." if "." in path.partition(":")[2] else ":")
    if not bracket:
        return holder, attribute, None
    return (
        holder,
        attribute,
        [name.strip() for name in rest.rstrip(") ").split(",") if name.strip()],
    )


def resolve(path: str) -> Any:
    module, _, names = path.partition(":")
    thing = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        thing = getattr(thing, name)
    return thing


def own_attributes(kind: type | ModuleType) -> set[str]:
    """Return what the class and its bases declare, or assign to `self`."""
    attributes = set(dir(kind))
    for base in kind.__mro__ if isinstance(kind, type) else ():
        attributes |= set(getattr(base, "__annotations__", {})) | assigned_to_self(base)
    return attributes


@cache
def assigned_to_self(kind: type) -> frozenset[str]:
    """Return the names that the class assigns as `self.NAME = …`."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # written in another language
        return frozenset()
    return frozenset(re.findall(r"\bself\.(\w+)(?:: [^=\n]+)? = ", source))


@pytest.mark.parametrize(
    "part", PARTS, ids=lambda part: part.replace("(", " ").split(maxsplit=1)[0]
)
def test_a_part_is_there(part: str) -> None:
    holder, attribute, parameters = names_of(part)
    kind = resolve(holder)
    used = [f"{place} touches it" for name, place in touched() if name == attribute]
    assert attribute in own_attributes(kind), f"{part} is gone; {used}"
    if parameters is not None:
        names = list(inspect.signature(getattr(kind, attribute)).parameters)[1:]
        assert names == parameters, f"{part} has the parameters {names}; {used}"
    if "called by" in part:
        caller = resolve(part.rpartition("called by ")[2].strip())
        for wrapper in ("fget", "fun", "_cached_property__get"):  # property, task of a service, …
            caller = getattr(caller, wrapper, caller)
        name = "PartitionAssignor" if attribute == "__init__" else attribute
        assert name in inspect.getsource(caller), f"{caller} doesn't call {part}; {used}"


class Uses(ast.NodeVisitor):
    """Collects the attributes of objects that come from the libraries.

    foreign: the names of such objects where the visitor is. bases: those of classes of libraries.
    """

    def __init__(self, tree: ast.Module, module: ModuleType) -> None:
        self.module = module
        self.uses: list[tuple[str, int]] = []
        self.foreign, self.own = set(KEPT), set[str]()
        self.in_subclass = False
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                if (module or "").split(".")[0] in LIBRARIES:
                    self.foreign |= {alias.asname or alias.name for alias in node.names}
        self.imported = set(self.foreign)

    def is_foreign(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.foreign
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return node.attr in KEPT or (self.in_subclass and node.attr not in self.own)
            return node.attr in KEPT or self.is_foreign(node.value)
        if isinstance(node, ast.Call):
            is_super = isinstance(node.func, ast.Name) and node.func.id == "super"
            return (is_super and self.in_subclass) or self.is_foreign(node.func)
        if isinstance(node, ast.Subscript | ast.Await | ast.Starred):
            return self.is_foreign(node.value)
        if isinstance(node, ast.IfExp):
            return self.is_foreign(node.body) or self.is_foreign(node.orelse)
        return isinstance(node, ast.BoolOp) and any(map(self.is_foreign, node.values))

    def take(self, target: ast.expr) -> None:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self.foreign.add(node.id)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before = self.in_subclass, self.own
        self.in_subclass = any(
            isinstance(root := leftmost(base), ast.Name) and root.id in self.imported
            for base in node.bases
        )
        self.own = {name for inner in ast.walk(node) if (name := declared(inner)) is not None}
        for base in library_bases(getattr(self.module, node.name)):
            self.own -= own_attributes(base)
        self.generic_visit(node)
        self.in_subclass, self.own = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before = set(self.foreign)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if argument.annotation is not None and self.is_any(argument.annotation):
                self.foreign.add(argument.arg)
        for _ in range(2):  # what is assigned later in a loop is used before, too
            for statement in node.body:
                self.visit(statement)
        self.foreign = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def is_any(self, annotation: ast.expr) -> bool:
        return ast.unparse(annotation) == "Any" or self.is_foreign(annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if ast.unparse(node.annotation) == "Any":
            self.take(node.target)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if self.is_foreign(node.value):
            for target in node.targets:
                if not isinstance(target, ast.Attribute):
                    self.take(target)
        self.generic_visit(node)

    def visit_For(self, node: Any) -> None:
        if self.is_foreign(node.iter):
            self.take(node.target)
        self.generic_visit(node)

    visit_AsyncFor = visit_For
    visit_comprehension = visit_For

    def visit_Attribute(self, node: ast.Attribute) -> None:
        is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
        is_inherited = is_self and self.in_subclass and node.attr not in self.own
        if is_inherited or (not is_self and self.is_foreign(node.value)):
            self.uses.append((node.attr, node.lineno))
        self.generic_visit(node)


def library_bases(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if base.__module__.split(".")[0] in LIBRARIES]


def leftmost(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def declared(node: ast.AST) -> str | None:
    """Return the name that a class gives to a method or an attribute of its own here."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    if isinstance(node, ast.AnnAssign):
        return node.target.id if isinstance(node.target, ast.Name) else None
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    return None


@cache
def touched() -> list[tuple[str, str]]:
    """Return each attribute of the libraries that the package touches, and where."""
    uses_by_name: list[tuple[str, str]] = []
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        uses = Uses(tree, importlib.import_module(f"{faust_parts.__package__}.{path.stem}"))
        uses.visit(tree)
        uses_by_name += [(name, f"{path.name}:{line}") for name, line in uses.uses]
    return uses_by_name


def overridden() -> Iterator[tuple[str, str]]:
    """Yield each method by which a class of the package replaces one of a library, and where."""
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"{faust_parts.__package__}.{path.stem}")
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == module.__name__:
                bases = library_bases(kind)
                for name in vars(kind):
                    is_code = isinstance(vars(kind)[name], FunctionType | property)
                    if is_code and any(name in vars(base) for base in bases):
                        yield name, f"{path.name}: {kind.__name__}"


def test_whatever_the_package_touches_is_listed() -> None:
    listed = {names_of(part)[1] for part in PARTS}
    own = {
        node.target.id
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    missing = {
        (name, place)
        for name, place in (*touched(), *overridden())
        if name not in listed | PLAIN | OURS | own
    }
    assert missing == set()


def test_whatever_is_listed_is_touched() -> None:
    seen = {name for name, _ in (*touched(), *overridden())}
    assert [part for part in PARTS if names_of(part)[1] not in seen] == []


# a library on which Faust sets no upper bound | a release that must not be installed with it
UNTRIED: Final = """
aiokafka       | 0.15.0rc1
aiokafka       | 0.15.0
mode-streaming | 0.8.0
intervaltree   | 4.0.0
rocksdict      | 0.4.0
"""


@pytest.mark.parametrize("case", UNTRIED.strip().splitlines())
def test_a_release_that_nobody_has_tried_is_kept_away(case: str) -> None:
    library, release = (part.strip() for part in case.split("|"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (bound,) = [
        requirement.specifier
        for line in project["dependencies"]
        if (requirement := Requirement(line)).name == library
    ]
    assert bound.contains(version(library))
    assert not bound.contains(release, prereleases=True)
