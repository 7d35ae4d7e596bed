"""Asks a process of its own for the index of a device, and survives whatever becomes of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Final

from mirrorlog.consumers.file_names.file_index import FileIndex
from mirrorlog.consumers.file_names.index_format import unpack_index
from mirrorlog.consumers.file_names.scan import ScanRequest
from mirrorlog.errors import BadInput, BadUse, MirrorlogError, error_kind
from mirrorlog.processes.dies_with_parent import dies_with_parent

_READ_BYTES: Final = 1 << 20
_SCAN: Final = (sys.executable, "-m", "mirrorlog.consumers.file_names.scan")
_EXPLAINED: Final = {
    signal.SIGXCPU: "it used all the processor time that it may use",
    signal.SIGKILL: "it was killed: the machine may lack memory",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """What reading the file systems of one device may cost.

    memory_bytes: of the process. cpu_s: processor time. wall_s: until the answer is there.
    """

    memory_bytes: int = 8 << 30
    cpu_s: int = 1_800
    wall_s: float = 7_200.0


def index_of(
    address: str, limits: ScanLimits = ScanLimits(), *, command: Sequence[str] = _SCAN
) -> FileIndex:
    """Return the index of the file systems on a device, which is only read.

    address: a path, a file address or an NBD URI. command: what answers the request (scan.py).

    Raise BadUse without pytsk3; DeviceFailed if the device can't be opened or read; BadInput if
    what lies there crashed the reader, or took more than the limits allow.
    """
    if find_spec("pytsk3") is None:
        raise BadUse(
            "files are named with the package pytsk3, which isn't installed",
            next="Install mirrorlog with the extra `files`: pip install 'mirrorlog[files]'.",
        )
    request = ScanRequest(address=address, memory_bytes=limits.memory_bytes, cpu_s=limits.cpu_s)
    process = subprocess.Popen(
        dies_with_parent(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    talk = _Talk(process)
    try:
        talk.run(asdict(request), limits)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if process.returncode == 0:
        try:
            return unpack_index(talk.answer)
        except ValueError as error:
            raise _spoiled(address, f"its answer makes no sense: {error}") from error
    raise _error_of(address, process.returncode, talk)


class _Talk:
    """Sends the request and takes the answer, until the process has ended.

    answer: the bytes on stdout. complaint: the last line on stderr. killed: why it was killed from
    here; empty if it wasn't.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self.answer = b""
        self.complaint = ""
        self.killed = ""

    def run(self, request: dict[str, object], limits: ScanLimits) -> None:
        """Do it. A process that takes too long, or answers too much, is killed."""
        timer = threading.Timer(limits.wall_s, self._kill, [f"it took over {limits.wall_s:g} s"])
        listener = threading.Thread(target=self._keep_last_line, daemon=True)
        timer.start()
        listener.start()
        try:
            with suppress(BrokenPipeError):  # it has ended already, and its exit code says why
                self._stdin.write(json.dumps(request).encode() + b"\n")
                self._stdin.close()
            answer = bytearray()
            while part := self._stdout.read(_READ_BYTES):
                answer += part
                if len(answer) > limits.memory_bytes:
                    self._kill("its answer is too long")
            self._process.wait()
            self.answer = bytes(answer)
        finally:
            timer.cancel()
        listener.join(1)

    def _kill(self, why: str) -> None:
        self.killed = self.killed or why
        self._process.kill()

    def _keep_last_line(self) -> None:
        """Read stderr to its end, and keep its last line that isn't empty."""
        while line := self._stderr.readline(_READ_BYTES):
            if line.strip():
                self.complaint = line[:500].decode("utf-8", "replace").strip()


def _error_of(address: str, code: int, talk: _Talk) -> MirrorlogError:
    """Return what the end of the process means."""
    if talk.killed:
        return _spoiled(address, talk.killed)
    if code < 0:
        number = signal.Signals(-code)
        reason = _EXPLAINED.get(number, f"it ended by {number.name}")
        return _spoiled(address, reason)
    try:
        fields = json.loads(talk.answer)
        kind = error_kind(str(fields["code"]))
        if kind is not None:
            what, where, advice = (str(fields[name]) for name in ("what", "where", "next"))
            return kind(what, where=where, next=advice)
    except (ValueError, KeyError, TypeError):
        pass
    if "MemoryError" in talk.complaint:
        return _spoiled(address, "it used all the memory that it may use")
    return _spoiled(address, talk.complaint or f"it ended with exit code {code}")


def _spoiled(address: str, reason: str) -> BadInput:
    return BadInput(
        f"the file systems there couldn't be read in a process of their own: {reason}",
        where=address,
        next="Check the file system with its own tools. Without --files, everything is answered by "
        "blocks.",
    )
