"""The options of benchmarks that run some of their cases in turn, and the folder of their data."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


def add_case_options(
    parser: argparse.ArgumentParser, cases: Collection[str], *, short: str
) -> None:
    """Add --cases, --repeat, --dir, --short and --save. short: what --short does."""
    names = ", ".join(cases)
    parser.add_argument("--cases", default=",".join(cases), help=f"run these of {names}")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument(
        "--dir", type=Path, help="create the folder for all data here; it is removed afterwards"
    )
    parser.add_argument("--short", action="store_true", help=short)
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep a complete result without failures for docs/performance.md",
    )


def chosen_cases(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, cases: Collection[str]
) -> list[str]:
    """Return the names in --cases. End the program with a line if there is no such case."""
    names: list[str] = arguments.cases.split(",")
    if unknown := set(names) - set(cases):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    return names


@contextmanager
def data_folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Yield a new folder in --dir, or among temporary files, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="mirrorlog-bench-", dir=arguments.dir) as folder:
        yield Path(folder)
