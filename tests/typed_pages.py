"""Shell blocks of a page for users, typed in their order as a reader types them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deadlines import DEADLINE_S

_BLOCK: Final = re.compile(r"^```(sh)?\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_MARK: Final = "<<< the end of a block >>>"


def shell_blocks(text: str) -> list[str]:
    """Return the shell blocks of a page, as they are written."""
    return [block for kind, block in _BLOCK.findall(text) if kind == "sh"]


def shown_outputs(text: str) -> dict[int, str]:
    """Return the outputs that a page shows, by the index of the shell block before each."""
    shown: dict[int, str] = {}
    index = -1
    for kind, block in _BLOCK.findall(text):
        if kind == "sh":
            index += 1
        else:
            shown[index] = block
    return shown


def type_blocks(
    blocks: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Type the blocks into one bash, which ends at the first command that fails and names it.

    It prints a mark after each block, for outputs_of().
    """
    end = f"\necho '{_MARK}'\n"
    script = "trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n" + end.join([*blocks, ""])
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_S,
        check=False,
    )


def outputs_of(stdout: str) -> list[str]:
    """Return what each of the blocks printed on stdout, of those that were typed to their end."""
    return stdout.split(f"{_MARK}\n")[:-1]


def lacking_lines(shown: str, printed: str) -> list[str]:
    """Return the lines that a page shows and the output lacks, in this order.

    Loosely: the words of a line must be in one line of the output, with others between them.
    """
    lines = iter(printed.splitlines())
    lacking = []
    for line in shown.splitlines():
        words = [re.escape(word) for word in line.split()]
        wanted = re.compile(r"(^|\s)" + r"\s(.*\s)?".join(words) + r"(\s|$)")
        if not any(wanted.search(there) for there in lines):
            lacking.append(line)
    return lacking
