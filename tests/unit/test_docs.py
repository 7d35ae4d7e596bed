"""The documentation names nothing that doesn't exist: links, anchors, files, classes, functions.

Pages are checked against the files that git knows. Source files are checked for the pages that
their docstrings and messages name.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(r"`([\w.-][\w./-]*\.(?:py|c|h|md|avsc|json|toml|yml|properties))`")
NAMED_PAGE = re.compile(r"\bdocs/[\w/-]+\.md\b")
NAMED_SYMBOL = re.compile(r"`(\w+(?:\.\w+)*)(?:\(\))?`")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def tracked_files() -> list[str]:
    """Return the files that git knows, and those that it would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if (REPOSITORY / name).is_file()]


FILES = tracked_files()
PAGES = [name for name in FILES if name.endswith(".md")]
SOURCES = [name for name in FILES if name.endswith((".py", ".c", ".h", ".toml", ".avsc"))]


def anchors(page: str) -> set[str]:
    """Return the anchors of the page's headings, as GitHub makes them."""
    titles = [re.sub(r"[`*]", "", title).strip().lower() for title in HEADING.findall(page)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def broken_links(text: str, folder: Path) -> Iterator[str]:
    """Yield the relative links of a page in `folder` whose target doesn't exist.

    The target is the file, its heading, or the class or function of a `.py` file that the text of
    the link names in backticks.
    """
    for title, link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = folder / path
        page = target.read_text() if target.is_file() and target.suffix == ".md" else text
        if (path and not target.exists()) or (anchor and anchor not in anchors(page)):
            yield link
        elif (symbol := NAMED_SYMBOL.fullmatch(title)) and target.suffix == ".py":
            source = target.read_text()
            if not all(defines(source, name) for name in symbol[1].split(".")):
                yield f"{title} in {link}"


def defines(source: str, name: str) -> bool:
    """Return whether a source file defines a class, function or constant of this name."""
    return bool(re.search(rf"^\s*(?:class|def|async def) {name}\b|^{name}\b.* =", source, re.M))


def unknown_files(text: str, files: Collection[str]) -> Iterator[str]:
    """Yield the files that a page names in backticks and that none of `files` is or ends with."""
    for name in NAMED_FILE.findall(text):
        if not any(f"/{file}".endswith(f"/{name.removeprefix('mirrorlog/')}") for file in files):
            yield name


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    path = REPOSITORY / page
    assert list(broken_links(path.read_text(), path.parent)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    assert list(unknown_files((REPOSITORY / page).read_text(), FILES)) == []


def test_every_page_that_a_source_file_names_exists() -> None:
    named = {
        (source, page)
        for source in SOURCES
        if source != "tests/unit/test_docs.py"
        for page in NAMED_PAGE.findall((REPOSITORY / source).read_text())
    }
    assert len(named) > 50, "pages are named in another way"
    assert {(source, page) for source, page in named if page not in FILES} == set()


def test_bad_links_and_bad_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `heading`, here\n")
    (tmp_path / "code.py").write_text("class A:\n    def b(self): ...\n")
    text = (
        "# Own\n[good](there.md) [good](there.md#a-heading-here) [good](#own) [web](https://a.b)\n"
        "[`A.b`](code.py) [`A`](code.py) [`A.gone`](code.py)\n"
        "[bad](gone.md) [bad](there.md#gone) [bad](#gone)\n```\n[no link](gone.md)\n```\n"
        "`streams/there.py` `there.py` `gone/there.py` `gone.py` `/openapi.json`\n"
    )
    expected = ["`A.gone` in code.py", "gone.md", "there.md#gone", "#gone"]
    assert list(broken_links(text, tmp_path)) == expected
    files = ["streams/there.py", "elsewhere.py"]
    assert list(unknown_files(text, files)) == ["gone/there.py", "gone.py"]


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_a_page_is_above_100_columns(page: str) -> None:
    lines = (REPOSITORY / page).read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []
