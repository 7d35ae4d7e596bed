"""A process that reads file systems, and why it ended: its library may crash on what lies there."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import IO, Final

from mirrorlog.errors import BadUse
from mirrorlog.processes.dies_with_parent import dies_with_parent

_LINE_BYTES: Final = 1 << 20
_MAX_COMPLAINT: Final = 500
_EXPLAINED: Final = {
    signal.SIGXCPU: "it used all the processor time that it may use",
    signal.SIGKILL: "it was killed: the machine may lack memory",
}


def need_library(purpose: str, *, otherwise: str = "") -> None:
    """Raise BadUse unless the library that reads file systems is installed.

    purpose: what it does here, for people: `files are named`. otherwise: what else can be done.
    """
    if find_spec("pytsk3") is None:
        install = "Install mirrorlog with the extra `files`: pip install 'mirrorlog[files]'."
        raise BadUse(
            f"{purpose} with the package pytsk3, which isn't installed",
            next=f"{install} {otherwise}".strip(),
        )


def start_reader(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process that takes a request on stdin and answers on stdout. It dies with this one.

    The caller kills it, and closes its pipes.
    """
    return subprocess.Popen(
        dies_with_parent(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class LastLine:
    """The last line on a pipe that isn't empty. A thread reads the pipe, until its end."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._text = pipe, ""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def text(self) -> str:
        """Return the line, once the process that wrote to the pipe has ended."""
        self._listener.join(1)
        return self._text

    def _listen(self) -> None:
        while line := self._pipe.readline(_LINE_BYTES):
            if text := line[:_MAX_COMPLAINT].decode("utf-8", "replace").strip():
                self._text = text


def why_ended(code: int, complaint: str, *, otherwise: str) -> str:
    """Return why a process ended before it had answered, for people.

    code: as of subprocess.Popen. complaint: its LastLine on stderr. otherwise: what to say if
    nothing tells.
    """
    if code < 0:
        number = signal.Signals(-code)
        return _EXPLAINED.get(number, f"it ended by {number.name}")
    if "MemoryError" in complaint:
        return "it used all the memory that it may use"
    return complaint or otherwise
