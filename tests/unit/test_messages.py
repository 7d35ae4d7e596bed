"""What people read names no classes, and shows no dicts, lists, bytes or enums of Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorlog.errors import BadInput, in_words, name_in_words

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("mirrorlog", "producers", "streams", "consumers")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(ROOT / "mirrorlog" / "simulation")
)
PYTHON_CALLS = frozenset(
    {"asdict", "dict", "list", "repr", "set", "sorted", "tuple", "type", "vars"}
)
PYTHON_NAMES = frozenset({"__class__", "__name__", "__qualname__"})
DISPLAYS = (ast.Dict, ast.DictComp, ast.List, ast.ListComp, ast.Set, ast.SetComp, ast.Tuple)
LEVELS = frozenset({"critical", "debug", "error", "exception", "info", "warning"})
NOT_FOR_PEOPLE = ("has no attribute",)
"""Texts of Python's own protocol, as of a module's __getattr__."""


def python_values(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, what) for each value in a text that would look like Python."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            if any(text in ast.unparse(node) for text in NOT_FOR_PEOPLE):
                continue
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    if part.conversion in (ord("r"), ord("a")):
                        yield part.lineno, "!r"
                    yield from looks_like_python(part.value)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("log", "_log", "logger")
        ):
            first, *values = node.args
            if isinstance(first, ast.Constant) and "%r" in str(first.value):
                yield first.lineno, "%r"
            for value in values:
                yield from looks_like_python(value)


def looks_like_python(value: ast.expr) -> Iterator[tuple[int, str]]:
    """Yield (line, what) if a value is printed as Python shows it."""
    if isinstance(value, DISPLAYS):
        yield value.lineno, "a list, tuple or dict"
    elif isinstance(value, ast.Attribute) and value.attr in PYTHON_NAMES:
        yield value.lineno, value.attr
    elif (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Name)
        and value.func.id in PYTHON_CALLS
    ):
        yield value.lineno, f"{value.func.id}()"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_text_shows_a_value_as_python_does(path: Path) -> None:
    assert list(python_values(ast.parse((ROOT / path).read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "source",
    [
        'f"it is {error!r}"',
        'f"{type(error).__name__} failed"',
        'f"partitions {sorted(numbers)}"',
        'f"pairs {(a, b)}"',
        'log.warning("lost %s", list(numbers))',
        'log.info("key %r", key)',
    ],
)
def test_the_rule_finds_what_it_forbids(source: str) -> None:
    assert list(python_values(ast.parse(source)))


class NodeNotReadyError(Exception):
    """As aiokafka's error of that name."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NodeNotReadyError("NodeNotReadyError: Attempt to send"), "Attempt to send"),
        (NodeNotReadyError("[Error 7] RequestTimedOutError"), "node not ready error"),
        (NodeNotReadyError(), "node not ready error"),
        (NodeNotReadyError("[Error 29] NodeNotReadyError: a.b"), "node not ready error: a.b"),
        (TimeoutError(), "timeout error"),
        (OSError(28, "No space left on device", "/x"), "No space left on device"),
        (KeyError("volume"), "there is no volume"),
        (ValueError("4 bytes follow the record"), "4 bytes follow the record"),
        (BadInput("it is no event", where="here"), "it is no event (here)."),
    ],
)
def test_an_exception_is_told_in_words(error: Exception, text: str) -> None:
    assert in_words(error) == text


def test_the_name_of_a_class_is_words() -> None:
    class HTTPTrackingCommand:
        pass

    assert name_in_words(HTTPTrackingCommand) == "http tracking command"
